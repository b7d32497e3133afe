"""The judge's key goes to the judge alone and is never shown; no request outlasts its deadline."""

import contextlib
import socket
import threading
import time

import pytest
from fake_judge import FakeJudge, body

from command_line import sightline
from sightline.errors import DataError
from sightline.evaluation.bench import JudgeRequest
from sightline.evaluation.judge import JudgeClient, load_judge
from sightline.evaluation.judges import http
from sightline.evaluation.judges.endpoint import EndpointBackend, endpoint_from, shown_url

KEY = "sk-very-secret-0123456789"
OPTIONS = {"model": "m", "url": "http://127.0.0.1:9", "timeout": 1, "tries": 1, "workers": 1, "parameters": None}


def request():
    return JudgeRequest(id="q", messages=[{"role": "user", "content": "rate"}])


def ask(url, *, key=KEY, timeout=5.0, tries=1):
    backend = EndpointBackend(name="m", url=url, key=key, timeout=timeout, tries=tries, backoff=0.01)
    return JudgeClient(backend).ask([request()])[0]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_the_key_follows_no_redirect(status):
    with FakeJudge(lambda number, asked: (200, {}, body("Rating: 6"), 0)) as other:
        place = f"http://user:pw@localhost:{other.server.server_port}/v1/chat/completions"
        with (
            FakeJudge(lambda number, asked: (status, {"Location": place}, b"", 0)) as fake,
            pytest.raises(
                DataError, match=f"answered {status}, a redirect to localhost:.*give the judge its own addr"
            ) as told,
        ):
            ask(fake.url)
        assert len(fake.requests) == 1 and not other.requests, "nothing was sent on"
        assert fake.headers[0]["Authorization"] == f"Bearer {KEY}" and KEY not in str(told.value)
        assert "pw" not in str(told.value)


@pytest.mark.parametrize(
    ("key", "says"),
    [
        (f"{KEY}\nsecond", "a line end, a blank or a letter beyond ASCII as sign 26"),
        (f"{KEY}\r\nX-Header: 1", "as sign 26"),
        (f"{KEY}\u2028", "as sign"),
        (f"Schlüssel{KEY}", "as sign 5"),
        ([KEY], "is no text"),
    ],
)
def test_a_key_that_cannot_be_sent_is_refused_and_not_shown(key, says):
    if isinstance(key, str) and key.strip() == KEY:
        assert endpoint_from({**OPTIONS, "key": key}, {}).key == KEY
        return
    with pytest.raises(DataError, match=says) as told:
        endpoint_from({**OPTIONS, "key": key}, {})
    assert KEY not in str(told.value) and told.value.__cause__ is None


def test_blanks_around_a_key_are_left_out_and_no_object_shows_it():
    for key in (f" {KEY}\n", f"{KEY}\r\n"):
        backend = endpoint_from({**OPTIONS, "key": ""}, {"OPENAI_API_KEY": key})
        assert backend.key == KEY and KEY not in repr(backend) and KEY not in backend.identity


def test_a_server_that_says_the_key_does_not_spread_it(tmp_path):
    def script(number, asked):
        return (400, {}, f"bad key {KEY}".encode(), 0)

    with FakeJudge(script) as fake:
        judge = load_judge("openai:m", {"url": fake.url, "key": KEY}, cache=tmp_path / "c", record=tmp_path / "r.jsonl")
        (reply,) = judge.ask([request()])
    assert reply.error == "HTTP 400: bad key ***"
    assert not any(KEY in path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    with (
        FakeJudge(lambda number, asked: (401, {}, f"bad key {KEY}".encode(), 0)) as fake,
        pytest.raises(DataError, match=r"bad key \*\*\*"),
    ):
        ask(fake.url)


@pytest.mark.parametrize("line", [f"key={KEY}: {{", f"url=[{KEY}", KEY, f"key={KEY}\nx"])
def test_the_command_line_does_not_repeat_the_key(line, tmp_path):
    done = sightline(
        *("eval", "run", "mmhal", "--model", "m", "--data", tmp_path, "--judge", "http://127.0.0.1:9"),
        *("--judge-option", line, "--judge-option", "model=m"),
    )
    assert done.code == 2 and "judge" in done.err and KEY not in done.err + done.out


def test_addresses_are_shown_without_their_secrets():
    assert shown_url(f"https://me:{KEY}@host:8/v1?api-key={KEY}#x") == "https://host:8/v1"
    with pytest.raises(DataError) as told:
        endpoint_from({**OPTIONS, "key": "", "url": f"ftp://me:{KEY}@host"}, {})
    assert KEY not in str(told.value)


# --- one deadline ------------------------------------------------------------------------------

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
DRIPS = {
    "nothing": b"",
    "status": b"HTTP/1.1 200 OK" + b"K" * 500,
    "headers": HEAD + b"X-Slow: " + b"x" * 500,
    "many headers": HEAD + b"X: y\r\n" * 90,
    "body": HEAD + b"Content-Length: 1000\r\n\r\n" + b" " * 500,
    "body without a length": HEAD + b"\r\n" + b" " * 500,
    "chunks": HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\n \r\n" * 90,
    "a refusal": b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 1000\r\n\r\n" + b"n" * 500,
}


@contextlib.contextmanager
def dripping(content):
    """A server that sends a byte every 20 ms, and after the last one nothing for a minute."""
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            with contextlib.suppress(OSError):
                connection, _ = server.accept()
                with connection:
                    connection.recv(1 << 16)
                    for place in range(len(content)):
                        if stop.wait(0.02):
                            return
                        connection.sendall(content[place : place + 1])
                    stop.wait(60)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}/v1"
        finally:
            stop.set()


@pytest.mark.parametrize("part", DRIPS)
def test_a_server_that_drips_is_given_up_at_the_deadline(part):
    with dripping(DRIPS[part]) as url:
        began = time.monotonic()
        reply = ask(url, timeout=0.3)
        took = time.monotonic() - began
    assert reply.text is None and "timed out" in reply.error
    assert 0.25 < took < 30, "each byte came in time, the reply did not"


def test_a_server_that_does_not_take_connections_is_given_up_as_well():
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        held = [socket.socket() for _ in range(4)]
        for one in held:
            one.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                one.connect(full.getsockname())
        began = time.monotonic()
        reply = ask(f"http://127.0.0.1:{full.getsockname()[1]}/v1", timeout=0.3)
        for one in held:
            one.close()
    assert reply.text is None and "timed out" in reply.error and time.monotonic() - began < 30


def test_a_reply_without_end_is_bounded(monkeypatch):
    monkeypatch.setattr(http, "LARGEST", 1000)
    with FakeJudge(lambda number, asked: (200, {}, b" " * 5000, 0)) as fake:
        reply = ask(fake.url)
    assert reply.text is None and "the reply has more than 1000 bytes" in reply.error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout": float("inf")}, "the judge option timeout is inf"),
        ({"timeout": float("nan")}, "the judge option timeout is nan"),
        ({"timeout": True}, "the judge option timeout is True"),
        ({"price_prompt": "dear"}, "price_prompt is 'dear'"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"url": 5, "x": 1}, "unknown options x"),
        ({"url": ["http://x"]}, r"the judge option url is \['http://x'\]. Give a text"),
        ({"parameters": {"seed": {1}}}, "the judge option parameters is"),
    ],
)
def test_judge_options_of_wrong_types_are_refused(options, message):
    with pytest.raises(DataError, match=message):
        load_judge("openai:m", {"url": "http://x", **options})


@pytest.mark.parametrize(
    "line",
    [
        "[1]",
        '"text"',
        "null",
        '{"id": 1, "text": 5}',
        '{"id": null, "text": "a"}',
        '{"id": 1, "text": "a", "attempt": "x"}',
        '{"id": 1, "text": "a", "attempt": null}',
        '{"id": [1], "text": "a"}',
        '{"id": 1, "id": 2, "text": "a"}',
        "[" * 5000,
        "\udcff",
        "1" * 5000,
    ],
)
def test_a_record_of_wrong_types_is_named_with_its_line(line, tmp_path):
    path = tmp_path / "judge.jsonl"
    path.write_bytes(b'{"id": 1, "text": "a"}\n' + line.encode("utf-8", "surrogateescape") + b"\n")
    with pytest.raises(DataError, match=r"judge\.jsonl:2: ") as told:
        load_judge(f"replay:{path}")
    assert len(str(told.value)) < 1000

"""What stands before the pages: this machine, the token, the bounds, and that nothing is loaded from elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from sightline.app.folders import Folders
from sightline.app.guard import COOKIE, LOGIN, Gate
from sightline.app.spec import AppSpec
from sightline.errors import DataError, RecipeError
from sightline.recipes.load import check_spec
from sightline.services.guard import of_this_machine

HOST = (b"host", b"127.0.0.1:7860")


async def echo(scope, receive, send):
    """Answers how many bytes it got."""
    got = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError("the client is gone")
        got += len(message.get("body", b""))
        if not message.get("more_body"):
            break
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": str(got).encode()})


def asked(
    gate: Gate, path: str = "/", *, query: bytes = b"", headers: Sequence = (HOST,), body: Sequence[bytes] = (b"",)
):
    """(status, headers, body) of one request, its body piece by piece."""
    pieces, sent = list(body), []
    method = "POST" if any(pieces) else "GET"
    scope = {"type": "http", "method": method, "path": path, "query_string": query, "headers": list(headers)}

    async def receive():
        piece = pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    async def send(message):
        sent.append(message)

    asyncio.run(gate(scope, receive, send))
    heads = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], heads, b"".join(one.get("body", b"") for one in sent[1:]).decode()


def gate(token: str = "", most: int = 100) -> Gate:
    return Gate(app=echo, token=token, most=most)


def test_without_a_token_this_machine_alone_is_answered() -> None:
    status, headers, body = asked(gate())
    assert (status, body) == (200, "0") and "default-src 'self'" in headers["content-security-policy"]
    assert "http" not in headers["content-security-policy"], "nothing may come from elsewhere"
    for host in (b"localhost:7860", b"[::1]:7860"):
        assert asked(gate(), headers=[(b"host", host)])[0] == 200
    for headers in ([(b"host", b"evil.example")], [HOST, (b"origin", b"http://evil.example")]):
        assert asked(gate(), headers=headers)[0] == 403
    assert asked(gate(), headers=[HOST, (b"origin", b"http://127.0.0.1:9999")])[0] == 403, (
        "another page of this machine"
    )
    assert asked(gate(), headers=[HOST, (b"origin", b"http://127.0.0.1:7860")])[0] == 200
    assert of_this_machine([]) and not of_this_machine([(b"host", b"10.0.0.1")])


def test_with_a_token_a_browser_shows_it_once() -> None:
    guarded = gate("s3cret")
    out = [(b"host", b"box:7860")]
    status, _, body = asked(guarded, headers=out)
    assert status == 401 and "Token" in body and "s3cret" not in body
    assert asked(guarded, LOGIN, query=b"token=wrong", headers=out)[0] == 401
    status, headers, _ = asked(guarded, LOGIN, query=b"token=s3cret", headers=out)
    assert (status, headers["location"]) == (303, "/")
    assert "HttpOnly" in headers["set-cookie"] and "SameSite=Strict" in headers["set-cookie"]
    assert "s3cret" not in headers["set-cookie"]
    cookie = headers["set-cookie"].partition(";")[0].encode()
    assert asked(guarded, headers=[*out, (b"cookie", b"a=b; " + cookie)])[::2] == (200, "0")
    assert asked(guarded, headers=[*out, (b"cookie", cookie), (b"origin", b"http://evil.example")])[0] == 403
    assert asked(guarded, headers=[*out, (b"cookie", f"{COOKIE}=guess".encode())])[0] == 401
    assert asked(guarded, headers=[*out, (b"authorization", b"Bearer s3cret")])[0] == 200
    assert asked(guarded, headers=[*out, (b"authorization", b"Bearer s3cre")])[0] == 401
    assert asked(guarded, LOGIN, headers=out, body=[b"token=", b"s3cret"])[0] == 303, "the form"
    assert asked(gate("s3cret"), headers=[*out, (b"cookie", cookie)])[0] == 401, "of another start of the app"


def test_bodies_are_bounded_whether_they_tell_their_length_or_not() -> None:
    assert asked(gate(), body=[b"x" * 100])[::2] == (200, "100")
    assert asked(gate(), headers=[HOST, (b"content-length", b"101")], body=[b"x"])[0] == 413
    status, _, body = asked(gate(), body=[b"x" * 60, b"x" * 60, b"x" * 60])
    assert status == 413 and "More than 100 bytes" in body


def test_a_stream_ends_whole_when_the_app_stops() -> None:
    """Pages listen to events for as long as they are open."""
    sent = []

    async def stop() -> None:
        guarded = Gate(app=listens, token="", most=100)

        async def listens_on() -> dict:
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: dict) -> None:
            sent.append(message)
            guarded.closing.set()

        await guarded({"type": "http", "method": "GET", "path": "/", "headers": [HOST]}, listens_on, send)

    async def listens(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"data: 1", "more_body": True})
        assert (await receive())["type"] == "http.disconnect"

    asyncio.run(asyncio.wait_for(stop(), 30))
    assert [one.get("more_body", False) for one in sent] == [False, True, False] and sent[-1]["body"] == b""


def test_other_machines_take_a_token() -> None:
    with pytest.raises(RecipeError, match="there is no token"):
        check_spec(AppSpec, "app options", host="0.0.0.0")
    assert check_spec(AppSpec, "app options", host="0.0.0.0", token="x").host == "0.0.0.0"
    assert "x1y2" not in repr(AppSpec(token="x1y2"))


def test_pages_of_others_and_from_outside_are_not_served(tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="the extra app (gradio) is absent")
    from sightline.app.desk import Desk
    from sightline.app.serve import page_of
    from sightline.report.page import write_report

    (tmp_path / "in").mkdir()
    (tmp_path / "scratch").mkdir()
    desk = Desk(folders=Folders.of([tmp_path / "in"]), speakers=(), scratch=tmp_path / "scratch")
    page = write_report(tmp_path / "in/report.html", title="A & B")
    assert page_of(desk, str(page)) == page
    made = write_report(tmp_path / "scratch/compare.html", title="made")
    assert page_of(desk, str(made)) == made
    (tmp_path / "in/mine.html").write_text("<script>alert(1)</script>")
    write_report(tmp_path / "outside.html", title="secret")
    (tmp_path / "in/link.html").symlink_to(tmp_path / "outside.html")
    for path in ("in/mine.html", "outside.html", "in/link.html", "in/none.html", "in", "scratch/../outside.html", "\0"):
        with pytest.raises(DataError):
            page_of(desk, str(tmp_path / path))


def test_a_name_that_is_too_long_is_in_no_folder(tmp_path: Path) -> None:
    assert not Folders.of([tmp_path]).holds(tmp_path / ("a" * 300 + ".html"))

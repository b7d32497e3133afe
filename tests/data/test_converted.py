"""``sightline data convert`` and ``fetch``: any layout becomes a Group file; the web is a server on loopback."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from PIL import Image
from typer.testing import CliRunner

from sightline.cli.app import app
from sightline.data.schema import read_groups
from sightline.errors import DataError

QUESTION, GOOD, BAD = "What is there?", "A lamp.", "A cat."


class Pictures(BaseHTTPRequestHandler):
    """Serves one picture, a text, more than is allowed, half of what it announces, and nothing else."""

    picture: ClassVar[bytes] = b""
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        found = {"/a.png": self.picture, "/text.png": b"hello", "/long": b"x" * 100_000, "/half": self.picture[:-9]}
        body = found.get(self.path)
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Length", str(len(self.picture if self.path == "/half" else body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    Image.new("RGB", (8, 6), "red").save(tmp_path / "a.png")
    Pictures.picture, Pictures.asked[:] = (tmp_path / "a.png").read_bytes(), []
    serving = ThreadingHTTPServer(("127.0.0.1", 0), Pictures)
    thread = threading.Thread(target=serving.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{serving.server_address[1]}"
    serving.shutdown()
    serving.server_close()
    thread.join()


def run(*arguments: Any) -> str:
    result = CliRunner().invoke(app, ["data", *map(str, arguments)])
    if result.exception is not None:
        raise result.exception
    return result.output


def rows_file(path: Path, *pictures: str) -> Path:
    rows = [{"question": QUESTION, "chosen": GOOD, "rejected": BAD, "image": picture} for picture in pictures]
    path.write_text(json.dumps(rows))
    return path


def test_a_converted_file_holds_the_groups_and_the_pictures_of_the_rows(tmp_path: Path) -> None:
    Image.new("RGB", (8, 6), "red").save(tmp_path / "a.png")
    rows = [
        {"kind": kind, "image": image, "text": json.dumps({"question": QUESTION, "chosen": GOOD, "rejected": BAD})}
        for kind, image in (("x", "a.png"), ("y", "a.png"), ("x", (tmp_path / "a.png").as_uri()))
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "groups.jsonl"
    said = run("convert", tmp_path / "rows.jsonl", "-o", out, "--where", "kind=x", "--rename", "kind=sort")
    assert f"2 of 2 rows kept, 2 with pictures: {out}" in " ".join(said.split())
    groups = list(read_groups(out))
    assert [[response.text for response in group.responses] for group in groups] == [[GOOD, BAD]] * 2
    assert [group.prompts[0].facts for group in groups] == [{"sort": "x"}] * 2
    assert [group.prompts[0].images for group in groups] == [(str(tmp_path / "a.png"),)] * 2
    run("convert", out, "-o", tmp_path / "again.jsonl")
    assert [g.prompts for g in read_groups(tmp_path / "again.jsonl")] == [g.prompts for g in groups]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "tri"], "--format is 'tri', expected one of auto, groups"),
        (["--rename", "a"], "--rename is 'a', expected name=value"),
        (["--limit", "2"], "picture 'gone.png' is missing"),
    ],
)
def test_what_cannot_be_converted_is_told(tmp_path: Path, arguments: list[str], message: str) -> None:
    rows = rows_file(tmp_path / "rows.json", "gone.png")
    with pytest.raises(Exception, match=message):
        run("convert", rows, "-o", tmp_path / "out.jsonl", *arguments)
    assert not (tmp_path / "out.jsonl").exists()


def test_pictures_are_fetched_once_within_bounds(tmp_path: Path, server: str) -> None:
    addresses = [f"{server}{path}" for path in ("/a.png", "/text.png", "/long", "/half", "/gone.png", "/a.png")]
    rows, out = rows_file(tmp_path / "rows.json", *addresses), tmp_path / "out.jsonl"
    options = ("-o", out, "--on-bad-row", "skip", "--max-megabytes", "0.05", "--timeout", "5")
    assert "1 of 5 pictures fetched, 0 were there" in run("fetch", rows, *options)
    groups = list(read_groups(out))
    assert [Path(group.prompts[0].images[0]).read_bytes() for group in groups] == [Pictures.picture] * 2
    listed = [json.loads(line) for line in (tmp_path / "out.jsonl.bad_rows.jsonl").read_text().splitlines()]
    assert [bad["row"] for bad in listed] == [2, 3, 4, 5] and {bad["reason"] for bad in listed} == {"missing image"}
    for bad, why in zip(listed, ("cannot identify", "more than 50000 bytes", "bytes came", "404"), strict=True):
        assert why in bad["error"] or "IncompleteRead" in bad["error"]
    Pictures.asked.clear()
    assert "0 of 4 pictures fetched, 1 were there" in run("fetch", rows, *options)
    assert "/a.png" not in Pictures.asked


def test_nothing_is_fetched_but_by_fetch(tmp_path: Path, server: str) -> None:
    rows = rows_file(tmp_path / "rows.json", f"{server}/a.png")
    with pytest.raises(DataError, match=r"is an address\. Fetch such pictures first: sightline data fetch"):
        run("convert", rows, "-o", tmp_path / "out.jsonl")
    assert Pictures.asked == []

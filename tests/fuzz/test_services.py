"""10,000 junk requests to each kind of service: no crash, no path outside the root, no unbounded memory.

``SIGHTLINE_FUZZ`` multiplies the number of requests (``make fuzz``).
"""

from __future__ import annotations

import asyncio
import base64
import copy
import io
import json
import random
from pathlib import Path
from typing import Any

import pytest
from killing import TIMES
from PIL import Image
from served import ask, running, spec

from sightline.services.bounds import Bounds
from sightline.services.build import build_service

REQUESTS = 2_500 * TIMES
TOGETHER = 25

JUNK: list[Any] = [
    None, True, False, 0, 1, -1, 2**70, 10**400, 1.5, 1e308, float("nan"), float("inf"), "", " ", "x", "\x00", "\ud83d",
    "ß\u0301", "a" * 3000, "9" * 5000, "../../outside.png", "/etc/passwd", "/dev/zero", "/proc/self/environ",
    "link.png", "up/outside.png", "pipe", "a.png\x00", "%2e%2e%2foutside.png", "file:///etc/passwd",
    "file:///../outside.png", "~",
    "http://localhost/x.png", "data:image/png;base64,AAAA", "iVBORw0KGgo" + "A" * 2000, "/9j/4AAQ", "a.png", ".", "..",
    [], {}, [[]], [{}], [None], ["x"], {"type": "image"}, {"type": "text", "text": None}, {"role": "user"},
    {"type": "image_url", "image_url": {"url": "../outside.png"}}, [[[[[[[[]]]]]]]], {"scene": {"objects": [{}]}},
    "There is a red star.", "{{answer}}", "10 stars and 400 moons", "Score: 7", "star " * 500, "scenes", "user",
]  # fmt: skip
BYTES = [b"", b"{", b"[" * 5000, b"\xff\xfe", b"nul", b'"' + b"\\ud800" * 50 + b'"', b"{}" * 100, b"9" * 5000, b"[NaN]"]
PATHS = ["/", "/..", "/../etc/passwd", "/health/", "/v1", "/docs", "/%2e%2e", "//critic", "/static/../x", "/\x00"]


def png() -> str:
    held = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(held, format="PNG")
    return base64.b64encode(held.getvalue()).decode()


def good(what: str) -> list[tuple[str, dict[str, Any]]]:
    """Requests that are answered."""
    shown = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + png()}}
    chat = {
        "model": "scenes", "temperature": 0, "max_tokens": 5, "seed": 1,
        "messages": [{"role": "system", "content": "x"}, {"role": "user", "content": [
            shown, {"type": "text", "text": "x"}]}],
    }  # fmt: skip
    critic = {"prompt": "Q?", "response": "A star.", "answer": "A star."}
    describe = {"prompt": "Is there a star?", "ground_truth": "Yes.", "response": "No."}
    generate = {"prompt": "A star.", "h": 32, "w": 32, "seed": 1, "save_dir": "out", "info": {"step": 1}}
    prompt = {"messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "x"}]}],
              "images": ["a.png"], "facts": {"scene": {"id": "s", "grid": 3, "pixels": 32, "objects": [
                  {"shape": "star", "colour": "red", "size": "small", "row": 0, "column": 0, "shift": [0, 0]}]},
                  "kind": "caption", "truth": "", "tempting": []}}  # fmt: skip
    score = {"id": "a", "prompts": [prompt], "responses": [{"text": "A star.", "prompt": 0}]}
    return {
        "judge": [("/v1/chat/completions", chat), ("/critic", critic)],
        "describe": [("/describe", describe)],
        "image": [("/generate", generate), ("/generate", {"prompt": "A star.", "h": 32, "w": 32, "image": "a.png"})],
        "reward": [("/score", score)],
    }[what]


def memory() -> int:
    """Bytes of this process; 0 where the system does not tell."""
    told = Path("/proc/self/statm")
    return int(told.read_text().split()[1]) * 4096 if told.exists() else 0


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a JSON value."""
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [place for key in keys for place in [(value, key), *places(value[key])]]


def damaged(rng: random.Random, body: dict[str, Any]) -> bytes:
    if rng.random() < 0.1:
        return rng.choice(BYTES)
    body = copy.deepcopy(body)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        container, key = rng.choice(places(body) or [(body, "x")])
        if rng.random() < 0.2 and isinstance(container, dict):
            container.pop(key, None)
        elif rng.random() < 0.1 and isinstance(container, dict):
            container[rng.choice(["x", "\ud83d", "a" * 500, "__proto__"])] = copy.deepcopy(rng.choice(JUNK))
        else:
            container[key] = copy.deepcopy(rng.choice(JUNK))
    content = json.dumps(body).encode()
    if rng.random() < 0.1:
        place = rng.randrange(len(content))
        content = content[:place] + bytes([rng.randrange(256)]) + content[place + 1 :]
    return content


def request(rng: random.Random, what: str) -> dict[str, Any]:
    path, body = rng.choice(good(what))
    made: dict[str, Any] = {"path": path, "body": damaged(rng, body)}
    if rng.random() < 0.03:
        made["path"] = rng.choice(PATHS)
    if rng.random() < 0.03:
        made["method"] = rng.choice(["GET", "PUT", "DELETE", "OPTIONS", "HEAD", "X"])
    if rng.random() < 0.03:
        made["headers"] = [rng.choice([(b"content-length", b"junk"), (b"content-length", b"9" * 40), (b"x", b"\xff")])]
    if rng.random() < 0.03:
        made["hang_up"] = 0.001
    return made


@pytest.mark.parametrize("what", ["judge", "describe", "image", "reward"])
def test_junk_is_refused_and_nothing_else_happens(what: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "a.png").write_bytes(base64.b64decode(png()))
    (tmp_path / "outside.png").write_bytes(base64.b64decode(png()))
    (root / "link.png").symlink_to(tmp_path / "outside.png")
    (root / "up").symlink_to(tmp_path)
    before = {path: path.lstat().st_mtime_ns for path in tmp_path.iterdir() if path != root}
    app = build_service(spec(what, root=root, bounds=Bounds(company=0.0, batch=16, queue=64)))
    rng, seen = random.Random(what), dict[int, int]()

    async def all_of_them() -> tuple[int, int]:
        grown = []
        async with running(app):
            for part in range(0, REQUESTS, TOGETHER):
                replies = await asyncio.gather(*(ask(app, **request(rng, what)) for _ in range(TOGETHER)))
                for status, _, content in replies:
                    seen[status] = seen.get(status, 0) + 1
                    assert status < 500, content
                    assert len(content) < 20_000
                if part in (REQUESTS // 2 // TOGETHER * TOGETHER, REQUESTS - TOGETHER):
                    grown.append(memory())
            assert not list(app_scratch(app))
            path, body = good(what)[0]
            status, _, content = await ask(app, path, body)
            assert status in (200, 422) and json.loads(content)
        return grown[0], grown[-1]

    half, whole = asyncio.run(all_of_them())
    assert whole - half < 30_000_000, f"{whole - half} bytes more after as many requests"
    assert app.held == 0
    assert {path: path.lstat().st_mtime_ns for path in tmp_path.iterdir() if path != root} == before
    written = {path.name for path in root.iterdir() if path.is_symlink() or not path.is_dir()}
    assert written <= {"a.png", "link.png", "up"} | ({"data.jsonl"} if what == "image" else set())
    assert seen.get(422, 0) > REQUESTS / 3


def app_scratch(app: Any) -> Any:
    service = next(cell.cell_contents for cell in app.metrics.gauges["waiting"].__closure__)
    return service.pictures.scratch.iterdir()

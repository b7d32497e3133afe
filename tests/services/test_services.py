"""What every service does: token, bounds, batches, pictures, metrics."""

import asyncio
import base64
import io
import json
import os
import re
import threading
import time

import pytest
from PIL import Image
from served import ask, asked, running, spec

from sightline.services.batching import Batcher, Refused
from sightline.services.bounds import Bounds
from sightline.services.build import build_service
from sightline.services.metrics import Metrics
from sightline.services.pictures import Pictures

CRITIC = {"prompt": "Describe.", "response": "A red star.", "answer": "There is a red star."}


def png(colour="red", size=(8, 8)):
    held = io.BytesIO()
    Image.new("RGB", size, colour).save(held, format="PNG")
    return held.getvalue()


def batcher(run, **bounds):
    return Batcher(run=run, bounds=Bounds(**{"company": 0.02, **bounds}), metrics=Metrics())


def submitted(made, *items):
    """Results, or the errors, of items that come at the same time."""

    async def all_of_them():
        async with made.running():
            return await asyncio.gather(*map(made.submit, items), return_exceptions=True)

    return asyncio.run(all_of_them())


def test_items_are_worked_on_together_and_come_back_in_their_places():
    batches = []

    def run(items):
        batches.append(list(items))
        return [10 * item for item in items]

    assert submitted(batcher(run, batch=4), *range(10)) == [10 * n for n in range(10)]
    assert batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_one_that_fails_fails_alone():
    def run(items):
        return [1 // item for item in items]

    ones = submitted(batcher(run, batch=8), 1, 0, 1)
    assert ones[0] == ones[2] == 1
    assert isinstance(ones[1], Refused) and (ones[1].status, "ZeroDivisionError" in ones[1].message) == (500, True)


def test_a_full_queue_refuses_and_keeps_what_it_has():
    def run(items):
        time.sleep(0.02)
        return items

    found = submitted(batcher(run, batch=1, queue=3), *range(8))
    assert found[:3] == [0, 1, 2] and {one.status for one in found[3:]} == {429}


def test_what_takes_too_long_is_told_so_and_what_waits_behind_it_is_not_worked_on():
    worked = []

    def run(items):
        worked.extend(items)
        time.sleep(0.3)
        return items

    found = submitted(batcher(run, batch=1, seconds=0.1), "first", "second")
    assert [one.status for one in found] == [504, 504] and worked == ["first"]


def test_work_of_a_client_that_has_gone_is_not_done():
    app = build_service(spec(bounds=Bounds(company=0.2)))

    async def gone():
        async with running(app):
            return await ask(app, "/critic", CRITIC, hang_up=0.01), await ask(app, "/health")

    (status, _, _), (_, _, health) = asyncio.run(gone())
    assert status == 0 and json.loads(health)["waiting"] == 0
    assert app.metrics.requests["/critic", 499] == 1 and "sightline_batches_total 0" in app.metrics.text()


@pytest.mark.parametrize(
    ("given", "status"),
    [(b"Bearer right", 200), (b"Bearer wrong", 401), (b"right", 401), (b"", 401), (b"Bearer right ", 401)],
)
def test_the_token_is_demanded_of_all_but_health(given, status):
    app = build_service(spec(token="right", host="0.0.0.0"))
    headers = [(b"authorization", given)] if given else []
    (told, body), (metrics, _, _), (health, _) = (
        asked(app, ("/critic", CRITIC), headers=headers)[0],
        asyncio.run(ask(app, "/metrics", headers=headers)),
        asked(app, ("/health", None))[0],
    )
    assert (told, metrics, health) == (status, status, 200)
    assert status == 200 or "bearer token" in body["error"]["message"]


def test_without_a_token_another_host_name_is_refused():
    """A page in a browser may have a name that leads to 127.0.0.1."""
    app = build_service(spec())
    assert asked(app, ("/critic", CRITIC), host=b"evil.example:8002")[0][0] == 403
    names = (b"localhost:8002", b"[::1]:1", b"127.0.0.9:8002", b"LOCALHOST")
    assert [asked(app, ("/critic", CRITIC), host=name)[0][0] for name in names] == [200] * 4
    for origin, status in ((b"http://evil.example", 403), (b"null", 403), (b"http://localhost:3000", 200)):
        assert asked(app, ("/critic", CRITIC), headers=[(b"origin", origin)])[0][0] == status


def test_beyond_this_machine_there_is_no_service_without_a_token():
    for host in ("0.0.0.0", "::", "192.168.1.1", "example.org"):
        with pytest.raises(ValueError, match=r"there is no token. Set SIGHTLINE_TOKEN"):
            spec(host=host)
    assert [spec(host=host).host for host in ("127.0.0.9", "::1", "localhost")]


def test_bodies_are_bounded_and_let_go():
    app = build_service(spec(bounds=Bounds(body=300)))
    assert asked(app, ("/critic", CRITIC | {"response": "x" * 300}))[0][0] == 413
    assert asked(app, ("/critic", CRITIC), headers=[(b"content-length", b"9" * 30)])[0][0] == 413
    assert app.held == 0
    full = build_service(spec(bounds=Bounds(held=200, company=0.1)))
    assert sorted(status for status, _ in asked(full, *[("/critic", CRITIC)] * 4)) == [200, 200, 429, 429]
    assert full.held == 0


def test_a_body_that_does_not_come_is_given_up():
    app = build_service(spec(bounds=Bounds(upload=0.05)))

    async def never():
        await asyncio.Event().wait()

    async def one():
        sent = []

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "path": "/critic", "method": "POST", "headers": [(b"host", b"localhost")]}
        await app(scope, never, send)
        return sent[0]["status"]

    assert asyncio.run(one()) == 408


def test_metrics_are_prometheus_text_and_name_known_routes_alone():
    app = build_service(spec())
    asked(app, ("/critic", CRITIC), ("/critic", {}), ("/x\n{}", {}))
    text = app.metrics.text()
    for line in text.strip().splitlines():
        assert re.fullmatch(r'# TYPE \w+ (counter|gauge)|\w+(\{(\w+="[\w/.]*",?)+\})? [\d.e+-]+', line), line
    assert 'sightline_requests_total{route="/critic",status="200"} 1' in text
    assert 'sightline_requests_total{route="/critic",status="422"} 1' in text
    assert 'sightline_requests_total{route="other",status="404"} 1' in text
    assert "sightline_batch_items_total 1" in text and "sightline_held_bytes 0" in text


def test_health_says_when_the_work_is_stuck():
    app, asked = build_service(spec(bounds=Bounds(seconds=0.05))), threading.Event()

    async def stuck():
        async with running(app):
            batch = next(c.cell_contents for c in app.metrics.gauges["waiting"].__closure__).batcher
            batch.run = lambda items: asked.wait(60) and [None]
            first = await ask(app, "/critic", CRITIC)
            await asyncio.sleep(0.1)
            health = await ask(app, "/health")
            asked.set()
            return first[0], health

    status, health = asyncio.run(stuck())
    assert status == 504 and health[0] == 503 and json.loads(health[2])["status"] == "stuck"


@pytest.fixture
def root(tmp_path):
    (tmp_path / "root/sub").mkdir(parents=True)
    (tmp_path / "root/a.png").write_bytes(png())
    (tmp_path / "root/sub/b.png").write_bytes(png("blue"))
    (tmp_path / "outside.png").write_bytes(png("green"))
    (tmp_path / "root/link.png").symlink_to(tmp_path / "outside.png")
    (tmp_path / "root/up").symlink_to(tmp_path)
    (tmp_path / "root/inner.png").symlink_to(tmp_path / "root/a.png")
    (tmp_path / "root/round").symlink_to(tmp_path / "root/round")
    (tmp_path / "root2").mkdir()
    (tmp_path / "root2/c.png").write_bytes(png())
    os.mkfifo(tmp_path / "root/pipe")
    return tmp_path / "root"


def taken(root, tmp_path, *names, **bounds):
    (tmp_path / "scratch").mkdir(exist_ok=True)
    pictures = Pictures(scratch=tmp_path / "scratch", root=root, bounds=Bounds(**bounds))
    with pictures.taken(names) as paths:
        colours = [Image.open(path).convert("RGB").getpixel((0, 0)) for path in paths]
    assert not list((tmp_path / "scratch").iterdir())
    return colours


RED, BLUE = (255, 0, 0), (0, 0, 255)


def test_pictures_come_as_bytes_and_as_paths_below_the_root(root, tmp_path):
    coded = base64.b64encode(png()).decode()
    names = [coded, f"data:image/png;base64,{coded}", "a.png", str(root / "a.png"), "sub/../a.png", "inner.png"]
    assert taken(root, tmp_path, *names, f"file://{root}/sub/b.png", "sub/b.png") == [RED] * 6 + [BLUE] * 2


def test_base64_of_a_jpeg_begins_like_a_path_and_is_none(root, tmp_path):
    held = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(held, format="JPEG")
    coded = base64.b64encode(held.getvalue()).decode()
    assert coded.startswith("/9j/") and taken(root, tmp_path, coded)[0][0] > 250


@pytest.mark.parametrize(
    "name",
    [
        "../outside.png", "sub/../../outside.png", "link.png", "up/outside.png", "/etc/passwd", "..", "", ".", "pipe",
        "../root2/c.png", "a.png\0", "\0", "round/x.png", "%2e%2e/outside.png", "..%2foutside.png", "~/a.png",
        "file:///etc/passwd", "file://host/../outside.png", "file:///%2e%2e/outside.png", "http://localhost/a.png",
        "/proc/self/environ", "/dev/zero", "sub", "no.png", "x" * 5000, "\ud800", "data:image/png,x",
        "data:image/png;base64,!!", "....//outside.png", "//etc/passwd", "..\\outside.png",
        "/proc/self/root/etc/passwd",
    ],
)  # fmt: skip
def test_no_path_leads_out_of_the_root(root, tmp_path, name):
    with pytest.raises(Refused) as told:
        taken(root, tmp_path, name)
    assert told.value.status == 422 and told.value.message.startswith("picture 1: ")
    assert len(told.value.message) < 300


def test_a_file_that_is_exchanged_for_a_link_while_it_is_read_is_refused(root, tmp_path, monkeypatch):
    real = os.open

    def exchanged(path, *rest, **more):
        (root / "sub").rename(root / "gone")
        (root / "sub").symlink_to(tmp_path / "root2")
        return real(path, *rest, **more)

    (tmp_path / "root2/b.png").write_bytes(png("green"))
    monkeypatch.setattr("sightline.services.pictures.os.open", exchanged)
    with pytest.raises(Refused, match="not below the root"):
        taken(root, tmp_path, "sub/b.png")


def test_pictures_are_bounded(root, tmp_path):
    for bounds, name, words in [
        ({"picture": 50}, "a.png", "more than 50 bytes"),
        ({"picture": 50}, base64.b64encode(png()).decode(), "more than 50 bytes|cannot be read"),
        ({"pixels": 63}, "a.png", "64 pixels, expected 63"),
    ]:
        with pytest.raises(Refused, match=words):
            taken(root, tmp_path, name, **bounds)
    with pytest.raises(Refused, match="3 pictures, expected 2"):
        taken(root, tmp_path, *["a.png"] * 3, pictures=2)
    with pytest.raises(Refused, match="reads and writes no paths"):
        taken(None, tmp_path, "a.png")

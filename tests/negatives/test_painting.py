"""Descriptions, gates and image services: what is asked, what is understood, and what becomes of what fails."""

from __future__ import annotations

import base64
import io
import json
import os
import struct
import threading
import time
import zlib
from collections import Counter
from pathlib import Path

import pytest
from fake_judge import FakeJudge, body
from PIL import Image

from fake_server import FakeServer
from sightline.data.schema import group_from_json, group_to_json
from sightline.errors import DataError, ServiceError
from sightline.negatives.build import build_generated
from sightline.negatives.describe import read_description
from sightline.negatives.gate import ClipGate, load_gate
from sightline.negatives.generated import negative_of
from sightline.negatives.image_service import ImageService
from sightline.negatives.painting import Gallery, Order, Unpainted
from sightline.negatives.pairs import Lost, Made, pair_of
from sightline.negatives.relate import generated_relation
from sightline.recipes.negatives import DescribeSpec, GateSpec, GeneratedSpec, PaintSpec
from sightline.recipes.schema import VisualSpec
from sightline.rewards.terms import Failure
from sightline.types import Edge, Group, Prompt, Response


def png(colours=((255, 0, 0), (0, 0, 255)), size=(8, 8)) -> bytes:
    picture = Image.new("RGB", size, colours[0])
    picture.paste(colours[1], (0, 0, size[0] // 2, size[1]))
    held = io.BytesIO()
    picture.save(held, format="PNG")
    return held.getvalue()


def sent(content: bytes) -> dict:
    return {"image": base64.b64encode(content).decode()}


class Images(FakeServer):
    """``script(number of requests before, request) -> (status, content)``."""

    def __init__(self, script=lambda number, request: (200, sent(png()))):
        super().__init__("generate")
        self.script = script

    def answer(self, number, request):
        status, content = self.script(number, request)
        return status, {}, content


def describing(text=lambda question: "A beach with a blue umbrella.", **reply):
    return FakeJudge(lambda _, request: (200, {}, body(text(request["messages"][-1]["content"]), **reply), 0))


@pytest.fixture
def kite(tmp_path) -> Group:
    picture = tmp_path / "kite.png"
    picture.write_bytes(png(((9, 9, 9), (200, 200, 0)), (20, 10)))
    content = [{"type": "image"}, {"type": "text", "text": "What is the boy holding?"}]
    prompt = Prompt(id="kite", messages=({"role": "user", "content": content},), images=(str(picture),))
    texts = ("The boy is holding a red kite.", "A blue umbrella.", "A dog.")
    return Group(
        prompts=(prompt,),
        responses=tuple(Response(text=text, reward=8.0 - 3 * n) for n, text in enumerate(texts)),
        edges=(Edge(winner=0, loser=1), Edge(winner=0, loser=2)),
        source="rows.jsonl:1",
    )


def generated(folder, judge, images, *, kind="text_to_image", gate=None, failed="drop", **paint):
    paint = {"tries": 3, "pause": 0.01, "timeout": 5.0} | paint
    if kind == "text_to_image":
        paint = {"width": 8, "height": 8} | paint
    spec = GeneratedSpec(
        kind=kind,
        describe=DescribeSpec(judge=f"http://127.0.0.1:{judge.port}/v1", options={"model": "m", "tries": 1}),
        paint=PaintSpec(urls=tuple(one.url for one in images), **paint),
        gate=gate,
        failed=failed,
    )  # fmt: skip
    return build_generated(spec, folder=folder, seed=3)


def test_the_describer_is_given_the_roles_as_published(kite, tmp_path):
    """The rejected answer stands where the fitting one is asked for: the picture shows the hallucination."""
    with describing() as judge, Images() as images:
        generated(tmp_path / "n", judge, [images])([kite])
    asked = [request["messages"][-1]["content"] for request in judge.requests]
    last = [text.rpartition("Now this one.")[2].strip().splitlines() for text in asked]
    assert sorted(last) == [
        [
            "QUESTION: What is the boy holding?",
            f"FITTING answer: {rejected}",
            "WRONG answer: The boy is holding a red kite.",
            "PICTURE:",
        ]
        for rejected in ("A blue umbrella.", "A dog.")
    ]
    assert all(request["temperature"] == 0.1 and request["max_tokens"] == 128 for request in judge.requests)
    body = images.requests[0]
    assert {name: body[name] for name in ("prompt", "h", "w", "num_inference_steps", "guidance_scale")} == {
        "prompt": "A beach with a blue umbrella.", "h": 8, "w": 8, "num_inference_steps": 40, "guidance_scale": 7.5,
    }  # fmt: skip
    assert body["info"]["chosen_response"] == "The boy is holding a red kite."
    assert len({request["seed"] for request in images.requests}) == 2  # a seed of its own for every pair


def test_published_constants_are_the_defaults():
    paint, describe = PaintSpec(path="black-forest-labs/FLUX.1-dev"), DescribeSpec(judge="openai:m")
    found = (paint.width, paint.height, paint.steps, paint.guidance, paint.prompt_tokens, paint.dtype, paint.pause)
    assert found == (384, 384, 40, 7.5, 512, "bfloat16", 3.0)
    assert (describe.temperature, describe.max_tokens) == (0.1, 128)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("A red kite on a beach.", "A red kite on a beach."),
        ("  \n PICTURE: A red\nkite.\n", "A red kite."),
        ("**Image description:** 'Two dogs, no cat.'", "Two dogs, no cat."),
        ("Here is the description you asked for: A star.", "A star."),
        ('```json\n{"description": "A star over a hill."}\n```', "A star over a hill."),
        ('{"image": 3, "caption": "A star."}', "A star."),
        ("{not json} a star", "{not json} a star"),
        ("“Ein roter Drachen.”", "Ein roter Drachen."),
        ("", None),
        (" \n -- \n", None),
        ("I'm sorry, but I can't describe this.", None),
        ("I cannot help with that.", None),
        ("word " * 2000, None),
    ],
)
def test_descriptions_are_read_whatever_stands_around_them(reply, expected):
    assert read_description(reply) == expected


def test_thoughts_are_no_description_and_half_a_sentence_is_cut(kite, tmp_path):
    replies = {"umbrella": "<think>A kite? no.</think> A man. A blue umbrel", "dog": "<think>Let me see"}
    judge = describing(lambda text: replies["dog" if "answer: A dog" in text else "umbrella"], finish="length")
    with judge, Images() as images:
        group, pairings = generated(tmp_path / "n", judge, [images])([kite])[0]
    assert [request["prompt"] for request in images.requests] == ["A man."]
    assert [one.outcome for one in pairings] == ["made", "undescribed"]
    assert len(judge.requests) == 3  # what holds no description is asked once more
    assert len(group.edges) == 1 and len(group.prompts) == 2
    assert pairings[1].group.prompts[1].facts["reason"].startswith("no description in")


def test_each_pair_has_its_picture_and_all_of_it_is_on_disk(kite, tmp_path):
    with describing() as judge, Images(lambda n, _: (200, sent(png(((n, 9, 9), (1, 2, 3)))))) as images:
        maker = generated(tmp_path / "n", judge, [images])
        group, pairings = maker([kite])[0]
        again, _ = generated(tmp_path / "n", judge, [images])([kite])[0]
    assert again == group and len(images.requests) == len(judge.requests) == 2  # nothing is paid for twice
    negatives = [negative_of(group, edge) for edge in group.edges]
    assert [p.id for p in negatives] == [p.id for p in group.prompts[1:]] and negatives[0].images != negatives[1].images
    for pairing, negative in zip(pairings, negatives, strict=True):
        row = group_from_json(json.loads(json.dumps(group_to_json(pairing.group))))
        assert row == pairing.group and row.prompts[1] == negative and row.edges == (Edge(winner=0, loser=1),)
        assert negative.facts["description"] == "A beach with a blue umbrella."
        assert Path(negative.images[0]).is_file()
    assert [one.group.responses[1].text for one in pairings] == ["A blue umbrella.", "A dog."]


class Term:
    remote = False

    def __init__(self, values):
        self.given = values

    def values(self, groups):
        self.seen = [(group.prompts[0].images, [r.text for r in group.responses]) for group in groups]
        return [self.given] * len(groups)


@pytest.mark.parametrize(
    ("values", "spec", "outcome"),
    [
        ([0.3, 0.2], {}, None),
        ([0.2, 0.3], {}, "refused"),
        ([0.3, 0.25], {"margin": 0.1}, "refused"),
        ([0.3, 0.1], {"least": 0.35}, "refused"),
        ([Failure(reason="too long"), 0.1], {}, "failed"),
    ],
)
def test_the_clip_gate(kite, values, spec, outcome):
    term = Term(values)
    gate = ClipGate(spec=GateSpec(kind="clip", path="clip", **spec), term=term)
    pair = pair_of(kite, kite.edges[0], 0)
    (found,) = gate([(pair, Made(image="made.png"))])
    assert term.seen == [(("made.png",), ["A blue umbrella.", "The boy is holding a red kite."])]
    assert (found.outcome if isinstance(found, Lost) else None) == outcome
    assert outcome == "failed" or found.facts["clip"]["rejected"] == values[0]


@pytest.mark.parametrize(("reply", "outcome"), [("Yes, it does.", None), ("**No**.", "refused"), ("Hm.", "failed")])
def test_the_question_gate(kite, tmp_path, reply, outcome):
    made = tmp_path / "made.png"
    made.write_bytes(png())
    with FakeJudge(lambda *_: (200, {}, body(reply), 0)) as judge:
        spec = GateSpec(kind="question", judge=f"http://127.0.0.1:{judge.port}/v1", options={"model": "m", "tries": 1})
        (found,) = load_gate(spec, tmp_path / "cache")([(pair_of(kite, kite.edges[0], 0), Made(image=str(made)))])
    text = json.dumps(judge.requests[0]["messages"])
    assert "A blue umbrella." in text and "red kite" not in text and "image_url" in text
    assert (found.outcome if isinstance(found, Lost) else None) == outcome


def test_what_the_gate_refuses_is_painted_again_with_another_seed(kite, tmp_path):
    """The first picture of each pair is refused, the second one passes."""
    seen = Counter()

    def verdict(_, request):
        text = json.dumps(request["messages"])
        pair = "dog" if "A dog." in text else "umbrella"
        seen[pair] += 1
        return 200, {}, body("no" if seen[pair] == 1 else "yes"), 0

    with (
        describing() as judge,
        FakeJudge(verdict) as looker,
        Images(lambda n, _: (200, sent(png(((n, 9, 9), (1, 2, 3)))))) as images,
    ):
        gate = {"judge": f"http://127.0.0.1:{looker.port}/v1", "options": {"model": "m"}}
        twice = generated(tmp_path / "n", judge, [images], gate=GateSpec(kind="question", tries=2, **gate))
        assert [one.outcome for one in twice([kite])[0][1]] == ["made"] * 2
        seeds = [request["seed"] for request in images.requests]
        assert len(set(seeds)) == 4
        seen.clear()
        once = generated(tmp_path / "m", judge, [images], gate=GateSpec(kind="question", **gate), failed="stop")
        group, pairings = once([kite])[0]  # what is refused is no failure of a service
    assert group is None and [one.outcome for one in pairings] == ["refused"] * 2  # fmt: skip


def test_edits_and_boxes_are_of_the_true_picture(kite, tmp_path):
    with describing() as judge, Images(lambda *_: (200, sent(png(size=(20, 10))))) as images:
        edit = generated(tmp_path / "e", judge, [images], kind="edit")([kite])[0][0]
        asked = judge.requests[0]["messages"][-1]["content"]
        paint = generated(tmp_path / "i", judge, [images], kind="inpaint")([kite])[0][0]
    assert "retoucher" in judge.requests[0]["messages"][0]["content"] and asked.endswith("INSTRUCTION:")
    first, last = images.requests[0], images.requests[-1]
    assert Image.open(io.BytesIO(base64.b64decode(first["image"]))).size == (20, 10) and "mask" not in first
    box = paint.prompts[-1].facts["box"]
    mask = Image.open(io.BytesIO(base64.b64decode(last["mask"])))
    assert mask.getbbox() in [tuple(p.facts["box"]) for p in paint.prompts[1:]] and mask.size == (20, 10)
    assert 0.1 < (box[2] - box[0]) * (box[3] - box[1]) / 200 < 0.6 and len(edit.edges) == 2


def order(**fields):
    return Order(text="a star", seed=1, **fields)


def service(images, folder, **fields):
    values = {"tries": 3, "pause": 0.01, "timeout": 2.0} | fields
    spec = PaintSpec(urls=tuple(one.url for one in images), **values)
    return ImageService(spec=spec, kind="text_to_image", folder=folder)


def ppm() -> bytes:
    """A picture that Pillow reads, in none of the formats that are read of strangers (as EPS, which runs a program)."""
    held = io.BytesIO()
    Image.effect_noise((8, 8), 9).save(held, format="PPM")
    return held.getvalue()


def huge() -> bytes:
    """A few hundred bytes that say that they are 100,000 pixels wide and high."""
    content = bytearray(png())
    content[16:24] = struct.pack(">II", 100_000, 100_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


JUNK = [
    (200, b"not json"),
    (200, {"image": "%%%"}),
    (200, {"image": base64.b64encode(b"not a picture").decode()}),
    (200, {"path": "/etc/hostname"}),
    (200, {"path": "../../outside.png"}),
    (200, {"path": 3}),
    (200, []),
    (200, {}),
    (200, {"image": base64.b64encode(png()[:40]).decode()}),
    (500, {"detail": "out of memory"}),
    (422, {"detail": "no such field"}),
    (200, sent(ppm())),
    (200, sent(huge())),
    (200, {"path": "s/pipe"}),
    (200, {"path": "outside.png"}),
    (200, {"path": "s/../outside.png"}),
    (200, {"path": "s/link.png"}),
]


@pytest.mark.parametrize("junk", JUNK, ids=lambda junk: repr(junk)[:60])
def test_a_service_that_returns_junk_loses_its_picture_alone(junk, tmp_path):
    (tmp_path / "s").mkdir()
    os.mkfifo(tmp_path / "s/pipe")
    (tmp_path / "outside.png").write_bytes(png())
    (tmp_path / "s/link.png").symlink_to(tmp_path / "outside.png")
    if isinstance(junk[1], dict) and isinstance(junk[1].get("path"), str):
        junk = (200, {"path": str(tmp_path / junk[1]["path"])})
    with Images(lambda n, request: junk if request["seed"] == 1 else (200, sent(png()))) as images:
        painter = Gallery(painter=service([images], tmp_path / "s"), folder=tmp_path)
        bad, good = painter.paint([order(), Order(text="a star", seed=2)])
    refused = junk[0] == 422  # for what it asks: it would be refused again
    assert isinstance(bad, Unpainted) and Path(good).is_file()
    assert ("HTTP 422" if refused else "3 tries") in bad.reason
    assert [request["seed"] for request in images.requests].count(1) == (1 if refused else 3)
    assert len(list(tmp_path.glob("painted-*.png"))) == 1


@pytest.mark.parametrize("status", [200, 401, 422, 500])
@pytest.mark.parametrize("before", [40, 290])
def test_a_service_that_says_its_token_again_has_it_in_no_message(status, before, tmp_path, monkeypatch):
    """Not even the part of it that stands where a message is cut."""
    token = "s3cret" + "x" * 30
    monkeypatch.setenv("SIGHTLINE_TOKEN", token)
    with Images(lambda *_: (status, b"a" * before + token.encode())) as images:
        painter = service([images], tmp_path, tries=1)
        try:
            told = dict(painter.paint([order()]))[0].reason
        except DataError as error:
            told = str(error)
    assert "aaaa" in told and "s3c" not in told
    assert token not in repr(painter)


def test_a_path_below_the_shared_folder_is_read(tmp_path):
    shared = tmp_path / "s"
    shared.mkdir()
    (shared / "made.png").write_bytes(png())
    with Images(lambda *_: (200, {"path": str(shared / "made.png")})) as images:
        (path,) = Gallery(painter=service([images], shared), folder=tmp_path / "g").paint([order()])
    assert images.requests[0]["save_dir"] == str(shared) and Image.open(path).size == (8, 8)


def test_a_service_that_hangs_is_left_after_its_time_and_another_is_asked(tmp_path):
    ended = threading.Event()

    def hang(*_):
        ended.wait(60)
        return 200, sent(png())

    with Images(hang) as slow, Images() as quick:
        painter = service([slow, quick], tmp_path, timeout=1.0)
        began = time.monotonic()
        found = dict(painter.paint([order(), order(), order(), order()]))
        ended.set()
        assert time.monotonic() - began < 50
    assert all(isinstance(one, Image.Image) for one in found.values())
    assert len(slow.requests) < 4 <= len(quick.requests)  # the one with the least to do, and then the other


def test_wrong_addresses_end_the_run_and_dead_ones_lose_the_pictures(kite, tmp_path):
    with (
        Images(lambda *_: (404, {"detail": "no such route"})) as images,
        pytest.raises(DataError, match=r"HTTP 404.*urls"),
    ):
        list(service([images], tmp_path).paint([order()]))
    gone = Images()
    gone.server.server_close()
    with describing() as judge:
        group, pairings = generated(tmp_path / "a", judge, [gone])([kite])[0]
        assert group is None and {one.outcome for one in pairings} == {"failed"}
        assert "refused" in pairings[0].group.prompts[1].facts["reason"]
        with pytest.raises(ServiceError, match=r"the negative picture of kite failed .*Connection refused"):
            generated(tmp_path / "b", judge, [gone], failed="stop")([kite])


def test_a_pair_without_its_picture_may_be_trained_by_its_answers_alone(kite, tmp_path):
    """One has its picture, the other does not; the comparison of its answers stays, as it is without pictures."""
    script = lambda _, request: (200, sent(png())) if "dog" in str(request["info"]) else (422, {})  # noqa: E731
    with describing() as judge, Images(script) as images:
        group, pairings = generated(tmp_path / "n", judge, [images], failed="text")([kite])[0]
    assert [one.outcome for one in pairings] == ["failed", "made"] and group.edges == kite.edges
    relate = {
        bare: generated_relation(VisualSpec(relation="ovip"), folder=tmp_path, seed=0, bare=bare)
        for bare in (True, False)
    }
    made = relate[True](group)
    texts = [(edge.kind, made.responses[edge.loser].text) for edge in made.edges]
    assert [kind for kind, _ in texts] == ["text", "text", "image", "image"]
    assert texts[0] == ("text", "A blue umbrella.") and texts[1] == ("text", "A dog.")
    with pytest.raises(DataError, match="has no negative picture"):
        relate[False](group)


def test_a_describer_that_is_away_loses_pairs_and_no_picture_is_asked_for(kite, tmp_path):
    away = FakeJudge(lambda *_: (503, {}, {"error": "busy"}, 0))
    with away, Images() as images:
        _, pairings = generated(tmp_path / "n", away, [images])([kite])[0]
    assert [one.outcome for one in pairings] == ["undescribed"] * 2 and not images.requests


def test_pictures_that_can_be_no_negative_are_none(kite, tmp_path):
    flat, same = png(((5, 5, 5), (5, 5, 5))), Path(kite.prompts[0].images[0]).read_bytes()
    for content, reason in ((flat, "one colour"), (same, "unchanged")):
        with Images(lambda *_, content=content: (200, sent(content))) as images:
            painter = Gallery(painter=service([images], tmp_path), folder=tmp_path / reason)
            (found,) = painter.paint([order(picture=kite.prompts[0].images[0])])
        assert isinstance(found, Unpainted) and reason in found.reason


def test_giving_up_ends_the_waiting(tmp_path):
    with Images(lambda *_: (500, {})) as images:
        painter = service([images], tmp_path, tries=100, pause=30.0)
        painter.give_up()
        began = time.monotonic()
        assert "given up" in dict(painter.paint([order()]))[0].reason and time.monotonic() - began < 1


def test_prompts_without_the_one_picture_are_refused_before_an_answer_is_sampled(kite, tmp_path):
    with describing() as judge, Images() as images:
        maker = generated(tmp_path / "n", judge, [images])
    bare = Group(prompts=(Prompt(id="bare", messages=({"role": "user", "content": "hm"},)),), source="rows.jsonl:7")
    with pytest.raises(DataError, match=r"rows.jsonl:7: prompt 'bare' has 0 pictures"):
        maker.check([kite, bare])

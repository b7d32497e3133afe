"""Data files of benchmarks with wrong types at random places: a figure, or an error that names file and row."""

import json
import os
import random
import shutil
from pathlib import Path

import pytest

from evaluation.slices import Slices
from sightline.errors import SightlineError
from sightline.evaluation.bench import ANSWERS, Answer, JudgeReply, Result
from sightline.evaluation.benches import MODULES, load_bench

TRIES = 16 * int(os.environ.get("SIGHTLINE_FUZZ", "1"))
"""Of each benchmark."""
SCREEN = 1920
REPLIES = {
    "mmhal": "Rating: 4",
    "object_halbench": '["dog"]',
    "hallusionbench": "Correct.",
    "mm_instruct": "A",
    "llava_bench": "8 7\nBecause.",
    "llava_bench_coco": "8 7\nBecause.",
    "reefknot": "entailment",
}
WRONG = (
    *(None, True, False, 0, -1, 7, 3.5, float("nan"), float("inf"), 10**30, 1e300),
    *("", "x", " ", "\ud83d", "ü" * 3000, "../../etc", "1", "nan", [], {}, [None], ["x"], [[1]], {"x": 1}, [{}]),
    "delete",
)


class Judge:
    name = "always"

    def __init__(self, reply):
        self.reply = reply

    def ask(self, requests):
        return [JudgeReply(text=self.reply) for _ in requests]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("slices")
    made = Slices(root)
    made.everything()
    rule = {
        name: {"role": "Assistant", "prompt": "Rate."}
        for kind in ("conv", "detail", "complex")
        for name in (kind, f"llava_bench_{kind}")
    }
    for name in ("llava_bench", "llava_bench_coco"):
        (root / name / "rule.json").write_text(json.dumps(rule))
    return root


def places(value, here=()):
    """Every place in a value, itself first."""
    yield here
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*here, key))


def changed(value, place, wrong):
    """The value with what stands in a place replaced, or taken out."""
    if not place:
        return wrong
    first, *rest = place
    if not rest and wrong == "delete":
        if isinstance(value, dict):
            return {key: inner for key, inner in value.items() if key != first}
        return [inner for key, inner in enumerate(value) if key != first]
    kept = dict(value) if isinstance(value, dict) else list(value)
    kept[first] = changed(value[first], rest, wrong)
    return kept


def damage(path: Path, draw: random.Random) -> str:
    """Damages a file; what was done."""
    content = path.read_bytes()
    kind = draw.random()
    if kind < 0.1 or path.suffix == ".txt":
        cut = draw.randrange(len(content))
        junk = draw.choice([b"", b"\x00", b"\xff\xfe", b"[" * 3000, b"\t", b"\n\n", b'{"a":', b"9" * 5000])
        path.write_bytes(content[:cut] + junk + (content[cut:] if draw.random() < 0.5 else b""))
        return f"{junk[:10]!r} at byte {cut}"
    text = content.decode()
    try:
        value, lines = json.loads(text), False
    except json.JSONDecodeError:
        value, lines = [json.loads(line) for line in text.splitlines()], True
    place, wrong = draw.choice(list(places(value))), draw.choice(WRONG)
    value = changed(value, place, wrong)
    if draw.random() < 0.05 and isinstance(value, list) and value:
        value.append(value[0])
    many = isinstance(value, list) and lines
    path.write_text("".join(json.dumps(row) + "\n" for row in value) if many else json.dumps(value))
    return f"{wrong!r:.40} at {place}"


@pytest.mark.parametrize("name", MODULES)
def test_wrong_types_in_data_files_are_figures_or_errors_never_tracebacks(name, data, tmp_path):
    draw, bench = random.Random(name), load_bench(name)
    answers = [Answer(id=one.id, text="Yes, a dog") for one in bench.questions(data / name)]
    names = sorted(
        one.relative_to(data / name) for one in (data / name).rglob("*") if one.suffix in (".json", ".jsonl", ".txt")
    )
    assert names
    errors = 0
    for number in range(TRIES):
        folder = tmp_path / str(number)
        shutil.copytree(data / name, folder, ignore=shutil.ignore_patterns("*.jpg", "*.png", "*.webp"))
        file = draw.choice(names)
        what = f"try {number}: {file}: {damage(folder / file, draw)}"
        protocol = draw.choice(bench.protocols)
        try:
            asked = bench.questions(folder)
            chosen = {one.id for one in asked if protocol in one.meta.get("protocols", [protocol])}
            given = [one for one in answers if one.id in chosen] if draw.random() < 0.5 else answers
            result = bench.grade(folder, given, protocol, {}, Judge(REPLIES.get(name, "A")))
            assert isinstance(result, Result) and result.metrics, what
        except SightlineError as error:
            errors += 1
            told = str(error)
            assert len(told) < SCREEN, f"{what}: {told}"
            assert "\n" not in told, f"{what}: {told}"
            known = any(one.name in told for one in names) or str(folder) in told
            assert known or told.startswith((f"{ANSWERS}: ", f"{name}: ", "option match: ")), f"{what}: {told}"
        except Exception as error:
            raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
        shutil.rmtree(folder)
    assert errors > TRIES / 16, "the damage is found"

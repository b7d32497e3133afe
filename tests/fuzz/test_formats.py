"""A thousand damaged rows of every format give a thousand errors, each with file and row and none longer than a screen.

Damage that leaves a row that can be trained on is no error: such a row is rendered and laid out. ``SIGHTLINE_FUZZ``
multiplies the number of rows (``make fuzz``).
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from format_samples import SAMPLES, Sample, cells, encoded, parquet, placed, png, save_pictures, source, webdataset
from test_rows import FACTOR, JUNK, KEYS, damage, line

from sightline.data.load import load_dataset_spec
from sightline.data.render import Renderer
from sightline.data.validate import BadRow
from sightline.errors import DataError
from sightline.models.layout import lay_out
from sightline.models.limits import Limits
from sightline.models.load import load_policy
from sightline.recipes.schema import DatasetSpec, DataSpec, ModelSpec
from sightline.types import Group

ERRORS = 1000 * FACTOR
AT_ONCE = 500
"""Damaged rows in a file."""
PICTURES = [b"", b"no picture", png(0)[:40], png(0)[:-30], b"\x89PNG\r\n\x1a\n", png(1)]
TEXTS: list[Any] = [None, "", " ", "x", "{", "[]", "<image>", "<image><image>", "http://x.org/a.png", "a\x00b", "</s>"]


@pytest.fixture(scope="module")
def rendering(tiny: dict[str, Path]) -> tuple[Renderer, Callable[[Group], object]]:
    policy = load_policy(ModelSpec(path=str(tiny["llava"])), trainable=False)
    renderer = Renderer(policy.processor, policy.family, limits=Limits.of(policy.config))
    return renderer, lambda group: lay_out([renderer.render(group)], "tree", policy.family, policy.config)


def spoilt(made: Sample, row: dict[str, Any], rng: random.Random) -> Any:
    """The row with one to three faults, as its kind of file can hold them."""
    if made.write is parquet:
        return {key: stored(value, rng) if rng.random() < 0.4 else value for key, value in row.items()}
    if made.write is webdataset:
        return (line(damage(row, rng, JUNK), rng), png(0)) if rng.random() < 0.8 else (row, rng.choice(PICTURES))
    if made.write.__qualname__.startswith("table"):
        return cut(cells(row), rng)
    return line(damage(row, rng, JUNK), rng).strip() or b"{"  # a line without anything is no row


def stored(value: Any, rng: random.Random) -> Any:
    """Another value of the type that a column has."""
    if isinstance(value, dict):
        return rng.choice([None, {**value, "bytes": rng.choice(PICTURES)}, {"bytes": None, "path": "gone.png"}])
    if isinstance(value, str) and len(value) > 3 and rng.random() < 0.3:
        place = rng.randrange(len(value))
        return value[:place] + rng.choice('{}[]",:x ') + value[place + rng.randrange(2) :]
    return rng.choice(TEXTS) if isinstance(value, str) else None


def cut(row: list[str], rng: random.Random) -> list[str]:
    """Cells with one too many, one too few, or another one."""
    for _ in range(rng.choice((1, 1, 2))):
        place, kind = rng.randrange(len(row)), rng.randrange(4)
        if kind == 0 and len(row) > 1:
            del row[place]
        elif kind == 1:
            row.insert(place, rng.choice(("", "x", "[]", "0.png")))
        elif kind == 2 and row[place]:
            at = rng.randrange(len(row[place]))
            row[place] = row[place][:at] + rng.choice('{}[]",:x ') + row[place][at + rng.randrange(2) :]
        else:
            row[place] = rng.choice(["", " ", "{", "[]", "null", "[null]", '[""]', "gone.png", "x" * 5000, *KEYS[1:9]])
    return row


def screen_lines(text: str) -> int:
    return sum(max(1, -(-len(line) // 80)) for line in text.splitlines())


def told(bad: BadRow) -> str:
    return f"{bad.file}, row {bad.row} (counted from 1): {bad.error}"


def damaged_rows(made: Sample, whole: list[Any], rng: random.Random) -> list[Any]:
    """The rows of a sample, damaged ones, and the rows of the sample again."""
    return [*whole, *(spoilt(made, copy.deepcopy(rng.choice(whole)), rng) for _ in range(AT_ONCE)), *whole]


@pytest.mark.parametrize("name", SAMPLES)
def test_a_thousand_damaged_rows_give_a_thousand_errors(name: str, tmp_path: Path, rendering: Any) -> None:
    save_pictures(tmp_path)
    made, rng, (renderer, use) = SAMPLES[name], random.Random(f"formats {name}"), rendering
    whole = [placed(row, tmp_path) for row in made.rows]
    errors = tried = 0
    while errors < ERRORS:
        rows = damaged_rows(made, whole, rng)
        spec = DataSpec(**source(made, tmp_path, rows))
        dataset = DatasetSpec(train=(spec,), on_bad_row="skip", max_length=2000)
        groups, report = load_dataset_spec(dataset, "train", tmp_path / "run", renderer.num_tokens)
        assert report.read == report.kept + len(report.bad) and report.kept == len(groups)
        if "where" not in made.spec:  # rows of another subset are not read
            assert report.read == len(rows)
        numbered = places(spec.path, rows)
        for bad in report.bad:
            assert len(whole) <= numbered[bad.file, bad.row] < len(rows) - len(whole)  # never a row that is whole
            assert screen_lines(told(bad)) <= 24
            told(bad).encode()
        for group in groups:
            use(group)
        errors += len(report.bad)
        tried += AT_ONCE
        assert tried < 6 * ERRORS, f"{errors} errors of {tried} rows"


def places(path: str, rows: list[Any]) -> dict[tuple[str, int], int]:
    """(file, row) of each of the rows."""
    shards = sorted(Path(path.partition("**")[0]).rglob("*.jsonl")) if "copy" in path else []
    half = (len(rows) + 1) // 2
    if shards:
        return {(str(shards[i // half]), i % half + 1): i for i in range(len(rows))}
    file = path.replace("dataset_info.json", "rows.jsonl")
    return {(file, i + 1): i for i in range(len(rows))}


@pytest.mark.parametrize("name", SAMPLES)
def test_an_error_says_what_the_list_of_bad_rows_says(name: str, tmp_path: Path) -> None:
    save_pictures(tmp_path)
    made, rng = SAMPLES[name], random.Random(f"errors {name}")
    whole = [placed(row, tmp_path) for row in made.rows]
    refused = 0
    while refused < 10:
        rows = [*whole, spoilt(made, copy.deepcopy(whole[0]), rng)]
        spec = DataSpec(**source(made, tmp_path, rows))
        _, report = load_dataset_spec(DatasetSpec(train=(spec,), on_bad_row="skip"), "train", tmp_path / "run")
        if not report.bad:
            continue
        refused += 1
        with pytest.raises(DataError) as caught:
            load_dataset_spec(DatasetSpec(train=(spec,)), "train", tmp_path / "run")
        assert str(caught.value).rstrip(".") == told(report.bad[0]).rstrip(".")
        assert encoded(str(caught.value))

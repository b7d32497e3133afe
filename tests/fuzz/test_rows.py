"""Rows with random damage: each is kept whole or is a bad row, and nothing else happens.

``SIGHTLINE_FUZZ`` multiplies the number of rows (``make fuzz``).
"""

from __future__ import annotations

import copy
import csv
import gzip
import io
import json
import os
import random
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from sightline.data.load import Account, groups_from_records, load_dataset_spec
from sightline.data.render import Renderer
from sightline.data.schema import read_groups
from sightline.data.validate import BAD_ROWS, Checks, DataReport
from sightline.errors import DataError, SightlineError
from sightline.models.layout import lay_out
from sightline.models.limits import Limits
from sightline.models.load import load_policy
from sightline.recipes.schema import DatasetSpec, DataSpec, ModelSpec
from sightline.types import Group

FACTOR = int(os.environ.get("SIGHTLINE_FUZZ", "1"))
ROWS = 300 * FACTOR
SCREEN = 1920
"""Characters of 24 lines of 80."""

JUNK: list[Any] = [
    None, True, False, 0, 1, -1, 7, 2**31, 2**33, 2**70, 10**400, 1.5, 1e39, 1e308, float("nan"), float("inf"),
    "", " ", "\n", "x", "ß\u0301", "a" * 300 + ".png", "a/" * 3000, "iVBORw0KGgo" + "A" * 12_000, "\x00", "a\x00b.png",
    "\ud83d", "ok \ude00", "<image>", "<image><image>", "</s>", "<s>", "<pad>", "<video>", "data:image/png;base64,AAAA",
    "http://example.com/a.png", "../../etc", "~", "a.mp4", [], {}, [[]], [{}], [None], ["x"], [1], [0.5], [True],
    {"bytes": "aGVsbG8="}, {"bytes": None, "path": None}, {"path": "0.png"}, {"type": "image"}, {"type": "video"},
    {"type": "text"}, {"type": "text", "text": None}, {"role": "user"}, {"role": "assistant", "content": "x"},
    {"from": "gpt", "value": "x"}, {"role": "tool", "content": []}, [[[[[[[[[[]]]]]]]]]], "word " * 20_000,
]  # fmt: skip
MEMORY: list[Any] = [
    b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xd9", bytearray(b"GIF89a"), object(), {1, 2}, np.float32(1), np.int64(3),
    Image.new("RGB", (3, 3)), Image.new("F", (3, 3)), Path("0.png"), (1, 2), range(3), {"bytes": [1, 2, 3]},
    {1: "x"}, {b"k": "v"}, complex(1, 2),
]  # fmt: skip
KEYS = [
    "", "id", "image", "images", "image_path", "videos", "prompt", "question", "chosen", "rejected", "completion",
    "messages", "label", "conversations", "score", "system", "facts", "tools", "rejected_images", "chosen_score",
    "rejected_conversations", "output_1", "output_2", "preference", "text", "completions", "labels", "annotations",
    "rejected_response", "rejected_messages", "query", "history", "instruction", "input", "output", "objects",
    "prompts", "responses", "edges", "tokens", "trained", "weights", "role", "content", "\ud83d", "k\x00", "x" * 5000,
]  # fmt: skip


def turns(*texts: str) -> list[dict[str, Any]]:
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]


def llava(*texts: Any) -> list[dict[str, Any]]:
    return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]


PARTS = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]
TRL = [
    {"prompt": "What?", "completion": "A lamp.", "images": ["0.png"], "id": 3},
    {"prompt": "What?", "chosen": "A lamp.", "rejected": "A cat.", "image": "0.png"},
    {"prompt": "What?", "chosen": "A lamp.", "rejected": "A cat.", "chosen_score": 1, "rejected_score": 0.5},
    {"messages": turns("<image>What?", "A lamp.", "Lit?", "Yes."), "images": ["0.png"]},
    {"prompt": PARTS, "completion": turns("x", "A lamp.")[1:], "images": ["0.png"], "facts": {"a": [1]}},
    {"question": "What?", "completion": "A lamp.", "label": True},
    {"prompt": "What?", "completions": ["A lamp.", "Lit."], "labels": [True, False]},
    {"messages": turns("What?"), "chosen": {"role": "assistant", "content": "A lamp."}, "rejected": "A cat."},
]
LLAVA = [
    {"id": "a", "image": "0.png", "conversations": llava("<image>\nWhat?", "A lamp.", "Lit?", "Yes.")},
    {"image": "0.png,1.png", "conversations": llava("<image>\nWhat?", ["good", "bad", "worse"])},
    {"conversations": llava("What?"), "chosen": "A lamp.", "rejected": {"from": "gpt", "value": "A cat."}},
    {"image": ["0.png"], "conversations": llava("<image>What?", "A lamp."), "score": 0.5, "system": "Be brief."},
]
EDGE = {"winner": 0, "loser": 1, "kind": "text", "weight": 0.5}
SAMPLED = {"text": "a", "tokens": [68], "trained": [True], "rollout_logprobs": [-0.5], "reward": 1.0}
GROUPS = [
    {
        "prompts": [{"id": "0", "messages": PARTS, "images": ["0.png"], "facts": {"a": 1}}],
        "responses": [SAMPLED, {"text": "b", "label": False}],
        "edges": [EDGE],
    },
    {
        "prompts": [{"id": "1", "messages": [*turns("q", "a"), *turns("q")]}],
        "responses": [
            {"text": "a", "tokens": [68], "weights": [1.0]},
            {"text": "b", "tokens": [69], "trained": [True]},
        ],
    },
]
ASKED = llava("<image>\nWhat?", "A lamp.")
POVID = [
    {"image": "0.png", "conversations": ASKED, "rejected_conversations": llava("<image>\nWhat?", "A cat.")},
    {
        "image": "1.png",
        "conversations": [*ASKED, *llava("Lit?", "Yes.")],
        "rejected_conversations": [*ASKED, *llava("Lit?", "No.")],
    },
]
RLHF_V = [
    {"image": "0.png", "text": json.dumps({"question": "What?", "chosen": "A lamp.", "rejected": "A cat."}), "idx": 3},
    {"image": {"bytes": None, "path": "1.png"}, "text": {"question": "?", "chosen": "a", "rejected": "b"}},
]
TWO = {"output_1": {"from": "llava", "value": "A cat."}, "output_2": {"from": "llava", "value": "A lamp."}}
LLAVA_RLHF = [
    {"id": 1, "image": "0.png", "conversations": ASKED, **TWO, "preference": 2, "hallucination": True},
    {"id": 2, "conversations": [*llava("What?", "x", "Lit?", "(replaced)")], **TWO, "preference": 1},
]
RATINGS = [
    {"response": text, "annotations": {"Helpfulness": {"Rating": rating}, "Ethics": {"Rating": 3, "Rationale": "so"}}}
    for text, rating in (("A lamp.", "5"), ("A cat.", "1"), ("Two lamps.", 3), ("?", "N/A"))
]
VLFEEDBACK = [
    {"prompt": "What?", "image": "0.png", "completions": RATINGS},
    {"prompt": "What?", "img_path": "1.png", "completions": {k: [r[k] for r in RATINGS] for k in RATINGS[0]}},
]
SWIFT = [
    {"messages": turns("<image>What?", "A lamp."), "rejected_response": "A cat.", "images": ["0.png"]},
    {
        "messages": turns("<image>What?", "A lamp."),
        "rejected_messages": turns("<image>What?", "A lamp."),
        "images": ["0.png"],
        "rejected_images": ["1.png"],
    },
    {"query": "<image>What?", "response": "A lamp.", "history": [["a", "b"]], "system": "s", "images": ["0.png"]},
    {"conversation": [{"human": "What?", "assistant": "A lamp."}], "system": "Be brief."},
]
ALPACA = [
    {"instruction": "What?", "input": "x", "output": "A lamp.", "history": [["a", "b"]], "images": ["0.png"]},
    {"instruction": "What?", "chosen": "A lamp.", "rejected": "A cat.", "system": "Be brief."},
]
FORMATS = {
    "trl": TRL,
    "llava": LLAVA,
    "groups": GROUPS,
    "povid": POVID,
    "rlhf_v": RLHF_V,
    "llava_rlhf": LLAVA_RLHF,
    "vlfeedback": VLFEEDBACK,
    "swift": SWIFT,
    "alpaca": ALPACA,
}


def places(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of everything inside a value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, one in inner for place in ((value, key), *places(one))]


def damage(row: Any, rng: random.Random, junk: list[Any]) -> Any:
    """A copy with one to three faults."""
    row = copy.deepcopy(row)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        container, key = rng.choice(places(row) or [({}, "")])
        kind = rng.randrange(6)
        if kind == 0 and key in (container if isinstance(container, dict) else range(len(container))):
            del container[key]
        elif kind == 1 and isinstance(container, dict):
            container[rng.choice(KEYS)] = container.pop(key, None)
        elif kind == 2:
            target = container if isinstance(container, dict) else row
            target[rng.choice(KEYS)] = copy.deepcopy(rng.choice(junk))
        elif kind == 3 and isinstance(container, list):
            container.insert(rng.randrange(len(container) + 1), copy.deepcopy(rng.choice(junk)))
        elif isinstance(container, dict) or key < len(container):
            container[key] = copy.deepcopy(rng.choice(junk))
    return row


def line(row: Any, rng: random.Random) -> bytes:
    """The row as JSON; now and then with bytes changed or the end missing."""
    text = bytearray(json.dumps(row).encode())
    if rng.random() < 0.15:
        for _ in range(rng.randrange(1, 4)):
            text[rng.randrange(len(text))] = rng.choice(b'{}[]",:\\u\xff\x00\xc3e9')
    if rng.random() < 0.05:
        del text[rng.randrange(len(text)) :]
    return bytes(text).replace(b"\n", b" ").replace(b"\r", b" ")


@pytest.fixture(scope="module")
def rendering(tiny: dict[str, Path]) -> tuple[Renderer, Callable[[Group], object]]:
    """A renderer, and what is done with every group that is kept."""
    policy = load_policy(ModelSpec(path=str(tiny["llava"])), trainable=False)
    renderer = Renderer(policy.processor, policy.family, limits=Limits.of(policy.config))

    def use(group: Group) -> object:
        return lay_out([renderer.render(group)], "tree", policy.family, policy.config)

    return renderer, use


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index in range(2):
        Image.new("RGB", (20 + index, 30), (90, 9, 200)).save(tmp_path / f"{index}.png")
    return tmp_path


def check(groups: list[Group], report: DataReport, use: Callable[[Group], object]) -> None:
    """Every row is accounted for, is usable, or is told about on one screen."""
    assert report.kept == len(groups) and report.read == report.kept + len(report.bad)
    for bad in report.bad:
        assert len(bad.error) < SCREEN, bad
        bad.error.encode()
    for group in groups:
        use(group)


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_lines_are_bad_rows(name: str, folder: Path, rendering: Any) -> None:
    rng, (renderer, use) = random.Random(f"lines {name}"), rendering
    rows = [line(damage(rng.choice(FORMATS[name]), rng, JUNK), rng) for _ in range(ROWS)]
    whole = [json.dumps(row).encode() for row in FORMATS[name]]
    (folder / "rows.jsonl").write_bytes(b"\n".join([*whole, *rows, *whole]))
    spec = DatasetSpec(train=(DataSpec(path=str(folder / "rows.jsonl")),), on_bad_row="skip", max_length=2000)
    groups, report = load_dataset_spec(spec, "train", folder / "run", renderer.num_tokens)
    check(groups, report, use)
    damaged = {bad.row for bad in report.bad}
    before, last = len(whole), 2 * len(whole) + ROWS
    assert not damaged & {*range(1, before + 1), *range(last - before + 1, last + 1)}
    assert len(damaged) > ROWS // 4
    listed = [json.loads(text) for text in (folder / "run" / BAD_ROWS).read_text(encoding="utf-8").splitlines()]
    assert len(listed) == len(report.bad)


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_records_in_memory_are_bad_rows(name: str, folder: Path, rendering: Any) -> None:
    rng, (renderer, use) = random.Random(f"memory {name}"), rendering
    whole = FORMATS[name]
    rows: list[Mapping[str, Any]] = [damage(rng.choice(whole), rng, JUNK + MEMORY) for _ in range(ROWS)]
    account = Account(
        checks=Checks(answers=True, max_length=2000, num_tokens=renderer.num_tokens),
        on_bad_row="skip",
        cache_dir=folder / "cache",
    )
    groups = groups_from_records([*whole, *rows, *whole], DataSpec(path="memory", image_dir=str(folder)), account)
    check(groups, account.report, use)
    assert not {bad.row for bad in account.report.bad} & {*range(1, len(whole) + 1)}


@pytest.mark.parametrize("name", FORMATS)
def test_an_error_of_a_damaged_line_names_file_and_row(name: str, folder: Path, rendering: Any) -> None:
    rng, (renderer, _) = random.Random(f"errors {name}"), rendering
    path = folder / "rows.jsonl"
    refused = tried = 0
    while refused < ROWS // 6:
        tried += 1
        rows = [json.dumps(FORMATS[name][0]).encode(), line(damage(rng.choice(FORMATS[name]), rng, JUNK), rng)]
        path.write_bytes(b"\n".join(rows))
        try:
            load_dataset_spec(DatasetSpec(train=(DataSpec(path=str(path)),)), "train", None, renderer.num_tokens)
        except SightlineError as error:
            refused += 1
            assert isinstance(error, DataError) and f"{path}, row 2 (counted from 1)" in str(error)
            assert len(str(error)) < SCREEN
    assert tried < 4 * refused


def test_a_damaged_table_is_told_about(folder: Path) -> None:
    rng = random.Random("tables")
    picture = (folder / "0.png").read_bytes()
    rows = [
        {"prompt": f"What {i}?", "chosen": "a", "rejected": "b é", "images": [{"bytes": picture, "path": "x.png"}]}
        for i in range(20)
    ]
    made, path = [], folder / "rows.parquet"
    for compression in ("none", "snappy"):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, compression=compression)
        made.append(path.read_bytes())
    spec, outcomes = DatasetSpec(train=(DataSpec(path=str(path)),), on_bad_row="skip"), set()
    for _ in range(ROWS // 3):
        data = bytearray(rng.choice(made))
        for _ in range(rng.choice((1, 1, 2, 5))):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data)
        try:
            groups, report = load_dataset_spec(spec, "train", folder / "run", None)
        except DataError as error:
            assert str(path) in str(error) and len(str(error)) < SCREEN
            outcomes.add("refused")
            continue
        assert report.kept == len(groups) and report.read == report.kept + len(report.bad)
        outcomes.add("some rows" if report.bad else "all rows")
    assert outcomes == {"refused", "some rows", "all rows"}


CELLS = {
    "id": "1",
    "messages": json.dumps(turns("<image>What?", "A lamp.")),
    "rejected_response": "A cat.",
    "images": '["0.png"]',
}


def cells(rng: random.Random) -> list[str]:
    """A row of a table with a cell too many, too few, or another one."""
    row = [*CELLS.values()]
    for _ in range(rng.choice((1, 1, 2))):
        place, kind = rng.randrange(len(row)), rng.randrange(6)
        if kind == 0:
            del row[place]
        elif kind == 1:
            row.insert(place, rng.choice(("", "x", "[]", "0.png")))
        elif kind == 2 and row[place]:
            cut = rng.randrange(len(row[place]))
            row[place] = row[place][:cut] + rng.choice('{}[]",:x ') + row[place][cut + rng.randrange(2) :]
        else:
            junk = rng.choice([value for value in JUNK if isinstance(value, str | list | dict)])
            text = junk if isinstance(junk, str) else json.dumps(junk)
            row[place] = text.encode(errors="replace").decode().replace("\x00", "0")
    return row


def test_damaged_cells_are_bad_rows(folder: Path, rendering: Any) -> None:
    rng, (renderer, use) = random.Random("cells"), rendering
    with (folder / "rows.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([[*CELLS], [*CELLS.values()], *(cells(rng) for _ in range(ROWS)), [*CELLS.values()]])
    spec = DatasetSpec(train=(DataSpec(path=str(folder / "rows.csv")),), on_bad_row="skip", max_length=2000)
    groups, report = load_dataset_spec(spec, "train", folder / "run", renderer.num_tokens)
    check(groups, report, use)
    damaged = {bad.row for bad in report.bad}
    assert report.read == ROWS + 2 and not damaged & {1, ROWS + 2} and len(damaged) > ROWS // 4


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl.gz", "rows.tar"])
def test_a_damaged_file_is_told_about(folder: Path, name: str) -> None:
    rng, path = random.Random(name), folder / name
    rows = [{"prompt": f"What {i}?", "chosen": "a", "rejected": "b é", "image": "0.png"} for i in range(20)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if name.endswith(".csv"):
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([[*rows[0]], *([*row.values()] for row in rows)])
    elif name.endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode()))
    else:
        with tarfile.open(path, "w") as tar:
            for i, row in enumerate(rows):
                member = tarfile.TarInfo(f"{i:03}.json")
                data = json.dumps(row).encode()
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    whole, refused = path.read_bytes(), 0
    spec = DatasetSpec(train=(DataSpec(path=str(path), image_dir=str(folder)),), on_bad_row="skip")
    for _ in range(ROWS // 3):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 1, 2, 5))):
            data[rng.randrange(len(data))] = rng.randrange(256)
        if rng.random() < 0.1:
            del data[rng.randrange(len(data)) :]
        path.write_bytes(data)
        try:
            groups, report = load_dataset_spec(spec, "train", folder / "run", None)
        except SightlineError as error:
            refused += 1
            assert str(path) in str(error) and len(str(error)) < SCREEN
            continue
        assert report.kept == len(groups) and report.read == report.kept + len(report.bad)
        assert all(len(bad.error) < SCREEN for bad in report.bad)
    assert refused


@pytest.mark.parametrize("formatting", ["alpaca", "sharegpt"])
def test_damaged_rows_of_an_entry_are_bad_rows(folder: Path, rendering: Any, formatting: str) -> None:
    rng, (renderer, use) = random.Random(formatting), rendering
    columns = {"prompt": "ask", "messages": "talk", "chosen": "good", "rejected": "bad", "images": "pictures"}
    entry = {"file_name": "rows.jsonl", "formatting": formatting, "ranking": True, "columns": columns}
    (folder / "dataset_info.json").write_text(json.dumps({"mine": entry}))
    row = {"ask": "What?", "talk": llava("<image>What?"), "pictures": ["0.png"]}
    row |= {"good": "A lamp.", "bad": {"from": "gpt", "value": "A cat."} if formatting == "sharegpt" else "A cat."}
    del row["talk" if formatting == "alpaca" else "ask"]
    whole = json.dumps(row).encode()
    rows = [whole, *(line(damage(row, rng, JUNK), rng) for _ in range(ROWS)), whole]
    (folder / "rows.jsonl").write_bytes(b"\n".join(rows))
    source = DataSpec(path=str(folder / "dataset_info.json"), entry="mine")
    spec = DatasetSpec(train=(source,), on_bad_row="skip", max_length=2000)
    groups, report = load_dataset_spec(spec, "train", folder / "run", renderer.num_tokens)
    check(groups, report, use)
    damaged = {bad.row for bad in report.bad}
    assert not damaged & {1, ROWS + 2} and len(damaged) > ROWS // 4


def test_a_damaged_group_file_names_its_line(folder: Path) -> None:
    rng, path = random.Random("group files"), folder / "groups.jsonl"
    refused = 0
    for _ in range(ROWS):
        rows = [json.dumps(GROUPS[0]).encode(), line(damage(rng.choice(GROUPS), rng, JUNK), rng)]
        path.write_bytes(b"\n".join(rows))
        try:
            list(read_groups(path))
        except DataError as error:
            refused += 1
            assert f"{path}:2: " in str(error) and len(str(error)) < SCREEN
    assert refused > ROWS // 4

"""Rows read the same wherever they lie: compressed, as tables, in shards, in tars, behind an entry."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from sightline.data.load import Account, groups_from_records, load_groups
from sightline.data.readers.sources import read_rows
from sightline.errors import DataError, RecipeError
from sightline.recipes.schema import DataSpec
from sightline.types import Group

ROWS = [
    {"id": str(n), "prompt": f'What, "exactly",\nis {n}?', "chosen": "A lamp é.", "rejected": "[1]", "image": "a.png"}
    for n in range(3)
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index, name in enumerate(("a.png", "b.png")):
        Image.new("RGB", (8 + index, 6), "red").save(tmp_path / name)
    return tmp_path


def lines(rows: Any) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def table(rows: list[dict[str, Any]], delimiter: str = ",") -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def zstd(data: bytes) -> bytes:
    out = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(out, "zstd") as stream:
        stream.write(data)
    return bytes(out.getvalue().to_pybytes())


def told(groups: list[Group]) -> list[Any]:
    return [(group.prompts, group.responses, group.edges) for group in groups]


FILES = {
    "rows.jsonl": lines(ROWS),
    "rows.ndjson": lines(ROWS),
    "rows.json": json.dumps(ROWS).encode(),
    "rows.jsonl.gz": gzip.compress(lines(ROWS)),
    "rows.json.gz": gzip.compress(json.dumps(ROWS, indent=1).encode()),
    "rows.jsonl.zst": zstd(lines(ROWS)),
    "rows.csv": b"\xef\xbb\xbf" + table(ROWS),
    "rows.tsv": table(ROWS, "\t"),
    "rows.csv.gz": gzip.compress(table(ROWS)),
}


@pytest.mark.parametrize("name", FILES)
def test_rows_are_the_same_in_every_file(folder: Path, name: str) -> None:
    (folder / name).write_bytes(FILES[name])
    groups = load_groups(DataSpec(path=str(folder / name)))
    assert told(groups) == told(groups_from_records(ROWS, DataSpec(path="rows", image_dir=str(folder))))
    assert groups[1].source == f"{folder / name}:2"


def test_cells_hold_lists_messages_numbers_and_labels(folder: Path) -> None:
    turns = [{"role": "user", "content": "Why?"}]
    rows = [
        {
            "prompt": json.dumps(turns),
            "completion": "[1, 2]",
            "label": "False",
            "images": '["a.png", "b.png"]',
            "score": "",
        },
        {"prompt": "[1] what?", "completion": "{}", "label": "TRUE", "images": "", "score": ""},
    ]
    (folder / "rows.csv").write_bytes(table(rows))
    first, second = load_groups(DataSpec(path=str(folder / "rows.csv")))
    assert first.prompts[0].images == (str(folder / "a.png"), str(folder / "b.png"))
    assert first.prompts[0].messages[0]["content"][-1] == {"type": "text", "text": "Why?"}
    assert (first.responses[0].text, first.responses[0].label) == ("[1, 2]", False)
    assert second.prompts[0].messages[0]["content"][-1] == {"type": "text", "text": "[1] what?"}
    assert (second.responses[0].text, second.responses[0].label) == ("{}", True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"prompt,completion\na,b\nc\n", r"row 2 \(counted from 1\): has 1 cells, expected 2"),
        (b"prompt,prompt\na,b\n", "names the column 'prompt' 2 times"),
        (b'prompt,completion\na,b\n"c,d\n', "is no table"),
        (b"prompt,completion\na,b\n\xff,d\n", "is damaged .*0xff"),
        (b'messages,id\n"[{""role"": ",1\n', r"row 1 .*column 'messages': not JSON"),
    ],
)
def test_a_damaged_table_of_texts_says_where(folder: Path, content: bytes, message: str) -> None:
    (folder / "rows.csv").write_bytes(content)
    with pytest.raises(DataError, match=f"rows.csv.*{message}"):
        load_groups(DataSpec(path=str(folder / "rows.csv")))


@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.jsonl.zst", "rows.csv.gz"])
def test_a_cut_off_file_is_damaged(folder: Path, name: str) -> None:
    (folder / name).write_bytes(FILES[name][:-12])
    with pytest.raises(DataError, match=f"{name}: is damaged"):
        load_groups(DataSpec(path=str(folder / name)))


def test_globs_and_folders_of_shards_are_read_in_order(folder: Path) -> None:
    data = folder / "copy" / "data"
    data.mkdir(parents=True)
    (folder / "copy" / "README.md").write_text("# rows")
    for number in range(2):
        shard = [{**row, "id": f"{number}-{row['id']}"} for row in ROWS]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(shard), data / f"train-0000{number}-of-00002.parquet")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS[:1]), data / "test-00000-of-00001.parquet")
    for path in (folder / "copy", data / "train-*.parquet"):
        groups = load_groups(DataSpec(path=str(path), image_dir=str(folder)))
        assert [group.id for group in groups] == ["0-0", "0-1", "0-2", "1-0", "1-1", "1-2"]
        assert groups[4].source == f"{data / 'train-00001-of-00002.parquet'}:2"
    assert len(load_groups(DataSpec(path=str(folder / "copy"), split="test", image_dir=str(folder)))) == 1
    with pytest.raises(DataError, match=r"has no split 'dev'\. Set split to one of test, train"):
        load_groups(DataSpec(path=str(folder / "copy"), split="dev"))
    with pytest.raises(DataError, match="no file matches"):
        load_groups(DataSpec(path=str(folder / "*.jsonl")))
    (data / "train.csv").write_bytes(table(ROWS))
    with pytest.raises(DataError, match=r"files of several kinds \(.csv, .parquet\)"):
        load_groups(DataSpec(path=str(folder / "copy")))


def write_tar(path: Path, files: dict[str, bytes], mode: str = "w") -> str:
    with tarfile.open(path, mode) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return str(path)


@pytest.mark.parametrize(("name", "mode"), [("rows.tar", "w"), ("rows.tar.gz", "w:gz")])
def test_a_tar_holds_rows_and_their_pictures(folder: Path, name: str, mode: str) -> None:
    one, two = (folder / "a.png").read_bytes(), (folder / "b.png").read_bytes()
    pair = {"prompt": "What?", "chosen": "A lamp.", "rejected": "A cat."}
    files = {
        "x/000.json": json.dumps(pair).encode(),
        "x/000.png": one,
        "x/001.0.png": one,
        "x/001.1.png": two,
        "x/001.json": json.dumps({**pair, "id": "named", "images": ["001.1.png", "001.0.png"]}).encode(),
        "x/002.json": b"{",
    }
    path = write_tar(folder / name, files, mode)
    account = Account(cache_dir=folder / "cache", on_bad_row="skip")
    first, second = load_groups(DataSpec(path=path), account)
    assert (first.id, second.id) == ("x/000", "named")
    assert [Path(p).read_bytes() for group in (first, second) for p in group.prompts[0].images] == [one, two, one]
    assert [(bad.row, bad.error[:11]) for bad in account.report.bad] == [(3, "x/002.json:")]
    (folder / name).write_bytes((folder / name).read_bytes()[:300])
    with pytest.raises(DataError, match=f"{name}: (is no whole tar|is damaged)"):
        load_groups(DataSpec(path=path), Account(cache_dir=folder / "cache"))


PAIR = json.dumps({"prompt": "What?", "chosen": "A lamp.", "rejected": "A cat."}).encode()
ROW = {"a.json": PAIR, "a.png": b"1", "b.json": PAIR, "b.png": b"2"}


def test_a_tar_that_ends_between_two_files_is_cut_off(folder: Path) -> None:
    whole = Path(write_tar(folder / "whole.tar", ROW)).read_bytes()
    for end in (1024, 2048, 2049, 3072):
        (folder / "cut.tar").write_bytes(whole[:end])
        with pytest.raises(DataError, match=r"cut.tar: is no whole tar \(it has no end mark"):
            list(read_rows(str(folder / "cut.tar")))
    for name, content in (("two.tar", whole + whole), ("hole.tar", whole[:2048] + bytes(512) + whole[2048:])):
        (folder / name).write_bytes(content)
        with pytest.raises(DataError, match=f"{name}: is no whole tar .something stands behind its end"):
            list(read_rows(str(folder / name)))
    (folder / "none.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"is no whole tar \([^\n]*empty file[^\n]*\). Restore"):
        list(read_rows(str(folder / "none.tar")))


def test_no_file_of_a_tar_is_passed_over(folder: Path) -> None:
    apart = write_tar(folder / "apart.tar", {"a.json": PAIR, "b.json": PAIR, "a.png": b"1", "b.png": b"2"})
    with pytest.raises(DataError, match="files of 'a' stand in two places"):
        load_groups(DataSpec(path=apart), Account(cache_dir=folder / "cache", on_bad_row="skip"))
    files = {"a.json": PAIR, "a.mp4": b"1", "b.json": PAIR, "b.png": (folder / "b.png").read_bytes(), "b.NPY": b"3"}
    path = write_tar(folder / "odd.tar", files)
    account = Account(cache_dir=folder / "cache", on_bad_row="skip")
    (kept,) = load_groups(DataSpec(path=path), account)
    assert kept.prompts[0].facts == {"npy": "b.npy"} and len(kept.prompts[0].images) == 1
    assert [bad.error[:24] for bad in account.report.bad] == ["'a.mp4' is a video or a "]


def test_links_and_names_that_come_twice_in_a_tar(folder: Path) -> None:
    with tarfile.open(folder / "links.tar", "w") as tar:
        for name, data in (("a.json", PAIR), ("a.png", (folder / "a.png").read_bytes())):
            (member := tarfile.TarInfo(name)).size = len(data)
            tar.addfile(member, io.BytesIO(data))
        for key, kind, target in (
            ("b", tarfile.LNKTYPE, "a"),
            ("c", tarfile.SYMTYPE, "a"),
            ("d", tarfile.SYMTYPE, "z"),
        ):
            for ending in ("json", "png"):
                member = tarfile.TarInfo(f"{key}.{ending}")
                member.type, member.linkname = kind, f"{target}.{ending}"
                tar.addfile(member)
        for data in (PAIR, PAIR):
            (member := tarfile.TarInfo("e.json")).size = len(data)
            tar.addfile(member, io.BytesIO(data))
    account = Account(cache_dir=folder / "cache", on_bad_row="skip")
    groups = load_groups(DataSpec(path=str(folder / "links.tar")), account)
    assert [(group.id, len(group.prompts[0].images)) for group in groups] == [("a", 1), ("b", 1), ("c", 1)]
    told = [bad.error for bad in account.report.bad]
    assert told == [
        "'d.json' is a link to no file of the tar. Store the file itself",
        "'e.json' stands in the tar twice. Keep one of the two",
    ]


def test_where_takes_a_subset_and_limit_counts_what_it_takes(folder: Path) -> None:
    rows = [{**row, "origin_dataset": ("COCO", "VQAv2")[n % 2], "idx": n} for n, row in enumerate(ROWS * 2)]
    (folder / "rows.jsonl").write_bytes(lines(rows))
    spec = DataSpec(path=str(folder / "rows.jsonl"), where={"origin_dataset": ("COCO",), "idx": ("0", "2", "3", "4")})
    assert [group.prompts[0].facts["idx"] for group in load_groups(spec)] == [0, 2, 4]
    limited = DataSpec(path=spec.path, where={"origin_dataset": ("VQAv2",)}, limit=2)
    assert [group.source.rpartition(":")[2] for group in load_groups(limited)] == ["2", "4"]
    with pytest.raises(RecipeError, match="where: found no column 'origin'"):
        load_groups(DataSpec(path=spec.path, where={"origin": ("COCO",)}))


# --- LLaMA-Factory --------------------------------------------------------------------------------

OPENAI = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
ENTRIES: dict[str, Any] = {
    "alpaca_pairs": {
        "file_name": "alpaca.json",
        "ranking": True,
        "columns": {"prompt": "ask", "query": "more", "chosen": "good", "rejected": "bad", "images": "pictures"},
    },
    "sharegpt_pairs": {
        "file_name": "sharegpt.json",
        "formatting": "sharegpt",
        "ranking": True,
        "columns": {"messages": "talk", "chosen": "good", "rejected": "bad", "images": "pictures"},
        "tags": OPENAI,
    },
    "odd": {"file_name": "alpaca.json", "columns": {"videos": "clips"}},
    "script": {"script_url": "somewhere"},
}
FACTORY = {
    "alpaca.json": [{"ask": "What?", "more": "", "good": "A lamp.", "bad": "A cat.", "pictures": ["a.png"]}],
    "sharegpt.json": [
        {
            "talk": [{"role": "user", "content": "<image>What?"}],
            "good": {"role": "assistant", "content": "A lamp."},
            "bad": {"role": "assistant", "content": "A cat."},
            "pictures": ["a.png"],
        }
    ],
}


def test_entries_of_llama_factory_are_read_by_name(folder: Path) -> None:
    (folder / "dataset_info.json").write_text(json.dumps(ENTRIES))
    for name, rows in FACTORY.items():
        (folder / name).write_text(json.dumps(rows))
    info = str(folder / "dataset_info.json")
    for entry in ("alpaca_pairs", "sharegpt_pairs"):
        (group,) = load_groups(DataSpec(path=info, entry=entry))
        content = [{"type": "image"}, {"type": "text", "text": "What?"}]
        assert group.prompts[0].messages == ({"role": "user", "content": content},)
        assert group.prompts[0].images == (str(folder / "a.png"),)
        assert [response.text for response in group.responses] == ["A lamp.", "A cat."] and len(group.edges) == 1
    for entry, message in (
        ("alpaca", "found no entry 'alpaca'.*alpaca_pairs"),
        ("odd", "column 'videos' is not read"),
        ("script", "key 'script_url' is not read"),
    ):
        with pytest.raises(RecipeError, match=message):
            load_groups(DataSpec(path=info, entry=entry))
    rows = [*FACTORY["sharegpt.json"], {**FACTORY["sharegpt.json"][0], "talk": [{"role": "tool", "content": "x"}]}]
    (folder / "sharegpt.json").write_text(json.dumps(rows))
    with pytest.raises(DataError, match=r"sharegpt.json, row 2 .*a message has 'role' 'tool', expected one of user"):
        load_groups(DataSpec(path=info, entry="sharegpt_pairs"))

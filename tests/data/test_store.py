"""A store gives what its rows give in memory: cold and warm, of every layout and relation, good rows and bad."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from layout_rows import PAIRS, llava, rated
from PIL import Image

from sightline.data import store
from sightline.data.load import load_groups
from sightline.data.picture_files import PictureFiles, Verdicts
from sightline.data.reading import Account
from sightline.data.split import held_out_places
from sightline.data.store import Loaded, Storing, load_part
from sightline.data.stored import JoinedGroups, StoredGroups, decode, encode, fingerprint
from sightline.data.validate import Checks, Needs
from sightline.errors import DataError, RecipeError
from sightline.negatives.relate import visual_relation
from sightline.recipes.schema import DataSpec, NegativeSpec, VisualSpec
from sightline.types import Edge, Group, Prompt, Response

COUNT = 600


def draw(path: Path, shade: int) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8 + shade % 5, 8), (shade % 256, 90, 30)).save(path)
    return str(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(40):
        draw(tmp_path / f"coco/{number}.png", number)
    return tmp_path


def rows(kind: str, count: int = COUNT) -> list[dict[str, Any]]:
    """Rows of one layout whose ids come twice and whose pictures are shared."""
    made = []
    for number in range(count):
        row = json.loads(json.dumps(PAIRS[kind]).replace("coco/1.jpg", f"coco/{number % 40}.png"))
        text = json.dumps(row).replace("jars", f"jars and {number} lids")
        made.append({**json.loads(text), "id": str(number // 2)})
    return made


def write(path: Path, found: Sequence[Any]) -> DataSpec:
    path.write_text("".join(one if isinstance(one, str) else f"{json.dumps(one)}\n" for one in found))
    return DataSpec(path=str(path))


def longer(group: Group) -> int:
    """Counts words, and refuses a word."""
    if any("forbidden" in response.text for response in group.responses):
        raise DataError("a forbidden word", remedy="Remove it")
    return max((len(response.text.split()) for response in group.responses), default=0)


def account(folder: Path, **options: Any) -> Account:
    checks = Checks(answers=True, max_length=40, num_tokens=longer)
    values = {"checks": checks, "cache_dir": folder / "run/images", "seed": 3, "on_bad_row": "skip", **options}
    return Account(**values)


def load(
    folder: Path, *specs: DataSpec, workers: int = 2, told: str = "words", **options: Any
) -> tuple[Loaded, Account]:
    own = account(folder, **options)
    storing = Storing(folder=folder / "cache", always=True, decided_by=told, workers=workers)
    return load_part(specs, own, storing), own


def in_memory(folder: Path, *specs: DataSpec, **options: Any) -> tuple[list[Group], Account]:
    own = account(folder, **options)
    return [group for spec in specs for group in load_groups(spec, own)], own


def agree(folder: Path, *specs: DataSpec, **options: Any) -> StoredGroups:
    """Cold, warm and in memory are the same: groups, account, fingerprint."""
    expected, plain = in_memory(folder, *specs, **options)
    for part in ("cold", "warm"):
        loaded, own = load(folder, *specs, **options)
        assert isinstance(loaded.groups, StoredGroups), part
        assert list(loaded.groups) == expected, part
        assert own.report == plain.report, part
        assert fingerprint(loaded.groups) == fingerprint(expected), part
        assert list(loaded.compared) == [plain.before.get(group.id, group) for group in expected]
    assert len(stores(folder)) >= 1
    return loaded.groups


def stores(folder: Path) -> list[Path]:
    return sorted((folder / "cache").glob("groups-*/*"))


def untouched(folder: Path, built: float) -> bool:
    return all(path.stat().st_mtime_ns == built for path in stores(folder))


# --- the same as in memory ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PAIRS)
def test_every_layout(folder: Path, kind: str) -> None:
    groups = agree(folder, write(folder / "rows.jsonl", rows(kind)))
    assert len(groups) == COUNT
    assert groups[1].id == "0#2"


def test_group_files_lists_tables_and_embedded_pictures(folder: Path) -> None:
    lines = [{"prompts": [{"id": str(n), "messages": [{"role": "user", "content": "?"}]}], "responses": [{"text": "x"}],
              "edges": []} for n in range(300)]  # fmt: skip
    picture = (folder / "coco/1.png").read_bytes()
    embedded = [{"image": {"bytes": picture, "path": "1.png"}, "prompt": "?", "chosen": f"a {n}", "rejected": "b"}
                for n in range(300)]  # fmt: skip
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(embedded), folder / "rows.parquet")
    (folder / "rows.json").write_text(json.dumps(rows("povid", 300)))
    specs = [write(folder / "groups.jsonl", lines)]
    specs += [DataSpec(path=str(folder / name)) for name in ("rows.parquet", "rows.json")]
    groups = agree(folder, *specs)
    assert len(groups) == 900
    assert groups[300].prompts[0].images[0].startswith(str(folder / "run/images"))


def test_a_long_list_is_read_element_by_element(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = rows("povid", 300)
    odd = [*found[:200], {**found[0], "x": "\ud83d"}, 7, *found[200:]]
    text = json.dumps(odd, indent=1)[:-1] + ', {"id": "1", "id": "2"}]\n'
    (folder / "rows.json").write_text(text)
    spec = DataSpec(path=str(folder / "rows.json"))
    whole, plain = in_memory(folder, spec)
    monkeypatch.setattr("sightline.data.readers.sources._WHOLE", 0)
    monkeypatch.setattr("sightline.data.readers.lists._CHUNK", 1000)
    streamed, own = in_memory(folder, spec)
    assert streamed == whole
    assert own.report == plain.report
    assert [row.row for row in own.report.bad] == [201, 202, 303]


@pytest.mark.parametrize("cut", [5, 1234, -1, -2, -40])
@pytest.mark.parametrize("added", ["", "]]", "\n, x"])
def test_a_damaged_list_is_refused_in_the_same_words(
    folder: Path, monkeypatch: pytest.MonkeyPatch, cut: int, added: str
) -> None:
    text = json.dumps(rows("povid", 60), indent=1)
    (folder / "rows.json").write_text(text[:cut] + added)
    messages = []
    for _ in range(2):
        with pytest.raises(DataError) as caught:
            in_memory(folder, DataSpec(path=str(folder / "rows.json")))
        messages.append(str(caught.value))
        monkeypatch.setattr("sightline.data.readers.sources._WHOLE", 0)
        monkeypatch.setattr("sightline.data.readers.lists._CHUNK", 100)
    assert messages[0] == messages[1]
    assert "not JSON" in messages[0]


def test_options_of_sources(folder: Path) -> None:
    found = [{**row, "of": "ab"[n % 2]} for n, row in enumerate(rows("rlaif_v"))]
    spec = write(folder / "rows.jsonl", [{"q" if k == "question" else k: v for k, v in row.items()} for row in found])
    spec = replace(spec, rename={"q": "question"}, where={"of": ("a",)}, limit=250)
    assert len(agree(folder, spec, replace(spec, limit=5), replace(spec, relation="none"))) == 505


def test_rated_answers_are_left_out_and_counted(folder: Path) -> None:
    row = {
        "prompt": "?",
        "completions": [rated("a b", "1", "2", "N/A"), rated("b", "4", "5", "4"), rated("c", "2", "2", "2")],
    }
    spec = write(folder / "rows.jsonl", [{**row, "id": str(n)} for n in range(COUNT)])
    agree(folder, spec, replace(spec, relation="best_worst"))
    (note,) = load(folder, spec)[1].report.notes
    assert note.startswith(f"{spec.path}: {COUNT} ")


def test_mismatched(folder: Path) -> None:
    spec = replace(write(folder / "rows.jsonl", rows("povid")), relation="mismatched")
    groups = agree(folder, spec, needs=Needs(algorithm="kto", labels=True))
    assert all(edge.kind == "mismatched" for group in groups for edge in group.edges)


@pytest.mark.parametrize("kind", ["other", "blank", "none"])
def test_visual(folder: Path, kind: Any) -> None:
    pairs = rows("povid", 300)
    pairs[7]["image"] = None
    pairs[7]["conversations"][0]["value"] = pairs[7]["rejected_conversations"][0]["value"] = "?"
    visual = VisualSpec(relation="mdpo", negative=NegativeSpec(kind=kind))
    specs = [replace(write(folder / "a.jsonl", pairs), visual=visual), write(folder / "b.jsonl", rows("povid", 20))]
    made = partial(visual_relation, folder=folder / "negatives", seed=3)
    groups = agree(folder, *specs, visual=made)
    assert [edge.kind for edge in groups[0].edges] == ["text", "image"]
    loaded, own = load(folder, *specs, visual=made)
    assert [edge.kind for edge in loaded.compared[0].edges] == ["text"]
    assert [row.row for row in own.report.bad] == [8]
    assert isinstance(loaded.compared, StoredGroups) and len(loaded.compared.pairs()) == 319


# --- bad rows -------------------------------------------------------------------------------------


def spoiled(folder: Path) -> list[Any]:
    """Rows of which many are bad, each in its own way, and some only because of rows before them."""
    found: list[Any] = rows("povid")
    shutil.copy(folder / "coco/2.png", folder / "flat.png")
    (folder / "broken.png").write_bytes((folder / "coco/1.png").read_bytes()[:40])
    (folder / "coco/41.webp").write_bytes(b"RIFF")
    draw_ = random.Random(0)
    for number in draw_.sample(range(1, COUNT), 150):
        row = dict(found[number])
        kind = number % 9
        if kind == 0:
            row["image"] = f"gone/{number}.png"
        elif kind == 1:
            row["image"] = "broken.png"
        elif kind == 2:
            row["image"] = "elsewhere/flat.png" if number < 300 else "another/flat.png"
        elif kind == 3:
            row["conversations"] = llava("<image>\n?", "word " * 50)
            row["rejected_conversations"] = llava("<image>\n?", "other " * 50)
        elif kind == 4:
            row["rejected_conversations"] = row["conversations"]
        elif kind == 5:
            row["conversations"] = llava("<image>\nWhat is on the shelf?", "forbidden")
        elif kind == 6:
            row["image"] = "coco/41.webp"
        elif kind == 7:
            found[number] = '{"id": 3, "id": 4}\n'
            continue
        else:
            found[number] = "{not json\n"
            continue
        found[number] = row
    return found


def test_bad_rows_are_told_as_in_memory(folder: Path) -> None:
    spec = replace(write(folder / "rows.jsonl", spoiled(folder)), image_dir=str(folder))
    agree(folder, spec, needs=Needs(algorithm="dpo", comparisons=True))
    _, own = load(folder, spec, needs=Needs(algorithm="dpo", comparisons=True))
    reasons = own.report.by_reason()
    assert {"missing image", "broken image", "too long", "chosen equals rejected", "malformed"} <= set(reasons)
    assert len(own.report.bad) > 100
    assert any("which is already" in row.error for row in own.report.bad)
    assert "found by their bare name" in own.report.notes[0]


def test_what_an_algorithm_needs_is_told_last(folder: Path) -> None:
    found = rows("povid", 300)
    for number in (3, 270):
        del found[number]["rejected_conversations"]
        found[number]["score"] = 1.0
    found[280]["image"] = "gone.png"
    spec = replace(write(folder / "rows.jsonl", found), format="llava")
    plain = [{key: value for key, value in row.items() if key != "rejected_conversations"} for row in found]
    spec = write(folder / "rows.jsonl", plain)
    agree(folder, spec, needs=Needs(algorithm="sft"))
    with pytest.raises(DataError, match="none of 300 rows can be used; the first, row 281"):
        load(folder, spec, needs=Needs(algorithm="dpo", comparisons=True))


@pytest.mark.parametrize("workers", [1, 3])
def test_the_first_bad_row_ends_it_with_the_same_words(folder: Path, workers: int) -> None:
    spec = replace(write(folder / "rows.jsonl", spoiled(folder)), image_dir=str(folder))
    with pytest.raises(DataError) as plain:
        in_memory(folder, spec, on_bad_row="error")
    with pytest.raises(DataError) as stored:
        load(folder, spec, on_bad_row="error", workers=workers)
    assert str(stored.value) == str(plain.value)
    assert not [path for path in stores(folder) if path.name != ".tmp"]


def test_errors_of_recipes_come_through(folder: Path) -> None:
    spec = write(folder / "rows.jsonl", rows("povid"))
    with pytest.raises(RecipeError, match="found no column 'question'"):
        load(folder, replace(spec, rename={"question": "prompt"}))
    with pytest.raises(RecipeError, match="visual is made by a training run"):
        load(folder, replace(spec, visual=VisualSpec(relation="mdpo")))
    (folder / "empty.jsonl").write_text("")
    with pytest.raises(DataError, match="there are no rows"):
        load(folder, DataSpec(path=str(folder / "empty.jsonl")))


# --- what makes a store anew ----------------------------------------------------------------------


def builds(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    made: list[Path] = []
    build = store._build

    def counted(final: Path, *rest: Any) -> None:
        made.append(final)
        build(final, *rest)

    monkeypatch.setattr(store, "_build", counted)
    return made


def test_whatever_decides_the_result_makes_a_store_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = builds(monkeypatch)
    path = folder / "rows.jsonl"
    spec = write(path, rows("povid", 300))
    load(folder, spec)
    load(folder, spec)
    load(folder, replace(spec, weight=2.0))
    assert len(made) == 1
    for change in (
        {"told": "another tokenizer"},
        {"seed": 4},
        {"on_bad_row": "error"},
        {"needs": Needs(algorithm="dpo", comparisons=True)},
        {"checks": Checks(answers=True, max_length=41, num_tokens=longer)},
    ):
        load(folder, spec, **change)
    assert len(made) == 6
    load(folder, replace(spec, limit=299))
    write(path, rows("povid", 301))
    loaded, _ = load(folder, spec)
    assert (len(made), len(loaded.groups)) == (8, 301)
    os.utime(path, (1, 1))
    load(folder, spec)
    assert len(made) == 9


def test_pictures_that_change_come_and_go_are_seen(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = rows("povid", 300)
    found[5]["image"] = "late.png"
    spec = write(folder / "rows.jsonl", found)
    made = builds(monkeypatch)
    assert len(load(folder, spec)[0].groups) == 299
    draw(folder / "late.png", 7)
    assert len(load(folder, spec)[0].groups) == 300
    (folder / "coco/3.png").write_bytes(b"no picture")
    own = load(folder, spec)[1]
    assert own.report.by_reason() == {"broken image": 8}
    (folder / "coco/4.png").unlink()
    assert load(folder, spec)[1].report.by_reason() == {"broken image": 8, "missing image": 8}
    assert len(made) == 4
    load(folder, spec)
    assert len(made) == 4


def test_a_change_that_keeps_size_and_time_is_seen(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, made = rows("povid", 60), builds(monkeypatch)
    others = json.loads(json.dumps(found).replace("jars", "pots"))
    spec = write(folder / "rows.jsonl", found)
    load(folder, spec)
    before = (folder / "rows.jsonl").stat()
    write(folder / "rows.jsonl", others)
    os.utime(folder / "rows.jsonl", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (folder / "rows.jsonl").stat().st_size == before.st_size
    assert "pots" in load(folder, spec)[0].groups[0].responses[0].text
    for name, content in (("one", found), ("two", others)):
        write(folder / f"{name}.jsonl", content)
        os.utime(folder / f"{name}.jsonl", (5, 5))
    for name, word in (("one", "jars"), ("two", "pots")):
        (folder / "rows.jsonl").unlink()
        (folder / "rows.jsonl").symlink_to(f"{name}.jsonl")
        assert word in load(folder, spec)[0].groups[0].responses[0].text
    picture, before = folder / "coco/3.png", (folder / "coco/3.png").stat()
    picture.write_bytes(picture.read_bytes()[:-1] + b"?")
    os.utime(picture, ns=(before.st_atime_ns, before.st_mtime_ns))
    builds_before = len(made)
    load(folder, spec)
    assert len(made) == builds_before + 1


def test_a_change_within_a_tick_of_the_clock_is_seen(folder: Path) -> None:
    found = rows("povid", 60)
    for _ in range(5):  # the second content comes as soon as the first was read
        for word in ("jars", "pots"):
            spec = write(folder / "rows.jsonl", json.loads(json.dumps(found).replace("jars", word)))
            assert word in load(folder, spec, workers=1)[0].groups[0].responses[0].text


def test_a_folder_that_cannot_be_written_to_is_named(folder: Path) -> None:
    spec = write(folder / "rows.jsonl", rows("povid", 60))
    (folder / "cache").write_text("no folder")
    with pytest.raises(DataError, match=r"cache: what is kept of rows cannot be written there .*Set data.cache_dir"):
        load(folder, spec)


def test_embedded_pictures_of_another_run_are_not_used(folder: Path) -> None:
    row = {"image": {"bytes": (folder / "coco/1.png").read_bytes(), "path": "1.png"}, "prompt": "?", "completion": "x"}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row] * 300), folder / "rows.parquet")
    spec = DataSpec(path=str(folder / "rows.parquet"))
    load(folder, spec)
    shutil.rmtree(folder / "run")
    for run in ("run", "another"):
        loaded, _ = load(folder, spec, cache_dir=folder / run / "images")
        (picture,) = loaded.groups[0].prompts[0].images
        assert picture.startswith(str(folder / run)) and Path(picture).is_file()


def test_pictures_are_looked_at_once_over_runs_and_sources(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = write(folder / "rows.jsonl", rows("povid", 300))
    load(folder, spec)
    seen = Verdicts(folder / "cache").load()
    assert len(seen) == 40
    monkeypatch.setattr("sightline.data.picture_files._fault", lambda path: pytest.fail(f"{path} is looked at again"))
    load(folder, write(folder / "others.jsonl", rows("llava_rlhf", 300)))
    assert len(list((folder / "cache").glob("pictures-*/*"))) == 1


def test_verdicts_of_many_runs_become_one_file(tmp_path: Path) -> None:
    verdicts = Verdicts(tmp_path)
    for number in range(12):
        files = PictureFiles()
        files.verdict(draw(tmp_path / f"{number}.png", number))
        verdicts.add(files.fresh())
    assert len(verdicts.load()) == 12
    assert len(list(tmp_path.glob("pictures-*/*"))) == 1
    assert len(verdicts.load()) == 12


KILLED = """
import sys, time
sys.path[:0] = {paths!r}
from pathlib import Path
import test_store
folder = Path({folder!r})
def slow(group):
    time.sleep(0.01)
    return 1
checks = test_store.Checks(answers=True, max_length=40, num_tokens=slow)
print("begun", flush=True)
test_store.load(folder, test_store.DataSpec(path=str(folder / "rows.jsonl")), checks=checks)
"""


@pytest.mark.processes
def test_a_kill_in_the_middle_leaves_nothing_that_is_used(folder: Path) -> None:
    spec = write(folder / "rows.jsonl", rows("povid", 900))
    code = KILLED.format(paths=[path for path in sys.path if path], folder=str(folder))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        while not list((folder / "cache").glob("groups-*/*.tmp/groups.arrow")):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert [path.name[-4:] for path in stores(folder)] == [".tmp"]
    checks = Checks(answers=True, max_length=40, num_tokens=lambda group: 1)
    loaded, _ = load(folder, spec, checks=checks)
    assert len(loaded.groups) == 900
    (left,) = [path for path in stores(folder) if path.name.endswith(".tmp")]
    os.utime(left, (1, 1))
    write(folder / "rows.jsonl", rows("povid", 901))
    load(folder, spec, checks=checks)
    assert not [path for path in stores(folder) if path.name.endswith(".tmp")]


def test_few_rows_are_not_stored(folder: Path) -> None:
    spec = write(folder / "rows.jsonl", rows("povid", 20))
    own = account(folder)
    loaded = load_part([spec], own, Storing(folder=folder / "cache"))
    assert isinstance(loaded.groups, list) and not (folder / "cache").exists()
    assert list(loaded.keys()) == list(load(folder, spec)[0].keys())


# --- the sequence ---------------------------------------------------------------------------------


def everything() -> Group:
    return Group(
        prompts=(
            Prompt(id="é", messages=({"role": "user", "content": "?"},), images=("a", "\udcff"), facts={"x": [1.5]}),
            Prompt(id="b", messages=({"role": "user", "content": [{"type": "text", "text": "日本"}]},)),
        ),
        responses=(
            Response(text="x", prompt=1, tokens=(1, 2), trained=(True, False), weights=(1.0,),
                     rollout_logprobs=(-1, 2e-9), greedy=True, columns={"values": (0.5,)}, distorted=4,
                     weight_versions=(1, 2), reward_error="no"),
            Response(text="y", reward=1, rewards={"a": 0.1}, label=False, finish_reason="stop", policy_version=3),
        ),
        edges=(Edge(winner=0, loser=1, weight=1),),
        source="rows.jsonl:3",
    )  # fmt: skip


def test_a_group_comes_back_as_it_is() -> None:
    group = everything()
    assert decode(encode(group)) == group
    assert repr(decode(encode(group))) == repr(group)
    filled = {name for response in group.responses for name, value in vars(response).items() if value}
    assert filled == {field.name for field in dataclasses.fields(Response)} - {"label"}, "every field but one is filled"
    fields = [[field.name for field in dataclasses.fields(kind)] for kind in (Group, Prompt, Edge)]
    assert fields == [
        ["prompts", "responses", "edges", "source"],
        ["id", "messages", "images", "facts"],
        ["winner", "loser", "kind", "weight"],
    ], "encode and decode name them"


def test_the_sequence_is_lazy_picklable_and_slices(folder: Path) -> None:
    spec = write(folder / "rows.jsonl", rows("povid", 1500))
    groups = load(folder, spec)[0].groups
    assert isinstance(groups, StoredGroups)
    expected = list(groups)
    assert groups[-1] == expected[-1] and groups[1024] == expected[1024]
    with pytest.raises(IndexError):
        groups[1500]
    odd = groups[1::2]
    assert isinstance(odd, StoredGroups) and list(odd[100:103]) == expected[201:207:2]
    again = pickle.loads(pickle.dumps(odd))
    assert list(again) == expected[1::2] and fingerprint(again) == fingerprint(expected[1::2])
    assert len(pickle.dumps(groups)) < 1000
    assert list(groups.ids()) == [group.id for group in expected]
    both = JoinedGroups(groups[:2], [], expected[5:7])
    assert [both[-1], *both[1:3]] == [expected[6], expected[1], expected[5]]
    assert list(both) == [*expected[:2], *expected[5:7]]
    groups._path.unlink()  # a store may be deleted while it is used
    assert list(odd[100:103]) == list(groups.pick([201, 203, 205])) == expected[201:207:2]


# --- splits ---------------------------------------------------------------------------------------


def test_no_picture_is_on_both_sides(folder: Path) -> None:
    found = rows("povid", 300)
    for number in range(0, 300, 10):  # two pictures join what shows either
        found[number]["image"] = [f"coco/{number % 40}.png", f"coco/{(number + 1) % 8}.png"]
        for side in ("conversations", "rejected_conversations"):
            found[number][side][0]["value"] = "<image><image>\nWhat is on the shelf?"
    shutil.copy(folder / "coco/20.png", folder / "copy.png")
    found[299]["image"] = "copy.png"
    loaded, _ = load(folder, write(folder / "rows.jsonl", found))
    out = held_out_places(loaded.keys(), 0.3, seed=1)
    shown = [
        {Path(path).name.replace("copy", "20") for prompt in group.prompts for path in prompt.images}
        for group in loaded.groups
    ]
    held = set().union(*(names for names, one in zip(shown, out, strict=True) if one))
    trained = set().union(*(names for names, one in zip(shown, out, strict=True) if not one))
    assert held and trained and not held & trained


def test_the_side_of_a_row_does_not_depend_on_rows_that_share_nothing_with_it() -> None:
    keys = [(bytes([number]) * 16,) for number in range(200)]
    out = held_out_places(keys, 0.25, seed=0)
    assert held_out_places(keys[:150], 0.25, seed=0) == out[:150]
    assert 30 < sum(out) < 70
    assert held_out_places(keys, 0.25, seed=1) != out


def test_a_split_with_one_side_is_refused() -> None:
    joined = [(b"a" * 16, bytes([number]) * 16) for number in range(20)]
    with pytest.raises(DataError, match=r"holds out (0|20) of 20 rows, which are 1 sets of rows that share no picture"):
        held_out_places(joined, 0.5, seed=0)

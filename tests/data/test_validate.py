"""Bad rows are named or listed, never dropped in silence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sightline.data.load import load_dataset_spec
from sightline.data.validate import BadRow, Checks, DataReport, PictureFiles, check_group, write_bad_rows
from sightline.errors import DataError
from sightline.recipes.schema import DatasetSpec, DataSpec
from sightline.types import Edge, Group, Prompt, Response


def picture(path: Path, size: int = 64) -> Path:
    Image.effect_noise((size, size), 90).convert("RGB").save(path)
    return path


def cut(path: Path) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    return path


def with_picture(path: Path | str) -> Group:
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]}
    return Group(prompts=(Prompt(id="1", messages=(message,), images=(str(path),)),), responses=(Response(text="x"),))


def plain(*answers: str, edges: tuple[Edge, ...] = ()) -> Group:
    prompt = Prompt(id="1", messages=({"role": "user", "content": "?"},))
    return Group(prompts=(prompt,), responses=tuple(Response(text=answer) for answer in answers), edges=edges)


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "gif", "bmp"])
def test_whole_pictures_pass_and_cut_off_ones_do_not(tmp_path: Path, kind: str) -> None:
    whole, part = picture(tmp_path / f"whole.{kind}"), cut(picture(tmp_path / f"part.{kind}"))
    check_group(with_picture(whole), Checks(), PictureFiles())
    with pytest.raises(DataError, match=r"picture \S+/part\.\w+ cannot be read .*Restore the file"):
        check_group(with_picture(part), Checks(), PictureFiles())
    check_group(with_picture(part), Checks(images=False), PictureFiles())


def test_a_jpeg_with_bytes_after_its_end_is_whole(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.jpg")
    path.write_bytes(path.read_bytes() + b"\0\0 appended by a camera")
    check_group(with_picture(path), Checks(), PictureFiles())


def test_text_files_and_missing_files_are_no_pictures(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("not found", encoding="utf-8")
    with pytest.raises(DataError, match="cannot be read"):
        check_group(with_picture(tmp_path / "a.jpg"), Checks(), PictureFiles())
    with pytest.raises(DataError, match=r"is missing\. Put the file there"):
        check_group(with_picture(tmp_path / "b.jpg"), Checks(), PictureFiles())


def test_comparisons_of_equals_are_refused_unless_the_picture_differs() -> None:
    with pytest.raises(DataError, match="answers 1 and 2 are compared and are the same: 'x'"):
        check_group(plain("x", "x", edges=(Edge(winner=0, loser=1),)), Checks(), PictureFiles())
    check_group(plain("x", "x"), Checks(), PictureFiles())
    one, other = with_picture("a.png").prompts[0], with_picture("b.png").prompts[0]
    responses = (Response(text="x"), Response(text="x", prompt=1))
    group = Group(prompts=(one, other), responses=responses, edges=(Edge(winner=0, loser=1, kind="image"),))
    check_group(group, Checks(images=False), PictureFiles())


HISTORY = ({"role": "user", "content": "?"}, {"role": "assistant", "content": "x", "weight": 1})


@pytest.mark.parametrize(
    ("prompt", "responses", "message"),
    [
        (
            Prompt(id="1", messages=(*HISTORY, HISTORY[0])),
            (Response(text="a"), Response(text="b")),
            "prompt 1 has 2 answers, and trains the assistant messages before them",
        ),
        (
            Prompt(id="1", messages=(HISTORY[0],)),
            (Response(text="a", tokens=(5, 2), trained=(False, False)),),
            "no token of answer 1 is trained",
        ),
        (
            Prompt(id="1", messages=({"role": "system", "content": [{"type": "image"}]}, HISTORY[0]), images=("a",)),
            (Response(text="a"),),
            r"message 1 \(system\) holds a picture. Only user messages",
        ),
    ],
)
def test_groups_that_would_train_something_else(prompt: Prompt, responses: tuple[Response, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_group(Group(prompts=(prompt,), responses=responses), Checks(images=False), PictureFiles())


def test_an_answer_that_was_sampled_empty_is_an_answer() -> None:
    prompt = plain().prompts
    check_group(Group(prompts=prompt, responses=(Response(text="", tokens=(2,)),)), Checks(), PictureFiles())
    with pytest.raises(DataError, match="answer 1 is empty"):
        check_group(plain(""), Checks(), PictureFiles())


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([{"role": "critic", "content": "?"}], "message 1 is by 'critic'"),
        ([{"role": "user", "content": ""}], "message 1 \\(user\\) is empty"),
        ([{"role": "assistant", "content": "x"}], "does not end with a user message"),
        ([{"role": "user", "content": [{"type": "image"}]}], "1 image placeholders and 0 images"),
        ([{"role": "user", "content": [{"type": "video"}]}], "message 1 has the part {'type': 'video'}"),
        ([{"role": "user", "content": "<image>?"}], "contains <image>"),
    ],
)
def test_prompts_of_group_files_are_checked(messages: list[dict[str, Any]], message: str) -> None:
    group = Group(prompts=(Prompt(id="1", messages=tuple(messages)),))
    with pytest.raises(DataError, match=message):
        check_group(group, Checks(), PictureFiles())


def test_rows_longer_than_max_length_are_bad_rows_and_none_is_cut() -> None:
    checks = Checks(max_length=600, num_tokens=lambda group: 576 + len(group.responses[0].text))
    check_group(plain("x" * 24), checks, PictureFiles())
    with pytest.raises(DataError, match=r"take 601 tokens, more than max_length = 600\. Raise data\.max_length"):
        check_group(plain("x" * 25), checks, PictureFiles())


# --- a whole part of a recipe -------------------------------------------------------------------


ROWS = [
    '{"prompt": "a?", "completion": "x"}',
    '{"prompt": "b?", "completion": ""}',
    "",
    '{"prompt": "c?", "comple',
    '{"prompt": "d?", "completion": "x", "image": "gone.png"}',
    '{"prompt": "e?"}',
    '{"prompt": "f?", "completion": "long long long"}',
    '{"prompt": "g?", "completion": "x"}',
]


def dataset(path: Path, lines: list[str], **options: Any) -> DatasetSpec:
    path.write_text("\n".join(lines), encoding="utf-8")
    spec = DataSpec(path=str(path), format="trl")
    return DatasetSpec(train=(spec,), eval=(spec,), **options)


def count(group: Group) -> int:
    return len(group.responses[0].text)


def test_skip_lists_every_bad_row_with_its_line_and_reason(tmp_path: Path) -> None:
    data = dataset(tmp_path / "rows.jsonl", ROWS, on_bad_row="skip", max_length=10)
    groups, report = load_dataset_spec(data, "train", tmp_path / "run", count)
    assert [group.source for group in groups] == [f"{tmp_path}/rows.jsonl:{line}" for line in (1, 8)]
    assert (report.read, report.kept) == (7, 2)
    assert report.by_reason() == {
        "empty answer": 1,
        "malformed": 1,
        "missing image": 1,
        "no answer": 1,
        "too long": 1,
    }
    assert report.summary().startswith("2 of 7 rows kept (")
    listed = [json.loads(line) for line in (tmp_path / "run/bad_rows.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(row["part"], row["row"], row["reason"]) for row in listed] == [
        ("train", 2, "empty answer"),
        ("train", 4, "malformed"),
        ("train", 5, "missing image"),
        ("train", 6, "no answer"),
        ("train", 7, "too long"),
    ]
    assert {row["file"] for row in listed} == {str(tmp_path / "rows.jsonl")}
    assert "gone.png" in listed[2]["error"]
    assert "set image_dir" in listed[2]["error"]


def test_a_resumed_run_lists_a_bad_row_once_and_keeps_the_other_part(tmp_path: Path) -> None:
    data = dataset(tmp_path / "rows.jsonl", ROWS, on_bad_row="skip")
    for part in ("train", "eval", "train"):
        load_dataset_spec(data, part, tmp_path)
    lines = (tmp_path / "bad_rows.jsonl").read_text(encoding="utf-8").splitlines()
    parts = [json.loads(line)["part"] for line in lines]
    assert (parts.count("train"), parts.count("eval")) == (4, 4)


@pytest.mark.parametrize("line", [2, 4, 5, 6])
def test_error_stops_at_the_first_bad_row(tmp_path: Path, line: int) -> None:
    data = dataset(tmp_path / "rows.jsonl", [ROWS[0], ROWS[line - 1]])
    with pytest.raises(DataError, match=r"rows\.jsonl, row 2 \(counted from 1\): "):
        load_dataset_spec(data, "train", tmp_path)
    assert not (tmp_path / "bad_rows.jsonl").exists()


def test_no_usable_row_is_an_error_and_the_list_is_still_written(tmp_path: Path) -> None:
    data = dataset(tmp_path / "rows.jsonl", ROWS[1:6], on_bad_row="skip")
    with pytest.raises(DataError, match=r"none of 4 rows can be used; the first, row 1: answer 1 is empty"):
        load_dataset_spec(data, "train", tmp_path)
    assert len((tmp_path / "bad_rows.jsonl").read_text(encoding="utf-8").splitlines()) == 4


def test_an_empty_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there are no rows"):
        load_dataset_spec(dataset(tmp_path / "rows.jsonl", []), "train")


def test_no_sources_are_no_groups() -> None:
    assert load_dataset_spec(DatasetSpec(train=()), "eval")[0] == []


def test_report_counts_reasons_most_frequent_first(tmp_path: Path) -> None:
    bad = [BadRow(file="f", row=i, reason=r, error="e") for i, r in enumerate(["options", "too long", "too long"])]
    report = DataReport(read=10, kept=7, with_pictures=6, bad=bad)
    assert report.summary() == "7 of 10 rows kept (too long: 2, options: 1), 6 with pictures"
    path = write_bad_rows(tmp_path / "new", "eval", report)
    assert json.loads(path.read_text(encoding="utf-8").splitlines()[0]) == {
        "part": "eval",
        "file": "f",
        "row": 0,
        "reason": "options",
        "error": "e",
    }

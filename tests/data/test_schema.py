"""Group files hold what was written, and say where they are wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sightline.data.schema import (
    append_groups,
    complete_lines,
    group_from_json,
    group_to_json,
    read_groups,
    write_groups,
)
from sightline.errors import DataError
from sightline.types import Edge, Group, Prompt, Response


def question(text: str) -> tuple[dict[str, Any], ...]:
    return ({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]},)


def full_group(folder: Path) -> Group:
    """A group in which every field differs from its default."""
    prompts = (
        Prompt(
            id="a", messages=question("Was ist das? 猫"), images=(str(folder / "img/cat.png"),), facts={"n": [1, None]}
        ),
        Prompt(id="a/negative", messages=question("Was ist das? 猫"), images=("/elsewhere/dog.png",)),
    )
    sampled = Response(
        text="a cat",
        prompt=1,
        tokens=(5, 6, 2),
        trained=(True, False, True),
        weights=(0.5, 2.0),
        rollout_logprobs=(-0.1, -1.5, -0.25),
        reward=1.5,
        rewards={"hits": 2.0, "misses": -0.5},
        label=False,
        finish_reason="stop",
        policy_version=0,
    )
    edges = (Edge(winner=1, loser=0, kind="image", weight=0.25),)
    return Group(prompts=prompts, responses=(Response(text="a dog"), sampled), edges=edges, source="x.json:3")


def test_every_field_survives_the_file(tmp_path: Path) -> None:
    group = full_group(tmp_path)
    assert write_groups(tmp_path / "g.jsonl", [group, group]) == 2
    assert list(read_groups(tmp_path / "g.jsonl")) == [group, group]


def test_a_line_leaves_defaults_out_and_is_readable(tmp_path: Path) -> None:
    group = Group(prompts=(Prompt(id="1", messages=question("Was? 猫")),), responses=(Response(text="eine Katze"),))
    write_groups(tmp_path / "g.jsonl", [group])
    line = (tmp_path / "g.jsonl").read_text(encoding="utf-8")
    assert "猫" in line
    assert json.loads(line) == {
        "prompts": [
            {
                "id": "1",
                "messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Was? 猫"}]}],
            }
        ],
        "responses": [{"text": "eine Katze"}],
    }


def test_zero_and_false_are_not_left_out(tmp_path: Path) -> None:
    row = group_to_json(full_group(tmp_path))["responses"][1]
    assert row["label"] is False
    assert row["policy_version"] == 0


def test_pictures_below_the_folder_are_relative_and_move_with_it(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    write_groups(tmp_path / "here/g.jsonl", [full_group(tmp_path / "here")])
    row = json.loads((tmp_path / "here/g.jsonl").read_text(encoding="utf-8"))
    assert [prompt["images"] for prompt in row["prompts"]] == [["img/cat.png"], ["/elsewhere/dog.png"]]
    (tmp_path / "here").rename(tmp_path / "there")
    (group,) = read_groups(tmp_path / "there/g.jsonl")
    assert group.prompts[0].images == (str(tmp_path / "there/img/cat.png"),)


def test_a_folder_whose_name_only_begins_alike_is_not_below(tmp_path: Path) -> None:
    row = group_to_json(full_group(tmp_path / "data2"), tmp_path / "data")
    assert row["prompts"][0]["images"] == [str(tmp_path / "data2/img/cat.png")]


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    good = full_group(tmp_path)
    write_groups(tmp_path / "g.jsonl", [good])
    bad = Group(prompts=(Prompt(id="b", messages=question("?"), facts={"x": float("nan")}),), source="in.json:7")
    with pytest.raises(DataError, match=r"in\.json:7: group 'b' cannot be written as JSON"):
        write_groups(tmp_path / "g.jsonl", [good, bad])
    assert list(read_groups(tmp_path / "g.jsonl")) == [good]
    assert [path.name for path in tmp_path.iterdir()] == ["g.jsonl"]


def test_appending_after_a_kill_keeps_whole_lines_and_drops_the_half_one(tmp_path: Path) -> None:
    path, group = tmp_path / "out/g.jsonl", full_group(tmp_path)
    assert complete_lines(path).complete == 0
    append_groups(path, [group])
    append_groups(path, [group, group])
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:57])
    with pytest.raises(DataError, match="ends in half a line"):
        append_groups(path, [group])
    lines = complete_lines(path)
    assert (lines.complete, lines.removed_bytes) == (3, 57)
    append_groups(path, [group])
    assert list(read_groups(path)) == [group] * 4


def test_a_whole_last_line_without_newline_counts(tmp_path: Path) -> None:
    path, group = tmp_path / "g.jsonl", full_group(tmp_path)
    append_groups(path, [group, group])
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert complete_lines(path).complete == 2
    append_groups(path, [group])
    assert list(read_groups(path)) == [group] * 3


BASE: dict[str, Any] = {
    "prompts": [{"id": "1", "messages": [{"role": "user", "content": "?"}]}],
    "responses": [{"text": "a", "tokens": [1, 2]}, {"text": "b"}],
    "edges": [{"winner": 0, "loser": 1}],
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row.update(respones=[]), r"unknown key 'respones'. Did you mean 'responses'"),
        (lambda row: row["responses"][0].update(rewad=1), r"unknown key 'responses\[0\].rewad'. Did you mean 'reward'"),
        (lambda row: row["prompts"][0]["messages"][0].update(rol=1), r"unknown key 'prompts\[0\].messages\[0\].rol'"),
        (lambda row: row["edges"][0].update(winner=True), r"'edges\[0\].winner' is true, expected a whole number"),
        (lambda row: row["edges"][0].update(kind="txt"), r"'edges\[0\].kind' is \"txt\", expected one of"),
        (lambda row: row["edges"][0].update(loser=2), r"compares responses 0 and 2 of 2"),
        (lambda row: row["edges"][0].update(loser=0), r"expected two different responses"),
        (lambda row: row["responses"][1].update(prompt=1), r"'responses\[1\].prompt' is 1, expected an index below 1"),
        (lambda row: row["responses"][0].update(trained=[True]), r"'responses\[0\].trained' has 1 entries, expected 2"),
        (lambda row: row["responses"][1].update(weights=[1]), r"'responses\[1\].weights' is given without tokens"),
        (lambda row: row["responses"][0].pop("text"), r"missing key 'responses\[0\].text'"),
        (lambda row: row["responses"][0].update(tokens=[1, "2"]), r"expected a list of whole numbers"),
        (lambda row: row.update(prompts=[]), r"'prompts' is empty"),
        (
            lambda row: row["responses"][0].update(reward=float("nan")),
            r"'responses\[0\].reward' is NaN, expected a finite",
        ),
        (lambda row: row["responses"][0].update(rewards={"x": float("inf")}), r"expected an object of finite numbers"),
        (
            lambda row: row["responses"][0].update(tokens=[]),
            r"tokens' is \[\], expected a list of whole numbers, at least",
        ),
        (lambda row: row["responses"][0].update(tokens=[1, -1]), r"none below 0"),
        (lambda row: row["responses"][0].update(weights=[1.0]), r"'responses\[0\].weights' has 1 entries, expected 2"),
        (
            lambda row: row["responses"][0].update(weights=[1.0, -1]),
            r"weights' is \[1.0, -1\], expected .*each 0 or more",
        ),
        (
            lambda row: row["edges"][0].update(weight=-1.0),
            r"'edges\[0\].weight' is -1.0, expected a finite number, 0 or",
        ),
        (
            lambda row: row["edges"].append({"winner": 1, "loser": 0}),
            r"prefers response 0 over 1, and another edge says",
        ),
        (
            lambda row: row["prompts"][0].update(id=""),
            r"'prompts\[0\].id' is \"\", expected a string that is not empty",
        ),
        (lambda row: row["prompts"][0]["messages"][0].update(weight=2), r"messages\[0\].weight' is 2, expected 0 or 1"),
    ],
)
def test_errors_name_file_line_and_key(tmp_path: Path, change: Any, message: str) -> None:
    row = json.loads(json.dumps(BASE))
    group_from_json(row)
    change(row)
    (tmp_path / "g.jsonl").write_text(json.dumps(BASE) + "\n" + json.dumps(row) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=rf"g\.jsonl:2: .*{message}"):
        list(read_groups(tmp_path / "g.jsonl"))


def test_null_counts_as_absent() -> None:
    row = {**BASE, "responses": [{"text": "a", "label": None, "tokens": None}, {"text": "b"}]}
    assert group_from_json(row).responses[0] == Response(text="a")


def test_the_weights_behind_each_token_are_kept_and_counted():
    row = {"prompts": [{"id": "p", "messages": [{"role": "user", "content": "what is there"}]}]}
    row["responses"] = [{"text": "a star", "tokens": [5, 6], "policy_version": 4, "weight_versions": [4, 6]}]
    group = group_from_json(row)
    assert group.responses[0].weight_versions == (4, 6) and group_to_json(group) == row
    for wrong, told in (([4], "has 1 entries, expected 2"), ([4, -1], "none below 0"), (["4", "6"], "whole numbers")):
        row["responses"][0]["weight_versions"] = wrong
        with pytest.raises(DataError, match=told):
            group_from_json(row)

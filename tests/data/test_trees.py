"""Tree files: what is written is read, whole lines survive a kill, and what is wrong is named."""

from __future__ import annotations

import json

import pytest

from sightline.data.schema import complete_lines
from sightline.data.trees import append_trees, read_trees, tree_to_json
from sightline.errors import DataError
from sightline.relations.tree import Sentence, SentenceTree
from sightline.types import Group, Prompt


def tree(name, folder):
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what?"}]}
    prompt = Prompt(id=name, messages=(message,), images=(str(folder / "a.png"),), facts={"truth": ["dog"]})
    nodes = (
        Sentence(id=0),
        Sentence(id=1, parent=0, tokens=(5, 6), logprobs=(-0.25, -1.5), text="A dog.", clip=21.5),
        Sentence(id=2, parent=1, tokens=(2,), logprobs=(-0.125,), final="stop", answer="A dog."),
        Sentence(id=3, parent=0, tokens=(7,), logprobs=(-3.0,), text="tttt", junk="run"),
    )
    return SentenceTree(group=Group(prompts=(prompt,), source="q.jsonl:1"), nodes=nodes)


def test_trees_come_back_as_they_were_and_half_a_line_goes(tmp_path):
    path, trees = tmp_path / "trees.jsonl", [tree(name, tmp_path) for name in "abc"]
    assert append_trees(path, trees[:2]) == 2
    assert json.loads(path.read_text().splitlines()[0])["prompts"][0]["images"] == ["a.png"]
    with path.open("a") as out:
        out.write('{"prompts": [{"id"')
    assert complete_lines(path).complete == 2
    append_trees(path, trees[2:])
    assert list(read_trees(path)) == trees


def test_paths_and_what_counts(tmp_path):
    (one,) = [list(path) for path in tree("a", tmp_path).answers()]
    assert [node.id for node in one] == [1, 2]
    assert [node.counts for node in tree("a", tmp_path).nodes] == [False, True, False, False]
    assert tree("a", tmp_path).unasked() == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda row: row.pop("nodes"), "no tree but"),
        (lambda row: row["nodes"].append(3), r"nodes\[4\] is 3"),
        (lambda row: row["nodes"][1].update(token=[3]), r"unknown key 'nodes\[1\]\.token'"),
        (lambda row: row["nodes"][1].update(tokens=[-1, 2]), r"'nodes\[1\]\.tokens' is \[-1, 2\]"),
        (lambda row: row["nodes"][1].update(clip="x"), r"'nodes\[1\]\.clip'"),
        (lambda row: row["nodes"][1].update(tokens=[1]), "has 1 tokens and 2 logprobs"),
        (lambda row: row["nodes"][1].update(parent=1), r"'nodes\[1\]\.parent' is 1"),
        (lambda row: row["nodes"][1].pop("parent"), r"'nodes\[1\]\.parent' is None"),
        (lambda row: row["nodes"][2].update(id=7), r"'nodes\[2\]\.id' is 7, expected 2"),
        (lambda row: row["nodes"][2].update(final="end"), r"'nodes\[2\]\.final' is \"end\""),
        (lambda row: row["nodes"][2].pop("answer"), r"'nodes\[2\]\.answer' is missing"),
        (lambda row: row.update(prompts=[]), "'prompts' is empty"),
    ],
)
def test_what_is_no_tree_is_named_with_its_line(tmp_path, change, told):
    row = tree_to_json(tree("a", tmp_path), tmp_path)
    change(row)
    path = tmp_path / "trees.jsonl"
    append_trees(path, [tree("z", tmp_path)])
    with path.open("a") as out:
        out.write(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=told) as error:
        list(read_trees(path))
    assert f"{path}:2" in str(error.value)
    with pytest.raises(DataError, match="cannot be read"):
        list(read_trees(tmp_path / "none.jsonl"))

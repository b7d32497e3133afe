"""``online.reward``: a name or named terms, strict, with errors that say what to write."""

import dataclasses
import typing
from pathlib import Path

import pytest

from sightline.errors import RecipeError
from sightline.recipes.describe import describe_recipe
from sightline.recipes.field_docs import field_docs
from sightline.recipes.load import dump_recipe, load_recipe, terms_of
from sightline.recipes.rewards import pairs_of, weights_of
from sightline.recipes.terms import TERMS, AnyTerm, FormatSpec, LengthSpec, ObjectsSpec

BASE = """name: test
output_dir: runs/test
model: {path: model}
algorithm: {name: dpo}
online:
  prompts: {path: p.jsonl}
  reward:"""


def loaded(folder: Path, reward: str, *overrides: str):
    path = folder / "recipe.yaml"
    path.write_text(f"{BASE} {reward}\n")
    return load_recipe(path, overrides)


def refused(folder: Path, reward: str) -> str:
    with pytest.raises(RecipeError) as error:
        loaded(folder, reward)
    return str(error.value)


def test_a_name_stays_a_name(tmp_path):
    assert loaded(tmp_path, "scenes").online.reward == "scenes"


def test_terms_are_typed_and_take_their_kind_from_their_name(tmp_path):
    reward = loaded(
        tmp_path,
        "{objects: {world: scenes, measure: precision}, tidy: {kind: format, tags: [think, answer], weight: 2},"
        " length: {weight: -0.1}}",
    ).online.reward
    assert reward == {
        "objects": ObjectsSpec(world="scenes", measure="precision"),
        "tidy": FormatSpec(tags=("think", "answer"), weight=2.0),
        "length": LengthSpec(weight=-0.1),
    }
    assert list(reward) == ["objects", "tidy", "length"]
    assert weights_of(reward) == {"objects": 1.0, "tidy": 2.0, "length": -0.1}


def test_a_term_is_switched_off_and_weighed_by_one_override(tmp_path):
    text = "{scenes: {}, repetition: {weight: 2}}"
    assert set(loaded(tmp_path, text, "online.reward.repetition=null").online.reward) == {"scenes"}
    assert loaded(tmp_path, text, "online.reward.repetition.weight=0.5").online.reward["repetition"].weight == 0.5


def test_a_recipe_with_terms_is_written_and_read_back(tmp_path):
    recipe = loaded(tmp_path, "{judge: {judge: 'openai:m', options: {tries: 3}}, yes_no: {where: {kind: [a, b]}}}")
    for text in (dump_recipe(recipe), describe_recipe(recipe, {})):
        again = tmp_path / "again.yaml"
        again.write_text(text)
        assert load_recipe(again) == recipe
    assert "# Prompts that the term judges" in describe_recipe(recipe, {})


@pytest.mark.parametrize(
    ("reward", "words"),
    [
        ("3", ["recipe.yaml:7: online.reward: found 3", "name of a reward, or a mapping of terms"]),
        ("{}", ["at least one term"]),
        ("{scenes: null}", ["at least one term"]),
        ("{lenth: {weight: 1}}", ["online.reward.lenth: found no kind of reward 'lenth'", "Did you mean 'length'?"]),
        ("{a: {kind: clap}}", ["no kind of reward 'clap'", "Did you mean 'clip'?"]),
        ("{exact: {wheight: 2}}", ["unknown key 'wheight' in online.reward.exact", "Did you mean 'weight'?"]),
        ("{length: {limit: 5}}", ["missing key 'online.reward.length.weight'", "long answers lose"]),
        ("{length: {weight: '1'}}", ["online.reward.length.weight: found '1' (string), expected a number"]),
        ("{exact: 3}", ["online.reward.exact: found 3", "expected a mapping"]),
        ("{no-end: {kind: no_end}}", ["a name of letters, digits and _"]),
        ("{yes_no: {reader: pop}}", ["Did you mean 'pope'?"]),
        ("{exact: {where: {a: 3}}}", ["online.reward.exact.where.a: found 3", "expected a list"]),
        ("{clip: {path: a, batch_size: 0}}", ["online.reward.clip.batch_size", "a value >= 1"]),
        ("{format: {}}", ["online.reward.format: expected either tags or pattern"]),
        ("{format: {tags: [a], pattern: a}}", ["expected either tags or pattern"]),
        ("{format: {pattern: '('}}", ["no regular expression"]),
        ("{length: {weight: 1, unit: words}}", ["words have no limit", "Add limit"]),
        ("{objects: {world: coco}}", ["reads its word lists from a folder. Add data"]),
        ("{objects: {world: scenes, data: x}}", ["data is not read. Remove data"]),
        ("{objects: {world: amber, data: x, protocol: official}}", ["protocol is read with world coco alone"]),
        ("{objects: {world: coco, data: x, similarity: spacy}}", ["similarity is read with world amber alone"]),
        ("{objects: {world: coco, data: x, captions: c}}", ["captions are read with world coco and a fact alone"]),
        ("{judge: {judge: 'openai:m', lowest: 3, highest: 3}}", ["Make highest the larger"]),
        ("{judge: {judge: 'openai:m', asks: yes_no, highest: 3}}", ["read with asks: score alone"]),
        ("{judge: {judge: 'openai:m', options: {key: k}}}", ["written to disk", "Set OPENAI_API_KEY"]),
        ("{judge: {judge: 'openai:m', samples: 3}}", ["3 samples at temperature 0"]),
        ("{judge: {judge: 'openai:m', logprobs: true}}", ["Set asks: yes_no alone"]),
        ("{scenes: {weight: 0}, no_end: {weight: 0}}", ["recipe.yaml:7: all terms have weight 0"]),
        ("{overlong: {cache: 300}}", ["recipe.yaml:7: found 300, more than the limit of 256 tokens"]),
        ("{function: {path: module.function}}", ["online.reward.function.path"]),
    ],
)
def test_what_is_wrong_is_named_with_its_place(tmp_path, reward, words):
    told = refused(tmp_path, reward)
    assert all(word in told for word in words), told


def test_the_penalty_of_overlong_answers_is_taken_once(tmp_path):
    with pytest.raises(RecipeError, match=r"recipe.yaml:7: overlong_buffer is kept under the name overlong"):
        loaded(tmp_path, "{overlong: {cache: 8}}", "online.overlong_buffer=8", "online.relation=none")


def test_all_faults_are_told_at_once(tmp_path):
    told = refused(tmp_path, "{exact: {fct: a}, lenth: {}, clip: {path: ''}}")
    assert len(told.splitlines()) == 3


def test_every_kind_is_listed_and_every_field_beyond_the_plain_is_documented():
    assert set(TERMS.values()) == set(typing.get_args(AnyTerm))
    for name, kind in TERMS.items():
        assert {f.name: f for f in dataclasses.fields(kind)}["kind"].default == name
        undocumented = {f.name for f in dataclasses.fields(kind)} - set(field_docs(kind))
        assert undocumented <= {"kind", "right", "wrong", "absolute", "lowest", "highest", "path"}


def test_terms_of_a_command_line(tmp_path):
    assert pairs_of("scenes=1, repetition=-0.5") == {"scenes": {"weight": 1.0}, "repetition": {"weight": -0.5}}
    assert [pairs_of(text) for text in ("scenes", "runs/rm", "a=b", "scenes=1,runs/rm", "my.module:Name")] == [None] * 5
    assert terms_of("runs/rm") is None
    assert weights_of(terms_of("scenes=2,no_end=0.5")) == {"scenes": 2.0, "no_end": 0.5}
    with pytest.raises(RecipeError, match=r"^--reward lenth=1: lenth: found no kind of reward"):
        terms_of("lenth=1")
    path = tmp_path / "terms.yaml"
    path.write_text("length:\n  weight: -1\n  unit: words\n  limit: 20\n")
    assert terms_of(str(path)) == {"length": LengthSpec(weight=-1.0, unit="words", limit=20)}
    path.write_text("length:\n  weight: -1\n  limt: 20\n")
    with pytest.raises(RecipeError, match=r"terms.yaml:3: unknown key 'limt' in length. Did you mean 'limit'\?"):
        terms_of(str(path))
    with pytest.raises(RecipeError, match="no such recipe file"):
        terms_of(str(tmp_path / "other.yaml"))

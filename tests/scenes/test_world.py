import json
from dataclasses import replace
from pathlib import Path

import pytest

from sightline.data.schema import group_from_json, group_to_json
from sightline.errors import DataError, RecipeError
from sightline.rewards.base import load_reward
from sightline.scenes.benchmark import COLUMNS, columns
from sightline.scenes.language import WORD, Companion
from sightline.scenes.reward import ScenesReward
from sightline.scenes.scene import Scene, SceneObject
from sightline.scenes.world import KINDS, Scenes, split_of
from sightline.types import Group, Prompt, Response

SCENE = Scene(
    id="s",
    objects=(
        SceneObject(shape="star", colour="red", size="small", row=0, column=0),
        SceneObject(shape="cross", colour="green", size="small", row=2, column=2),
    ),
)
SHAPES_10 = ("circle", "square", "triangle", "diamond", "star", "moon", "heart", "ring", "cross", "arrow")


def asked(*answers, kind="caption", truth="", finish="stop", tempting=("moon",), about=None):
    facts = {
        "kind": kind,
        "truth": truth,
        "tempting": list(tempting),
        "about": about or {"shape": "moon", "tempting": True},
        "scene": SCENE.facts(),
    }
    prompt = Prompt(id="p", messages=({"role": "user", "content": []},), facts=facts)
    return Group(prompts=(prompt,), responses=tuple(Response(text=a, finish_reason=finish) for a in answers))


def words(groups):
    return [
        (p.messages[0]["content"][1]["text"], r.text)
        for g in groups
        for p, r in zip(g.prompts, g.responses, strict=True)
    ]


# --- scenes -----------------------------------------------------------------------------------


def test_the_same_seed_is_the_same_world(tmp_path):
    first, again, other = (
        list(Scenes(seed=seed).groups("train", 5, tmp_path / name)) for seed, name in ((3, "a"), (3, "b"), (4, "c"))
    )
    assert words(first) == words(again)
    assert words(first) != words(other)
    assert [g.prompts[0].facts for g in first] == [g.prompts[0].facts for g in again]
    for one, two in zip(first, again, strict=True):
        assert Path(one.prompts[0].images[0]).read_bytes() == Path(two.prompts[0].images[0]).read_bytes()


def test_splits_share_no_scene_whatever_the_seed():
    train = {Scenes(seed=s, objects=(2, 2), grid=2).scene("train", k).signature for s in range(2) for k in range(400)}
    held = {Scenes(seed=s, objects=(2, 2), grid=2).scene("held_out", k).signature for s in range(2) for k in range(400)}
    assert not train & held
    assert {split_of(Scenes().scene("held_out", k)) for k in range(20)} == {"held_out"}


def test_a_scene_does_not_depend_on_how_many_are_made(tmp_path):
    world = Scenes()
    whole = list(world.groups("train", 6, tmp_path))
    assert words(world.groups("train", 2, tmp_path, start=4)) == words(whole[4:])


def test_the_dials_of_a_world_are_its_frequencies():
    companions = {"star": Companion(shape="moon", colour="yellow")}
    world = Scenes(context=0.6, together=0.25, objects=(3, 3), repeats=0.0, companions=companions, shapes=SHAPES_10)
    scenes = [world.scene("train", k) for k in range(3000)]
    stars = [s for s in scenes if "star" in s.shapes]
    # A scene that is not drawn around a star holds one by chance, in three draws of ten shapes.
    assert len(stars) / len(scenes) == pytest.approx(0.6 + 0.4 * 0.3, abs=0.03)
    # By chance too its moon was drawn before it: in one of three places before the star, of ten shapes.
    by_chance = 0.4 * sum(k / 90 for k in range(3)) / (0.6 + 0.4 * 0.3)
    there = sum("moon" in s.shapes for s in stars) / len(stars)
    assert there == pytest.approx(0.6 * 0.25 / (0.6 + 0.4 * 0.3) + by_chance, abs=0.03)
    assert all(len(s.shapes) == 3 for s in scenes)


# --- language ---------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", [0.0, 0.6, 1.0])
def test_the_prior_is_how_often_an_absent_companion_is_named(tmp_path, prior):
    world = Scenes(prior=prior)
    groups = list(world.groups("train", 600, tmp_path, kinds=("caption",)))
    records = world.grade(groups)
    tempted = sum(len(g.prompts[0].facts["tempting"]) for g in groups)
    cog = sum(r.counts["cog"] for r in records)
    assert cog / tempted == pytest.approx(prior, abs=0.05)
    metrics = world.metrics(records)
    assert metrics["cover"] == 1.0
    assert metrics["chair"] == metrics["cog"]
    assert (metrics["repeated"], metrics["miscoloured"]) == (0.0, 0.0)


def test_training_answers_to_questions_are_true(tmp_path):
    world = Scenes(objects=(2, 5), repeats=0.3)
    groups = list(world.groups("train", 300, tmp_path, kinds=KINDS[1:], questions_per_scene=6))
    metrics = world.metrics(world.grade(groups))
    for name in ("accuracy", "precision", "recall", "f1", "tempting_accuracy"):
        assert metrics[name] == 1.0
    for kind in ("relation", "count", "colour"):
        assert metrics[f"{kind}_accuracy"] == 1.0
    assert 0.45 < metrics["yes_rate"] < 0.6


def test_a_group_asks_several_things_about_one_picture(tmp_path):
    groups = list(Scenes().groups("train", 40, tmp_path, questions_per_scene=3))
    for group in groups:
        kinds = [prompt.facts["kind"] for prompt in group.prompts]
        assert kinds[0] == "caption"
        assert "caption" not in kinds[1:]
        assert len(kinds) == 4
        assert len({prompt.images for prompt in group.prompts}) == 1
        assert len({prompt.id for prompt in group.prompts}) == 4
        assert len({prompt.messages[0]["content"][1]["text"] for prompt in group.prompts}) == 4
        assert [response.prompt for response in group.responses] == [0, 1, 2, 3]
        assert group.prompts[0].messages[0]["content"][0] == {"type": "image"}
    assert {p.facts["kind"] for g in groups for p in g.prompts} == set(KINDS)


def test_prompts_are_single_and_without_answers(tmp_path):
    groups = list(Scenes().prompts("held_out", 10, tmp_path, kind="presence", per_scene=3))
    assert len(groups) == 30
    assert all(len(g.prompts) == 1 and not g.responses for g in groups)
    assert len({g.id for g in groups}) == 30
    assert len(list(Scenes().prompts("held_out", 10, tmp_path))) == 10


def test_pictures_that_are_drawn_are_not_drawn_again(tmp_path):
    asked = list(Scenes().prompts("held_out", 3, tmp_path, kind="presence"))
    (last,) = asked[-1].prompts[0].images
    Path(last).unlink()
    assert list(Scenes().prompts("held_out", 3, tmp_path, kind="presence", drawn=True)) == asked
    assert not Path(last).exists()


def test_the_vocabulary_holds_every_word(tmp_path):
    world = Scenes(objects=(2, 6), repeats=0.3)
    known = set(world.vocabulary())
    for question, answer in words(world.groups("train", 300, tmp_path, questions_per_scene=8)):
        assert set(WORD.findall(f"{question} {answer}")) <= known


def test_groups_survive_a_file(tmp_path):
    world = Scenes()
    group = next(world.groups("train", 1, tmp_path))
    again = group_from_json(json.loads(json.dumps(group_to_json(group))))
    assert world.reward(again).responses == world.reward(group).responses


# --- reward and benchmark ---------------------------------------------------------------------


def test_reward_of_captions():
    group = Scenes().reward(asked("A red star and a green cross.", "A red star and a yellow moon.", "A star, a star."))
    assert [r.reward for r in group.responses] == [2.0, -1.0, 0.0]
    parts = {"told": 1.0, "hallucinated": -2.0, "miscoloured": 0.0, "repeated": 0.0, "unfinished": 0.0}
    assert group.responses[1].rewards == parts


def test_reward_of_an_answer_that_was_cut_and_of_none():
    cut = Scenes().reward(asked("A red star and", finish="length")).responses[0]
    assert (cut.reward, cut.rewards["unfinished"]) == (0.0, -1.0)
    failed = Scenes().reward(asked("", finish="error")).responses[0]
    assert (failed.reward, failed.rewards) == (None, {})


def test_reward_of_answers():
    group = Scenes(scoring=ScenesReward(right=2.0)).reward(asked("No.", "Yes.", "A moon.", kind="presence", truth="no"))
    assert [r.reward for r in group.responses] == [2.0, -2.0, -2.0]


def test_a_prompt_without_facts_cannot_be_rewarded_or_graded():
    group = Group(prompts=(Prompt(id="p7", messages=()),), responses=(Response(text="A star."),))
    for judge in (Scenes().reward, lambda g: Scenes().grade([g])):
        with pytest.raises(DataError, match="p7"):
            judge(group)


def test_the_reward_is_found_by_name():
    assert load_reward("scenes").reward(asked("A red star.")).responses[0].reward == 1.0


def test_metrics_of_captions():
    groups = [asked("A red star and a moon.", "A blue star, a ring and a moon. A red cross.", "Nothing.")]
    records = Scenes().grade(groups)
    assert Scenes().metrics(records) == pytest.approx(
        {
            "chair": 3 / 6,
            "hal": 2 / 3,
            "cover": 3 / 6,
            "cog": 2 / 6,
            "repeated": 0.0,
            "miscoloured": 2 / 6,
            "length": (6 + 11 + 1) / 3,
        }
    )
    assert [record.text[slice(*record.wrong[0])] for record in records[:2]] == ["moon", "ring"]
    assert [record.missed for record in records] == [("cross",), (), ("cross", "star")]


def test_metrics_of_presence_questions():
    groups = [
        asked(
            "Yes.", "Yes.", "No.", "Perhaps.", kind="presence", truth="yes", about={"shape": "star", "tempting": False}
        ),
        asked("Yes.", "No.", kind="presence", truth="no"),
    ]
    metrics = Scenes().metrics(Scenes().grade(groups))
    assert metrics == pytest.approx(
        {
            "accuracy": 3 / 6,
            "precision": 2 / 3,
            "recall": 2 / 4,
            "f1": 2 * 2 / (3 + 4),
            "yes_rate": 3 / 6,
            "tempting_accuracy": 1 / 2,
        }
    )


def test_columns_are_one_number_per_answer():
    table = columns(Scenes().grade([asked("A moon.", "A red star."), asked("Yes.", kind="presence", truth="no")]))
    assert tuple(table) == COLUMNS
    assert table["hallucinated"] == [1.0, 0.0, 0.0]
    assert table["asked"] == [0.0, 0.0, 1.0]


# --- errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"prior": 1.5}, "prior is 1.5"),
        ({"shapes": ("star", "blob")}, "blob"),
        ({"objects": (3, 10)}, "2 <= most <= 9"),
        ({"companions": {"star": Companion(shape="moon", colour="pink")}}, "pink"),
    ],
)
def test_a_world_that_cannot_be(change, told):
    with pytest.raises(RecipeError, match=told):
        replace(Scenes(), **change)


def test_an_unknown_kind_or_split(tmp_path):
    with pytest.raises(RecipeError, match="smell"):
        list(Scenes().groups("train", 1, tmp_path, kinds=("smell",)))
    with pytest.raises(RecipeError, match="held_out"):
        Scenes().scene("test", 0)

"""The scene that a wrong answer tells: drawn so that the world's own grader finds the answer right."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from PIL import Image

from sightline.errors import DataError
from sightline.negatives.drawn import DrawnScenes, told_scene
from sightline.negatives.pairs import Lost, Made, pair_of
from sightline.scenes.grader import grade_answer, grade_caption
from sightline.scenes.language import NUMBERS
from sightline.scenes.scene import COLOURS, Scene, SceneObject
from sightline.scenes.world import KINDS, Scenes
from sightline.types import Edge, Group, Prompt, Response

WORLD = Scenes(seed=3, pixels=48)


def pair(prompt: Prompt, chosen: str, rejected: str, seed: int = 0):
    answers = (Response(text=chosen), Response(text=rejected))
    return pair_of(Group(prompts=(prompt,), responses=answers), Edge(winner=0, loser=1), seed)


def wrong(prompt: Prompt, rng: random.Random) -> str:
    """A wrong answer to a question."""
    truth = prompt.facts["truth"]
    if truth in ("yes", "no"):
        return "Yes." if truth == "no" else "No."
    if truth in COLOURS:
        return f"It is {rng.choice([name for name in COLOURS if name != truth])}."
    return f"There are {rng.choice([word for word in NUMBERS[:6] if word != truth])}."


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "caption"])
def test_a_wrong_answer_is_right_about_its_picture_and_the_true_one_wrong(kind, tmp_path):
    groups = list(WORLD.prompts("train", 40, tmp_path / "p", kind=kind, per_scene=2))
    rng, made = random.Random(0), 0
    for group in groups:
        prompt = group.prompts[0]
        rejected, chosen = wrong(prompt, rng), f"{prompt.facts['truth'].capitalize()}."
        assert grade_answer(rejected, prompt.facts) is False
        one = DrawnScenes(folder=tmp_path).make([pair(prompt, chosen, rejected)])[0]
        if isinstance(one, Lost):
            assert kind == "count" and ("no room" in one.reason or "zero" in rejected)  # a picture of nothing
            continue
        made += 1
        assert grade_answer(rejected, one.facts) is True and grade_answer(chosen, one.facts) is False
        assert Image.open(one.image).tobytes() == Scene.from_facts(one.facts["scene"]).draw().tobytes()
    assert made >= 0.9 * len(groups) > 30


def test_a_caption_that_hallucinates_is_true_of_its_picture(tmp_path):
    """The biased captioner of the world names companions that are not there."""
    world, seen = Scenes(seed=5, prior=1.0, together=0.0, context=1.0, pixels=48), 0
    for group in world.groups("train", 60, tmp_path / "p", kinds=("caption",)):
        prompt, told = group.prompts[0], group.responses[0].text
        before = Scene.from_facts(prompt.facts["scene"])
        grade = grade_caption(told, before, ())
        one = DrawnScenes(folder=tmp_path).make([pair(prompt, "I can see a thing.", told)])[0]
        assert isinstance(one, Made) and grade.hallucinated
        after = Scene.from_facts(one.facts["scene"])
        assert {m.shape for m in grade.hallucinated} <= after.shapes
        assert not grade_caption(told, after, ()).hallucinated
        kept = [item for item in after.objects if item in before.objects]
        assert len(kept) == len(before.objects)  # nothing else changed
        seen += 1
    assert seen == 60


RED_STAR = SceneObject(shape="star", colour="red", size="small", row=0, column=0)
BLUE_RING = SceneObject(shape="ring", colour="blue", size="large", row=1, column=1)


def facts(*objects: SceneObject, grid: int = 3) -> dict:
    scene = Scene(id="s", objects=objects, grid=grid, pixels=48)
    return {"kind": "caption", "truth": "", "about": {}, "tempting": [], "scene": scene.facts()}


@pytest.mark.parametrize(
    ("chosen", "rejected", "expected"),
    [
        ("A red star and a blue ring.", "A green star and a blue ring.", {"green star", "blue ring"}),  # another colour
        ("A red star and a blue ring.", "A red star.", {"red star"}),  # what the chosen one tells beside is gone
        ("A red star.", "A red star and a purple moon.", {"red star", "blue ring", "purple moon"}),
        ("A blue ring.", "Two red stars.", {"red star", "red star "}),  # told twice, and the ring is gone
        ("A red star and a ring.", "A black moon.", {"black moon"}),
    ],
)
def test_captions_by_hand(chosen, rejected, expected):
    after = told_scene(facts(RED_STAR, BLUE_RING), chosen, rejected, random.Random(1))
    found = sorted(f"{item.colour} {item.shape}" for item in after.objects)
    assert found == sorted(name.strip() for name in expected)


def test_where_there_is_no_room_what_nobody_tells_makes_place():
    full = facts(RED_STAR, grid=1)
    after = told_scene(full, "A red star.", "A blue moon.", random.Random(0))
    assert [(item.colour, item.shape) for item in after.objects] == [("blue", "moon")]
    prompt, answers = Prompt(id="a", messages=(), facts=full), ("A red star and a moon.", "Nothing.", "A red star.")
    lost = DrawnScenes(folder=Path("unused")).make([pair(prompt, "A red star.", answer) for answer in answers])
    assert [one.outcome for one in lost] == ["failed"] * 3
    assert "no room" in lost[0].reason and "tells no object" in lost[1].reason and "differs" in lost[2].reason


def test_what_is_drawn_depends_on_the_pair_and_the_seed_alone(tmp_path):
    prompts = [group.prompts[0] for group in WORLD.prompts("train", 4, tmp_path / "p")]
    pairs = [pair(prompt, "A thing.", "A purple cross and two rings.", 7) for prompt in prompts]
    first = DrawnScenes(folder=tmp_path / "a").make(pairs)
    again = DrawnScenes(folder=tmp_path / "b").make(pairs[::-1])[::-1]
    assert [one.facts for one in first] == [one.facts for one in again]
    other = DrawnScenes(folder=tmp_path / "c").make(
        [pair(prompt, "A thing.", "A purple cross and two rings.", 8) for prompt in prompts]
    )
    assert [one.facts for one in first] != [one.facts for one in other]


def test_prompts_of_another_world_are_refused(tmp_path):
    group = Group(prompts=(Prompt(id="a", messages=(), images=("a.png",)),), source="rows.jsonl:3")
    with pytest.raises(DataError, match=r"rows\.jsonl:3: .*has no scene"):
        DrawnScenes(folder=tmp_path).check([group])

"""The "does it look?" meter: in closed form, and on runs that do and do not learn from pictures."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scene_pairs
import torch
import train_runs
from PIL import Image

from sightline.data.render import Renderer
from sightline.data.schema import read_groups, write_groups
from sightline.models.layout import lay_out
from sightline.models.load import load_policy
from sightline.recipes.schema import (
    DatasetSpec,
    DataSpec,
    LookingSpec,
    ModelSpec,
    NegativeSpec,
    ReadsSpec,
    SamplingSpec,
    VisualSpec,
)
from sightline.relations.pairs import first_pair
from sightline.train.looking import look, margins
from sightline.train.loop import train
from sightline.train.metrics import read_metrics
from sightline.train.probe import Looking, blind_at_the_end, read_margins, spread, under_pictures
from sightline.train.session import open_session
from sightline.types import Edge, Group, Prompt, Response

WARNING = "the preference does not depend on the picture"


@pytest.fixture(scope="module")
def tiny_scenes(tmp_path_factory):
    return scene_pairs.model(tmp_path_factory.mktemp("scenes") / "model")


def readings(folder):
    return [r for r in read_metrics(Path(folder) / "run" / "metrics.jsonl") if "looking/margin" in r]


# --- a reading ---


def test_a_reading_in_closed_form():
    reading = read_margins(np.array([[4.0, 1.0, 2.0], [6.0, 5.0, 2.0], [-1.0, 0.0, -3.0], [3.0, 4.0, 1.0]]))
    figures = reading.figures()
    assert figures["looking/margin"] == pytest.approx(12 / 4)
    assert figures["looking/blank"] == pytest.approx((3 + 1 - 1 - 1) / 4)
    assert figures["looking/other"] == pytest.approx((2 + 4 + 2 + 2) / 4)
    assert 2.0 <= figures["looking/other/low"] < 2.5 < figures["looking/other/high"] <= 4.0
    assert reading.size == pytest.approx(14 / 4)
    assert figures["looking/blind"] == 0


def test_what_counts_as_blind():
    pairs, noise = 32, np.linspace(-1, 1, 32)
    true = np.full(pairs, 10.0)

    def blind(gap):
        return read_margins(np.stack([true, true - 5, true - gap], axis=1)).blind

    assert blind(noise)  # as often larger as smaller, and never by a tenth of a margin of 10
    assert blind(0.5 + noise * 0.1)  # certain, and too small
    assert not blind(1.5 + noise * 0.1)
    assert not blind(0.5 + noise * 10)  # uncertain: so wide an interval proves no blindness
    assert not blind(-1.5 + noise * 0.1)  # smaller under the true picture: it looks, and errs
    assert read_margins(np.stack([true, true - noise], axis=1)).blind  # no other picture: the white one decides


def test_the_last_blind_readings_are_counted_from_the_records():
    records = [
        {"step": 1},
        {"looking/blind": 1.0},
        {"looking/blind": 0.0},
        {"looking/blind": 1.0},
        {"looking/blind": 1.0},
    ]
    assert blind_at_the_end(records) == 2
    assert blind_at_the_end(records[:3]) == 0


# --- what is read ---


def pair(index, image, extra=()):
    content = [{"type": "image"}, {"type": "text", "text": "what?"}]
    answers = (Response(text="yes"), Response(text="no"), *extra)
    prompt = Prompt(id=f"row-{index}", messages=({"role": "user", "content": content},), images=(image,))
    return Group(prompts=(prompt,), responses=answers, edges=(Edge(winner=0, loser=1),))


def test_a_probe_holds_each_pair_under_three_pictures(pictures, tmp_path):
    groups = under_pictures([pair(i, pictures[i]) for i in range(3)], folder=tmp_path, seed=0)
    for index, group in enumerate(groups):
        true, blank, other = (prompt.images[0] for prompt in group.prompts)
        assert true == pictures[index]
        assert Image.open(blank).size == Image.open(true).size
        assert Image.open(blank).getextrema() == ((255, 255),) * 3
        assert other in set(pictures[:3]) - {true}
        sides = [
            [(group.responses[i].text, group.responses[i].prompt) for i in (e.winner, e.loser)] for e in group.edges
        ]
        assert sides == [[("yes", place), ("no", place)] for place in range(3)]


def test_without_another_picture_only_the_white_one_is_left(pictures, tmp_path):
    groups = under_pictures([pair(i, pictures[0]) for i in range(2)], folder=tmp_path, seed=0)
    assert [len(group.prompts) for group in groups] == [2, 2]


def test_pairs_are_the_first_comparison_about_a_picture(pictures):
    group = pair(0, pictures[0], extra=(Response(text="maybe"),))
    group = replace(group, edges=(Edge(winner=2, loser=1), Edge(winner=0, loser=1)))
    assert [r.text for r in first_pair(group).responses] == ["maybe", "no"]
    assert first_pair(replace(group, edges=())) is None
    assert first_pair(replace(group, prompts=(replace(group.prompts[0], images=()),))) is None


def test_labelled_answers_are_compared_as_their_labels_say(pictures):
    good, bad, other = Response(text="good", label=True), Response(text="bad", label=False), Response(text="other")

    def compared(*answers):
        edges = tuple(Edge(winner=i, loser=len(answers), kind="mismatched") for i in range(len(answers)))
        group = replace(pair(0, pictures[0]), responses=(*answers, replace(other, label=False)), edges=edges)
        made = first_pair(group)
        return [made.responses[end].text for end in (made.edges[0].winner, made.edges[0].loser)]

    assert compared(bad, good) == ["good", "bad"]
    assert compared(good) == ["good", "other"]
    assert compared(bad) == ["other", "bad"]


def test_a_probe_is_spread_over_the_rows():
    assert spread(list(range(10)), 4) == [0, 2, 5, 7]
    assert spread([1, 2], 4) == [1, 2]


def test_a_text_only_reward_model_is_not_asked_to_look(tmp_path):
    options = {"spec": LookingSpec(), "candidates": [], "folder": tmp_path, "seed": 0}
    assert Looking(**options).on
    assert not Looking(**options, reads=ReadsSpec(images="caption")).on
    assert not Looking(**(options | {"spec": LookingSpec(every=0)})).on


# --- runs ---


def test_a_preference_learnt_from_pictures_shows_a_gap(tiny_scenes, tmp_path, caplog):
    train(scene_pairs.recipe(tiny_scenes, tmp_path, seen=True), quiet=True)
    found = readings(tmp_path)
    assert [record["step"] for record in found] == [10, 20]
    assert found[-1]["looking/other"] > 0.5 * found[-1]["looking/margin"] > 1
    assert found[-1]["looking/other/low"] > 1
    for name in ("margin", "blank", "other"):  # the policy's own figures differ by those before training
        before = [record[f"looking/policy/{name}"] - record[f"looking/{name}"] for record in found]
        assert before[0] == pytest.approx(before[1], abs=1e-9)
    assert found[-1]["looking/blind"] == 0
    assert WARNING not in caplog.text


def test_a_preference_learnt_from_text_alone_shows_none_and_warns(tiny_scenes, tmp_path, caplog):
    recipe = scene_pairs.recipe(tiny_scenes, tmp_path, seen=False, max_steps=30)
    with caplog.at_level(logging.WARNING):
        train(recipe, quiet=True)
    found = readings(tmp_path)
    assert found[-1]["rewards/accuracies"] == 1  # a perfect run by any other figure
    assert found[-1]["looking/margin"] > 10
    assert abs(found[-1]["looking/other"]) < 0.01 * found[-1]["looking/margin"]
    assert [record["looking/blind"] for record in found] == [1, 1, 1]
    assert caplog.text.count(WARNING) == 1
    assert "Step 20" in caplog.text and "2 readings in a row" in caplog.text


def test_margins_are_those_of_the_policy_on_its_own_rows(tiny_scenes, tmp_path):
    """Against the model's own forward, pair by pair; weights and mode stay as they are."""
    recipe = scene_pairs.recipe(tiny_scenes, tmp_path, looking=LookingSpec(every=5, groups=4), micro_batch_tokens=60)
    with open_session(recipe) as session:
        session.policy.train()
        before = [p.clone() for p in session.trained_parameters()]
        probe = session.looking.prepare(session.render)
        found = margins(session, probe)
        assert session.policy.training
        assert all(torch.equal(a, b) for a, b in zip(before, session.trained_parameters(), strict=True))
    policy = load_policy(ModelSpec(path=str(tiny_scenes)), trainable=False)
    render = Renderer(policy.processor, policy.family).render
    for group in probe:
        batch = lay_out([render(group)], "rows", policy.family, policy.config)
        with torch.no_grad():
            logprobs = policy(batch).logprobs
        sums = [float(logprobs[batch.response == r].sum()) for r in range(6)]
        expected = [sums[0] - sums[1], sums[2] - sums[3], sums[4] - sums[5]]
        assert found[group.id] == pytest.approx(expected, abs=2e-5)


def test_a_resumed_run_goes_on_counting(tiny_scenes, tmp_path, caplog):
    def run(steps):
        spec = LookingSpec(every=10, groups=16, patience=3)
        train(scene_pairs.recipe(tiny_scenes, tmp_path, seen=False, max_steps=steps, looking=spec), quiet=True)

    run(20)
    assert WARNING not in caplog.text
    run(30)
    assert caplog.text.count("3 readings in a row") == 1


def test_reward_models_are_read_by_their_scores(tiny_scenes, tmp_path):
    recipe = scene_pairs.recipe(tiny_scenes, tmp_path, max_steps=20, looking=LookingSpec(every=20, groups=8))
    recipe = replace(recipe, algorithm={"name": "reward_model"}, reference="none")
    train(recipe, quiet=True)
    (reading,) = readings(tmp_path)
    assert reading["looking/other"] > 0.5 * reading["looking/margin"] > 0.05
    assert reading["looking/blind"] == 0


def test_the_meter_changes_no_weight(tiny, tmp_path):
    def losses(folder, every):
        options = {"responses": 2, "max_steps": 4, "looking": LookingSpec(every=every)}
        train(train_runs.recipe(tiny["llava"], tmp_path / folder, **options), quiet=True)
        return train_runs.losses(tmp_path / folder / "run")

    assert losses("with", 1) == losses("without", 0)
    assert readings(tmp_path / "with") and not readings(tmp_path / "without")


def test_pairs_are_read_although_only_pictures_are_compared(tiny_scenes, tmp_path):
    """S-VCO trains no rejected answer under the true picture: the meter reads it from the data."""
    visual = VisualSpec(relation="svco", negative=NegativeSpec(kind="other"))
    recipe = scene_pairs.recipe(tiny_scenes, tmp_path, visual=visual, max_steps=2)
    train(recipe, quiet=True)
    assert readings(tmp_path)[-1].keys() >= {"looking/blank", "looking/other"}


def test_held_out_pairs_are_read_where_there_are_any(tiny_scenes, tmp_path):
    recipe = scene_pairs.recipe(tiny_scenes, tmp_path)
    (rows,) = recipe.data.train
    held_out = tmp_path / "held_out.jsonl"
    write_groups(held_out, list(read_groups(rows.path))[:3])
    with open_session(replace(recipe, data=replace(recipe.data, eval=(replace(rows, path=str(held_out)),)))) as session:
        assert len(session.looking.prepare(session.render)) == 3


def test_online_runs_without_comparisons_are_not_read(tiny, tmp_path):
    recipe = train_runs.online(
        tiny["llava"], tmp_path, "train_runs:CountsE", algorithm={"name": "sft"}, reference="none"
    )
    recipe = replace(recipe, online=replace(recipe.online, relation="none"))
    train(recipe, quiet=True)
    assert not readings(tmp_path) and not (tmp_path / "run/looking.json").exists()


def test_sampled_pairs_are_read_in_online_runs(tiny, tmp_path):
    recipe = train_runs.online(tiny["llava"], tmp_path, "train_runs:CountsE", looking=LookingSpec(every=2, groups=3))
    recipe = replace(recipe, online=replace(recipe.online, sampling=SamplingSpec(n=4, max_new_tokens=6)))
    train(recipe, quiet=True)
    assert [record["step"] for record in readings(tmp_path)] == [2, 4, 6]
    sampled = (pair for group in read_groups(tmp_path / "run/samples.jsonl") if (pair := first_pair(group)))
    with open_session(recipe, resume=True) as session:
        look(session)
        assert [group.id for group in session.looking.probe] == [next(sampled).id for _ in range(3)]


@pytest.mark.parametrize("paired", [True, False])
def test_labelled_answers_are_read_and_warned_of(tiny_scenes, tmp_path, caplog, paired):
    """KTO on "red is good, blue is bad whatever is seen", from pairs or answer by answer."""
    base = scene_pairs.recipe(tiny_scenes, tmp_path, seen=False, max_steps=30)
    rows = tmp_path / "pairs.jsonl"
    groups = list(read_groups(rows))
    if not paired:
        groups = [single for group in groups for single in labelled(group)]
    third = replace(
        groups[0].responses[0], text="green", label=True
    )  # pairs of two words need a third to be mismatched
    prompt = replace(groups[0].prompts[0], id="third", messages=({"role": "user", "content": "what?"},), images=())
    write_groups(rows, [*groups, Group(prompts=(prompt,), responses=(third,))])
    source = DataSpec(path=str(rows), relation="mismatched")
    algorithm = {"name": "kto", "beta": 0.1}
    with caplog.at_level(logging.WARNING):
        record = train(replace(base, algorithm=algorithm, data=DatasetSpec(train=(source,))), quiet=True).last
    assert record["looking/margin"] > 1 and record["looking/blind"] == 1
    assert WARNING in caplog.text


def labelled(group):
    for place, response in enumerate(group.responses):
        prompt = replace(group.prompts[0], id=f"{group.id}-{place}")
        yield Group(prompts=(prompt,), responses=(replace(response, label=place == 0),))

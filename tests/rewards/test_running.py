"""Rewards measured by the last ones: the window, the numbers, what is kept in checkpoints, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import train_runs

from sightline.data.schema import read_groups
from sightline.errors import RecipeError
from sightline.recipes.load import load_recipe
from sightline.recipes.schema import SamplingSpec
from sightline.recipes.standardise import StandardiseSpec
from sightline.rewards.running import RunningScores
from sightline.train.loop import train
from sightline.train.session import open_session


def test_numbers_of_the_seed_study():
    """Mean 2, deviation (n - 1) 2: a score of 3 is half a deviation, times 10; one of 100 is cut."""
    scores = RunningScores(StandardiseSpec(window=1000, scale=10, clip=10))
    scores.add([0.0, 2.0, 4.0])
    assert [scores(value) for value in (2.0, 3.0, 1.5, 100.0, -100.0)] == [0, 5, -2.5, 10, -10]
    free = RunningScores(StandardiseSpec(scale=10, clip=None))
    free.add([0.0, 2.0, 4.0])
    assert free(100.0) == 490


def test_the_oldest_leave_and_equal_ones_say_nothing():
    scores = RunningScores(StandardiseSpec(window=2, clip=None))
    scores.add([7.0])
    assert scores(7.0) == 0
    scores.add([50.0, 1.0, 3.0])
    assert scores.state() == [1.0, 3.0] and scores(3.0) == pytest.approx(1 / 2**0.5)
    other = RunningScores(StandardiseSpec(window=2, clip=None))
    other.restore(scores.state())
    assert other(3.0) == scores(3.0)
    scores.add([4.0, 4.0])
    assert scores(9.0) == 0


def recipe(model: Path, folder: Path, **online):
    made = train_runs.online(
        model, folder, "train_runs:CountsE", algorithm={"name": "ppo"}, reference="auto", save_every=1, max_steps=4,
        model=train_runs.lora(model),
    )  # fmt: skip
    fields = {"relation": "none", "steps_per_round": 1, "sampling": SamplingSpec(n=2, max_new_tokens=12)}
    spec = StandardiseSpec(window=6, scale=10.0, clip=8.0)
    return replace(made, online=replace(made.online, **(fields | {"standardise": spec} | online)))


def test_rewards_are_trained_by_the_window_and_written_as_they_are(tiny, tmp_path):
    made = recipe(tiny["llava"], tmp_path)
    trained = []
    with open_session(made) as session:
        for step in range(3):
            session.source.begin(step)
            trained += [[r.reward for r in group.responses] for group in session.source._buffer]
    groups = list(read_groups(str(Path(made.output_dir) / "samples.jsonl")))
    raw = [[response.reward for response in group.responses] for group in groups]
    assert len(raw) == len(trained) and any(len(set(one)) > 1 for one in raw)
    scores, at = RunningScores(made.online.standardise), 0
    for size in (2, 2, 1):  # prompts of a round: five in all
        scores.add(value for group in raw[at : at + size] for value in group)
        assert trained[at : at + size] == [[scores(value) for value in group] for group in raw[at : at + size]]
        at += size
    assert at == len(raw)


def test_a_run_that_stopped_goes_on_with_its_window(tiny, tmp_path):
    whole, broken = (recipe(tiny["llava"], tmp_path / name) for name in ("a", "b"))
    train(whole, quiet=True)

    train_runs.stop(broken, 3)
    assert train(broken, quiet=True).resumed_from == 2
    assert train_runs.figures(broken) == train_runs.figures(whole)


ONLINE = """
name: x
output_dir: x
model: {path: x}
algorithm: {name: ppo}
online: {prompts: {path: x}, reward: scenes, standardise: {window: 10}, %s}
"""


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("relation: best_worst", "standardise needs relation: none"),
        ("relation: none, greedy: true", "Remove standardise"),
    ],
)
def test_what_would_read_other_rewards_is_refused(tmp_path, line, told):
    path = tmp_path / "x.yaml"
    path.write_text(ONLINE % line)
    with pytest.raises(RecipeError, match=told):
        load_recipe(path)


def test_rewards_by_parts_do_not_see_it(tiny, tmp_path):
    with pytest.raises(RecipeError, match="does not read the rewards that it changes"):
        train(replace(recipe(tiny["llava"], tmp_path), algorithm={"name": "gdpo"}), quiet=True)

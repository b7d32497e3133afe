"""Another algorithm on rows from disk in the same steps: its gradient, its units, its names, resuming, refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import train_runs
from test_ppo import recipe as ppo

from sightline.errors import CheckpointError, RecipeError, SightlineError
from sightline.recipes.critic import CriticSpec
from sightline.recipes.load import load_recipe
from sightline.recipes.schema import DatasetSpec, DataSpec, MixSpec
from sightline.train.loop import train, train_step
from sightline.train.session import open_session


def rows(folder, responses=1, size=5):
    return DatasetSpec(train=(DataSpec(path=str(train_runs.data(folder / "mixed", size, responses))),))


def mixed(model, folder, *, responses=1, algorithm=None, weight=0.5, **options):
    spec = MixSpec(data=rows(folder, responses), algorithm=algorithm or {"name": "sft"}, weight=weight, batch_size=2)
    return replace(ppo(model, folder, **options), mix=spec)


def gradient(recipe):
    """Of the first step, not clipped."""
    with open_session(replace(recipe, train=replace(recipe.train, max_grad_norm=0)), overwrite=True) as session:
        named = [pair for part in session.policy.parts().values() for pair in part]
        found = {}
        session.optimizer.step = lambda: found.update({n: p.grad.clone() for n, p in named if p.grad is not None})
        train_step(session)
    return found


@pytest.mark.parametrize(
    ("responses", "algorithm"),
    [(1, {"name": "sft"}), (2, {"name": "dpo"}), (2, {"name": "kto"})],
    ids=lambda value: value["name"] if isinstance(value, dict) else None,
)
def test_the_gradient_is_the_sum_of_both_each_over_its_own_units(tiny, tmp_path, responses, algorithm):
    made = mixed(tiny["llava"], tmp_path / "both", responses=responses, algorithm=algorithm, micro_batch_tokens=60)
    if algorithm["name"] == "kto":
        labelled = replace(made.mix.data.train[0], relation="mismatched")
        made = replace(made, mix=replace(made.mix, data=DatasetSpec(train=(labelled,))))
    alone = replace(
        made, algorithm=algorithm, data=made.mix.data, online=None, mix=None, reference="auto",
        output_dir=str(tmp_path / "alone"), train=replace(made.train, batch_size=2, micro_batch_tokens=10_000),
    )  # fmt: skip
    whole, first, second = gradient(made), gradient(replace(made, mix=None)), gradient(alone)
    assert whole.keys() == first.keys() and second.keys() < first.keys()
    assert max(float(value.abs().max()) for value in second.values()) > 1e-4
    for name, value in whole.items():
        expected = first[name] + 0.5 * second[name] if name in second else first[name]
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_a_run_with_a_mix_stops_and_goes_on_and_waits_for_the_critic(tiny, tmp_path):
    algorithm = {"name": "ppo", "critic_warmup": 2}
    whole, broken = (
        replace(mixed(tiny["llava"], tmp_path / name, max_steps=6, save_every=1), algorithm=algorithm) for name in "ab"
    )
    train(whole, quiet=True)

    train_runs.stop(broken, 5)
    assert train(broken, quiet=True).resumed_from == 4
    told = train_runs.figures(whole)
    assert train_runs.figures(broken) == told
    own = {"loss/mix/sft", "mix/nll"}
    assert [own <= one.keys() for one in told] == [False, False, True, True, True, True]
    for one in told[2:]:
        assert one["loss/mix/sft"] == pytest.approx(0.5 * one["mix/nll"], rel=1e-5)
        assert one["loss"] == pytest.approx(one["loss/policy"] + one["loss/value"] + one["loss/mix/sft"], rel=1e-6)
    environment = json.loads((Path(whole.output_dir) / "environment.json").read_text())
    assert environment["rows"]["mix"].startswith("5 of 5 rows kept")


def test_a_row_that_changed_ends_a_run_that_goes_on(tiny, tmp_path):
    made = mixed(tiny["llava"], tmp_path, max_steps=2, save_every=1)
    train(made, quiet=True)
    file = Path(made.mix.data.train[0].path)
    file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(CheckpointError, match="made with 5 groups, the data now give 4"):
        train(made, quiet=True)


def test_layouts_and_micro_batches_agree(tiny, tmp_path):
    told = []
    for number, (layout, budget) in enumerate([("rows", 10_000), ("tree", 1)]):
        made = mixed(tiny["llava"], tmp_path / str(number), max_steps=3, micro_batch_tokens=budget)
        train(replace(made, model=replace(made.model, layout=layout)), quiet=True)
        told.append(train_runs.figures(made))
    for mine, theirs in zip(*told, strict=True):
        for name in ("loss", "loss/policy", "loss/value", "loss/mix/sft", "grad_norm"):
            assert theirs[name] == pytest.approx(mine[name], rel=2e-3, abs=2e-5), name


def test_rows_may_stand_beside_rows(tiny, tmp_path):
    """DPO with SFT beside it, each with its own units, and a reference for the one that has it."""
    made = train_runs.recipe(tiny["llava"], tmp_path, responses=2, max_steps=2, model=train_runs.lora(tiny["llava"]),
                             reference="auto")  # fmt: skip
    train(replace(made, mix=MixSpec(data=rows(tmp_path), batch_size=3)), quiet=True)
    assert {"loss/dpo", "loss/mix/sft"} <= train_runs.figures(made)[0].keys()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"algorithm": {"name": "grpo"}}, "mix: .*grpo learns from answers that the policy itself samples"),
        ({"algorithm": {"name": "reward_model"}}, "a head that the policy lacks"),
        ({"algorithm": {"name": "sft", "beta": 1.0}}, "mix: algorithm.beta is not an option of sft"),
        ({"algorithm": {"name": "kto"}}, "kto learns from nothing else"),
    ],
)
def test_what_cannot_be_mixed_in_is_refused(tiny, tmp_path, options, told):
    made = mixed(tiny["llava"], tmp_path, **options | {"responses": 2 if "reward" in str(options) else 1})
    with pytest.raises(SightlineError, match=told):
        train(replace(made, algorithm={"name": "ppo"}, critic=CriticSpec()), quiet=True)


def test_a_mix_beside_a_reward_model_is_refused(tiny, tmp_path):
    made = train_runs.recipe(tiny["llava"], tmp_path, responses=2, algorithm={"name": "reward_model"}, reference="none")
    with pytest.raises(RecipeError, match="reward_model trains none"):
        train(replace(made, mix=MixSpec(data=rows(tmp_path))), quiet=True)


YAML = """
name: x
output_dir: x
model: {path: x}
algorithm: {name: ppo}
online: {prompts: {path: x}, reward: scenes, relation: none}
mix: %s
"""


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{data: {train: [{path: a}], eval: [{path: b}]}}", "found eval, and nothing of mix"),
        ("{data: {train: [{path: a}], validation: 0.1}}", "found validation, and nothing of mix"),
        ("{data: {}}", "found no rows, expected some under mix.data.train"),
        ("{data: {train: [{path: a}]}, weigth: 2}", "unknown key 'weigth' in mix. Did you mean 'weight'"),
        ("{data: {train: [{path: a}]}, algorithm: {responses: all}}", "missing key 'algorithm.name'"),
        ("{data: {train: [{path: a}], segments: {shared: 0, corrected: 0}}}", "both 0"),
    ],
)
def test_wrong_sections_are_refused_by_their_line(tmp_path, line, told):
    path = tmp_path / "x.yaml"
    path.write_text(YAML % line)
    with pytest.raises(RecipeError, match=told):
        load_recipe(path)

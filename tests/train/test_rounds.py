"""Rounds of a policy gradient: what is kept over its optimizer steps, and what a stopped or replayed run repeats."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import train_runs

from sightline.algorithms.policy_gradient import PolicyGradient
from sightline.data.schema import read_groups
from sightline.errors import DataError, RecipeError
from sightline.recipes.schema import DatasetSpec, SamplingSpec
from sightline.rollouts.hf import HFEngine
from sightline.train.loop import train
from sightline.train.session import open_session
from tiny_models import save_tiny


def recipe(model, folder, *, algorithm=None, online=None, **options):
    made = train_runs.online(
        model, folder, "train_runs:CountsE", algorithm=algorithm or {"name": "grpo"}, reference="auto", **options
    )
    fields = {"relation": "none", "sampling": SamplingSpec(n=4, max_new_tokens=6), "inner_epochs": 2}
    spec = replace(made.online, **(fields | (online or {})))
    return replace(made, online=spec, train=replace(made.train, learning_rate=3e-3))


@pytest.fixture
def seen(monkeypatch):
    """What the loss is given, pass by pass."""
    calls, loss = [], PolicyGradient.loss

    def spy(self, batch, scores, world):
        found = loss(self, batch, scores, world)
        calls.append((batch, scores.logprobs.detach().clone(), found))
        return found

    monkeypatch.setattr(PolicyGradient, "loss", spy)
    return calls


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_the_first_step_of_a_round_has_ratio_one_and_later_ones_are_measured_by_it(tiny, tmp_path, seen, precision):
    made = recipe(tiny["llava"], tmp_path, max_steps=5, mixed_precision=precision, micro_batch_tokens=8192)
    train(made, quiet=True)
    steps = [batch for batch, _, _ in seen]
    assert [batch.on_policy for batch in steps] == [True, False, False, False, True]  # 2 parts, each twice
    for batch, _, (terms, stats) in seen:
        if batch.on_policy:
            # exp(0) at every token: the loss is the mean of the advantages to the bit
            ones = PolicyGradient()._term("policy", -torch.ones_like(batch.advantages) * batch.advantages, batch)
            assert torch.equal(terms[0].values.detach(), ones.values)
            assert float(stats["clip_ratio/region_mean"].sum) == 0
    again = steps[0], steps[2]  # the first part in both inner epochs
    assert torch.equal(again[0].old_logprobs, again[1].old_logprobs)
    assert torch.equal(again[0].advantages, again[1].advantages)
    bound = 1e-5 if precision == "no" else 0.05
    torch.testing.assert_close(steps[0].old_logprobs, seen[0][1], atol=bound, rtol=0)
    moved = (seen[2][1] - steps[2].old_logprobs).abs().max()
    assert moved > 20 * bound if precision == "no" else moved > bound


def test_every_part_of_a_step_is_timed_and_they_make_the_step(tiny, tmp_path):
    made = recipe(tiny["llava"], tmp_path, algorithm={"name": "grpo", "beta": 0.1}, max_steps=3)
    train(made, quiet=True)
    told = [json.loads(line) for line in (Path(made.output_dir) / "metrics.jsonl").read_text().splitlines()]
    parts = [f"time/{part}" for part in ("sync", "sampling", "reward", "old_logprobs", "reference", "update", "rest")]
    spent = [[record[part] for part in parts] for record in told]
    rest = [record[name] for record in told for name in record if name.startswith("time/") and name not in parts]
    assert len(rest) == 2 * len(told)  # pictures, waiting
    assert all(value > 0 for value in spent[0])
    assert [value > 0 for value in spent[1]] == [False] * 5 + [True] * 2  # no round begins with the second step
    assert sum(map(sum, spent)) + sum(rest) == pytest.approx(told[-1]["seconds"], rel=1e-6)
    assert spent[0][1] > spent[0][0] and spent[0][5] > spent[0][2]  # six tokens, a backward pass: no call of nothing


def test_what_the_model_s_generation_config_asks_for_and_a_run_does_not_do_is_named(tmp_path, caplog):
    model = save_tiny("llava", tmp_path / "model")
    written = json.loads((model / "generation_config.json").read_text())
    for asked, told in ({}, ""), ({"repetition_penalty": 1.05, "top_k": 20}, "repetition_penalty 1.05, top_k 20."):
        (model / "generation_config.json").write_text(json.dumps(written | asked))
        with open_session(recipe(model, tmp_path / told, max_steps=1)):
            assert (f"Not applied of the model's generation_config: {told}" in caplog.text) == bool(asked)


def test_a_round_of_one_step_computes_nothing_twice(tiny, tmp_path, seen):
    made = recipe(tiny["llava"], tmp_path, online={"inner_epochs": 1, "steps_per_round": 1}, max_steps=2)
    with open_session(made) as session:
        assert not session.columns.scores
    train(made, quiet=True)
    assert all(batch.old_logprobs is None and batch.on_policy for batch, _, _ in seen)


def test_advantages_of_the_batch_are_those_of_the_whole_round(tiny, tmp_path, seen):
    """Two steps of a round are whitened together: each by itself would have mean 0."""
    algorithm = {"name": "reinforce_pp_baseline", "beta": 0.0, "kl": "k3"}
    train(recipe(tiny["llava"], tmp_path, algorithm=algorithm, max_steps=2), quiet=True)
    parts = [batch.advantages for batch, _, _ in seen]
    whole = torch.cat(parts)
    assert len(parts) == 2 and float(whole.mean()) == pytest.approx(0, abs=1e-6)
    assert float(whole.std(unbiased=False)) == pytest.approx(1, abs=1e-6)
    assert abs(float(parts[0].std(unbiased=False)) - 1) > 1e-3


@pytest.mark.parametrize("stop", [3, 4])
def test_a_run_that_stopped_within_a_round_goes_on_as_if_it_had_not(tiny, tmp_path, stop):
    """Step 3 is in an inner epoch of the first round; after step 4 a round begins."""
    algorithm = {"name": "rloo", "beta": 0.1}
    whole, broken = (
        recipe(tiny["llava"], tmp_path / name, algorithm=algorithm, max_steps=7, save_every=1) for name in ("a", "b")
    )
    train(whole, quiet=True)

    train_runs.stop(broken, stop + 1)
    assert train(broken, quiet=True).resumed_from == stop
    assert train_runs.figures(broken) == train_runs.figures(whole)
    samples = [list(read_groups(Path(made.output_dir) / "samples.jsonl")) for made in (whole, broken)]
    answers = [[(g.id, r.tokens, r.reward, r.policy_version) for g in some for r in g.responses] for some in samples]
    assert answers[0] == answers[1] and answers[0][-1][-1] == 4


def test_replayed_samples_give_the_same_run_without_an_engine(tiny, tmp_path, monkeypatch):
    made = recipe(tiny["llava"], tmp_path / "a", max_steps=6)
    train(made, quiet=True)

    def generate(*_, **__):
        raise AssertionError("sampled")

    monkeypatch.setattr(HFEngine, "generate", generate)
    samples = str(Path(made.output_dir) / "samples.jsonl")
    again = recipe(tiny["llava"], tmp_path / "a", max_steps=6, online={"inner_epochs": 2, "replay": samples})
    again = replace(again, output_dir=str(tmp_path / "again"))
    train(again, quiet=True)
    assert train_runs.figures(again) == train_runs.figures(made)
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(DataError, match="no samples to replay"):
        train(replace(again, online=replace(again.online, replay=str(empty))), overwrite=True, quiet=True)


def test_stale_answers_are_weighed_against_the_policy_that_trains_on_them(tiny, tmp_path, seen):
    made = recipe(
        tiny["llava"], tmp_path, algorithm={"name": "grpo", "mismatch": "tis"},
        online={"inner_epochs": 1, "max_staleness": 1}, max_steps=4, save_every=2,
    )  # fmt: skip
    train(made, quiet=True)
    gaps = [(batch.old_logprobs - batch.rollout_logprobs).abs().max() for batch, _, _ in seen]
    # the second round was sampled together with the first: two steps lie between
    assert gaps[0] < 1e-5 and gaps[2] > 1e-3
    written = [{r.policy_version for r in g.responses} for g in read_groups(Path(made.output_dir) / "samples.jsonl")]
    assert written == [{0}] * 5  # rounds of 4 and 1 prompts; the third waits for its turn


@pytest.mark.parametrize(
    ("algorithm", "online", "message"),
    [
        ({"name": "grpo"}, {"relation": "best_worst"}, "Set relation: none"),
        ({"name": "grpo"}, {"sampling": SamplingSpec(n=1)}, "every advantage would be 0"),
        ({"name": "grpo"}, {"sampling": SamplingSpec(n=2, temperature=0.7)}, "not samples of the policy"),
        ({"name": "grpo"}, {"sampling": SamplingSpec(n=2, top_p=0.9)}, "not samples of the policy"),
        ({"name": "grpo"}, {"max_staleness": 2}, "nothing in grpo corrects"),
        ({"name": "grpo"}, {"greedy": True}, "grpo reads no greedy answer"),
        ({"name": "remax"}, {}, "remax measures by a greedy answer"),
    ],
)
def test_recipes_that_would_be_wrong_in_silence_are_refused(tiny, tmp_path, algorithm, online, message):
    with pytest.raises(RecipeError, match=message):
        train(recipe(tiny["llava"], tmp_path, algorithm=algorithm, online=online), quiet=True)


def test_rows_on_disk_are_no_samples(tiny, tmp_path):
    rows = train_runs.recipe(tiny["llava"], tmp_path, algorithm={"name": "grpo"}, reference="auto")
    with pytest.raises(RecipeError, match=r"online\.replay"):
        train(rows, quiet=True)
    both = recipe(tiny["llava"], tmp_path)
    with pytest.raises(RecipeError, match=r"online\.replay"):
        train(replace(both, data=DatasetSpec(eval=rows.data.train)), quiet=True)

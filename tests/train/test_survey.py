"""Losses that depend on the whole step: one micro-batch = k micro-batches, through the loop itself."""

from dataclasses import replace

import pytest
import torch
import train_runs

from sightline.errors import RecipeError
from sightline.recipes.schema import DatasetSpec, DataSpec, SegmentSpec
from sightline.train.loop import train, train_step
from sightline.train.metrics import read_metrics
from sightline.train.passes import fill, plan_passes, survey
from sightline.train.session import open_session

KTO = {"name": "kto", "beta": 0.5, "desirable_weight": 8.0}  # lifts all answers: the baseline is above 0


def recipe(tiny, folder, algorithm, **options):
    options = {"size": 12, "responses": 2, "batch_size": 6, "max_grad_norm": 0} | options
    made = train_runs.recipe(tiny["llava"], folder, algorithm=algorithm, **options)
    if algorithm["name"] != "kto":
        return made
    rows = tuple(replace(spec, relation="mismatched") for spec in made.data.train)
    return replace(made, data=DatasetSpec(train=rows, eval=rows if "eval_every" in options else ()))


def second_gradients(recipe):
    """Loss and gradients of the second step: by then policy and reference differ."""
    with open_session(recipe, overwrite=True) as session:
        train_step(session)
        session.meter.reduce(session.runtime)
        named = [(name, p) for part in session.policy.parts().values() for name, p in part]
        found = {}
        session.optimizer.step = lambda: found.update({n: p.grad.clone() for n, p in named if p.grad is not None})
        train_step(session)
        return session.meter.reduce(session.runtime), found


@pytest.mark.parametrize("algorithm", [KTO, {"name": "aot"}, {"name": "aot", "paired": False}], ids=str)
def test_one_micro_batch_equals_many(tiny, tmp_path, algorithm):
    whole = recipe(tiny, tmp_path, algorithm, max_steps=2, learning_rate=3e-3)
    figures, gradients = second_gradients(whole)
    many, split = second_gradients(replace(whole, train=replace(whole.train, micro_batch_tokens=1)))
    assert many["loss/" + algorithm["name"]] == pytest.approx(figures["loss/" + algorithm["name"]], rel=1e-5)
    assert many["grad_norm"] == pytest.approx(figures["grad_norm"], rel=1e-4)
    if algorithm is KTO:
        assert figures["kl"] > 0.01 and many["kl"] == pytest.approx(figures["kl"], rel=1e-4)
    for name, expected in gradients.items():
        torch.testing.assert_close(split[name], expected, rtol=1e-3, atol=1e-5 * figures["grad_norm"], msg=name)


def test_the_baseline_is_the_mean_drift_of_mismatched_answers(tiny, tmp_path):
    made = recipe(tiny, tmp_path, KTO, max_steps=2, learning_rate=3e-3, micro_batch_tokens=120)
    with open_session(made, overwrite=True) as session:
        train_step(session)
        taken = session.source.take(1)
        passes = plan_passes(session, taken)
        assert len(passes) > 1
        survey(session, passes)
        drifts = []
        with torch.no_grad():
            for group in taken.groups:  # by hand, one group at a time: the last response is the mismatched one
                batch = session.lay_out([group])
                ratio = session.policy(batch).logprobs - session.columns.fill(batch, [group]).ref_logprobs
                drifts.append(float(ratio[batch.response == len(group.responses) - 1].sum()))
        expected = sum(drifts) / len(drifts)
        assert expected > 0.01
        for one in passes:
            assert fill(session, one).baseline.unique().tolist() == [pytest.approx(expected, abs=1e-4)]


def test_held_out_groups_have_a_baseline_too(tiny, tmp_path):
    made = recipe(tiny, tmp_path, KTO, max_steps=2, eval_every=2, learning_rate=1e-9)
    train(made, quiet=True)
    (last,) = [record for record in read_metrics(tmp_path / "run" / "metrics.jsonl") if "eval/loss" in record]
    assert last["eval/loss"] == pytest.approx(0.5 * (8 + 1) / 2, abs=1e-3)  # policy = reference: 1 - σ(0)
    assert last["eval/kl"] == pytest.approx(0.0, abs=1e-4)


def test_segments_weigh_what_differs(tiny, tmp_path):
    made = train_runs.recipe(tiny["llava"], tmp_path, responses=2, batch_size=6)
    made = replace(made, data=replace(made.data, segments=SegmentSpec(corrected=4.0)))
    with open_session(made, overwrite=True) as session:
        (one, *_) = plan_passes(session, session.source.take(0))
        assert set(one.batch.weights.tolist()) == {1.0, 4.0}
        last = one.batch.last[one.batch.response]  # both sides end their turn: that token is shared
        ends = one.batch.weights[one.batch.source + 1 == last]
        assert ends.tolist() == [1.0] * one.batch.num_responses


@pytest.mark.parametrize("relation", ["text", "mismatched"])
def test_single_answers_and_comparisons_are_not_mixed_up(tiny, tmp_path, relation):
    made = recipe(tiny, tmp_path, KTO)
    rows = (DataSpec(path=made.data.train[0].path, relation=relation),)
    algorithm = KTO if relation == "text" else {"name": "dpo"}
    with (
        pytest.raises((RecipeError, ValueError), match=r"mismatched|label"),
        open_session(replace(made, algorithm=algorithm, data=DatasetSpec(train=rows)), overwrite=True) as session,
    ):
        train_step(session)

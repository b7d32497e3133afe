"""The account that a policy gives of its own answers, against log-probabilities of plain rows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import train_runs

from sightline.data.schema import read_groups, write_groups
from sightline.errors import DataError, RecipeError
from sightline.evaluation.logprobs import LogprobScorer
from sightline.models.load import load_policy
from sightline.recipes.schema import ModelSpec
from sightline.recipes.terms import IrisSpec
from sightline.rewards.build import build_term
from sightline.rewards.iris import Iris, _renderer, without_picture
from sightline.rewards.terms import Failure
from sightline.train.loop import train
from sightline.types import Response


@pytest.fixture(scope="module")
def moved(tiny, tmp_path_factory):
    """Each family's model with other weights: what a policy was trained from."""
    found = {}
    for family, path in tiny.items():
        policy = load_policy(ModelSpec(path=str(path)))
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        found[family] = tmp_path_factory.mktemp(family)
        policy.save(found[family])
    return found


def groups(folder, responses=3):
    return [g for g in read_groups(train_runs.data(folder, 6, responses)) if g.prompts[0].images]


def sums(path, some):
    """Summed log-probability of every answer, each group as rows of their own."""
    policy = load_policy(ModelSpec(path=str(path)), trainable=False)
    scored = LogprobScorer(policy, _renderer(policy), layout="rows").scores(some)
    return [[r.rewards["logprob"] for r in group.responses] for group in scored]


def expected(path, reference, some, weight):
    bare = [replace(g, prompts=tuple(map(without_picture, g.prompts))) for g in some]
    parts = [sums(model, rows) for rows in (some, bare) for model in (path, reference)]
    return [[(a - b) - weight * (c - d) for a, b, c, d in zip(*rows, strict=True)] for rows in zip(*parts, strict=True)]


@pytest.mark.parametrize("family", ["llava", "llava_next", "qwen2_5_vl"])
def test_the_score_is_the_log_ratio_with_the_picture_less_that_without(tiny, moved, tmp_path, family):
    some = groups(tmp_path)
    for weight in (0.0, 0.7):
        spec = IrisSpec(path=str(tiny[family]), reference=str(moved[family]), without=weight)
        want = expected(tiny[family], moved[family], some, weight)
        for options in ({}, {"layout": "rows"}, {"layout": "packed", "batch_tokens": 1}):
            found = build_term(replace(spec, **options)).values(some)
            for row, right in zip(found, want, strict=True):
                assert row == pytest.approx(right, abs=2e-4)
        assert max(abs(value) for row in want for value in row) > 0.1


def test_equal_policies_score_nothing_and_what_cannot_be_judged_is_no_zero(tiny, tmp_path):
    some = groups(tmp_path)
    term = build_term(IrisSpec(path=str(tiny["llava"]), reference=str(tiny["llava"])))
    assert {value for row in term.values(some) for value in row} == {0.0}
    failed = replace(some[0], responses=(*some[0].responses, Response(text="", finish_reason="error")))
    assert term.values([failed])[0][3] == Failure(reason="there is no answer")
    blind = replace(some[0], prompts=(without_picture(some[0].prompts[0]),))
    with pytest.raises(DataError, match="has no picture, and iris compares"):
        term.check([blind])


def online(tiny, moved, folder, **options):
    """Prompts with pictures alone, scored by the policy itself relative to another model."""
    made = train_runs.online(tiny["llava"], folder, "train_runs:CountsE", **options)
    path = folder / "prompts.jsonl"
    write_groups(path, groups(folder))
    reward = {"iris": IrisSpec(reference=str(moved["llava"]), without=0.5)}
    prompts = replace(made.online.prompts, path=str(path))
    return replace(made, online=replace(made.online, prompts=prompts, reward=reward, steps_per_round=1))


def test_a_policy_in_training_scores_itself_as_it_is(tiny, moved, tmp_path):
    """Rewards of the first round are those of the model that training starts from, of the third those of the second
    step's."""
    made = online(tiny, moved, tmp_path, max_steps=3, save_every=1, learning_rate=1e-3)
    done = train(made, quiet=True)
    samples = list(read_groups(Path(made.output_dir) / "samples.jsonl"))
    assert [g.responses[0].policy_version for g in samples] == [0, 0, 1, 1, 2, 2]
    start = Iris(
        spec=made.online.reward["iris"],
        policy=(policy := load_policy(ModelSpec(path=str(tiny["llava"])), trainable=False)),
        reference=load_policy(ModelSpec(path=str(moved["llava"])), trainable=False),
        renderer=_renderer(policy),
    )
    first = start.values(samples[:2])
    for group, values in zip(samples[:2], first, strict=True):
        assert [r.reward for r in group.responses] == pytest.approx(values, abs=1e-4)
        assert [r.rewards["iris"] for r in group.responses] == pytest.approx(values, abs=1e-4)
    gaps = [
        abs(response.reward - value)
        for group, values in zip(samples[4:], start.values(samples[4:]), strict=True)
        for response, value in zip(group.responses, values, strict=True)
    ]
    assert max(gaps) > 1e-3
    edge = samples[0].edges[0]
    rewards = [r.reward for r in samples[0].responses]
    assert (rewards[edge.winner], rewards[edge.loser]) == (max(rewards), min(rewards))
    assert done.steps == 3


def test_on_the_command_line(tiny, moved, tmp_path, run):
    path, out = tmp_path / "samples.jsonl", tmp_path / "scored.jsonl"
    some = groups(tmp_path)
    write_groups(path, some)
    terms = tmp_path / "terms.yaml"
    terms.write_text(json.dumps({"iris": {"path": str(tiny["llava"]), "reference": str(moved["llava"])}}))
    code, _, err = run("score", path, "--reward", terms, "-o", out)
    assert code == 0, err
    want = expected(tiny["llava"], moved["llava"], some, 1.0)
    assert [[r.reward for r in g.responses] for g in read_groups(out)] == [pytest.approx(row, abs=2e-4) for row in want]
    settings = json.loads((tmp_path / "scored.jsonl.settings.json").read_text())
    assert len(settings["policies"]["iris"]) == 2
    terms.write_text(json.dumps({"iris": {"reference": str(moved["llava"])}}))
    code, _, err = run("score", path, "--reward", terms, "-o", tmp_path / "x.jsonl")
    assert code == 2 and "here is none. Set path" in err


def test_no_path_without_a_policy_in_training(moved):
    with pytest.raises(RecipeError, match="stands for the policy in training, and here is none"):
        build_term(IrisSpec(reference=str(moved["llava"])))

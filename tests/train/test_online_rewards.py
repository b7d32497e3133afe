"""Online runs whose reward is a sum of terms: what is logged and kept, and a reward service that dies."""

import json
import sys
import threading
import time
import types
from dataclasses import replace

import pytest
import torch
import train_runs
from reward_server import RewardServer

from sightline.algorithms.policy_gradient import PolicyGradient
from sightline.data.schema import read_groups
from sightline.errors import CheckpointError, DataError, RecipeError, ServiceError
from sightline.recipes.terms import ExactSpec, FunctionSpec, LengthSpec, NoEndSpec, ServiceSpec
from sightline.train.checkpoint import latest
from sightline.train.loop import train
from sightline.train.metrics import read_metrics


def counts(number, request):
    """How many letters e an answer has."""
    return 200, {"rewards": [float(answer["text"].count("e")) for answer in request["responses"]]}


def recipe(tiny, folder, terms, **options):
    made = train_runs.online(tiny["llava"], folder, "scenes", **({"save_every": 2} | options))
    return replace(made, online=replace(made.online, reward=terms))


def service(server, **options):
    return {"own": ServiceSpec(url=server.url, **({"patience": 60.0} | options))}


def samples(folder):
    return [(group.id, group.responses) for group in read_groups(folder / "run/samples.jsonl")]


@pytest.fixture(scope="module")
def unbroken(tiny, tmp_path_factory):
    """Losses and samples of a run whose service never fails."""
    folder = tmp_path_factory.mktemp("unbroken")
    with RewardServer(counts) as server:
        train(recipe(tiny, folder, service(server)), quiet=True)
    return train_runs.losses(folder / "run"), samples(folder)


def test_a_service_that_is_killed_and_started_again_loses_nothing(tiny, tmp_path, unbroken):
    """It dies within a request of the third round, and is back a second later at the same address."""
    again, died = [], []

    def start_again():
        first.__exit__()
        died.append(time.monotonic())
        time.sleep(1.0)
        again.append(RewardServer(counts, first.port).__enter__())

    def script(number, request):
        if number == 6:
            threading.Thread(target=start_again).start()
            raise OSError("killed")
        return counts(number, request)

    first = RewardServer(script).__enter__()
    train(recipe(tiny, tmp_path, service(first)), quiet=True)
    again[0].__exit__()
    assert died and again[0].requests  # the run went on with the new one
    assert train_runs.losses(tmp_path / "run") == unbroken[0]
    assert samples(tmp_path) == unbroken[1]
    assert all(
        record["rollout/failed_rewards"] == 0
        for record in read_metrics(tmp_path / "run/metrics.jsonl")
        if "reward" in record
    )


def test_a_run_that_a_dead_service_stops_goes_on_where_it_was(tiny, tmp_path, unbroken):
    """With the service at another address, and waited for otherwise; not with another weight."""

    def script(number, request):
        if number >= 6:
            raise OSError("killed")
        return counts(number, request)

    with RewardServer(script) as server:
        made = recipe(tiny, tmp_path, service(server, patience=0.05))
        made = replace(made, online=replace(made.online, failed_rewards="stop"))
        with pytest.raises(ServiceError, match=r"reward of row-. failed \(own: RemoteDisc.*last checkpoint"):
            train(made, quiet=True)
    with RewardServer(counts) as moved:
        elsewhere = replace(made.online, reward=service(moved, patience=5.0), failed_rewards="drop")
        heavier = replace(made.online, reward={"own": replace(service(moved)["own"], weight=2.0)})
        with pytest.raises(CheckpointError, match=r"other settings \(online.reward.own.weight: 1.0 there, 2.0 here\)"):
            train(replace(made, online=heavier), quiet=True)
        assert train(replace(made, online=elsewhere), quiet=True).resumed_from == 4
    assert train_runs.losses(tmp_path / "run") == unbroken[0]
    assert samples(tmp_path) == unbroken[1]


def test_answers_that_fail_are_dropped_counted_and_kept_with_the_reason(tiny, tmp_path):
    """The second answer of every prompt gets null: never a zero."""

    def script(number, request):
        _, made = counts(number, request)
        return 200, {"rewards": [made["rewards"][0], None, *made["rewards"][2:]]}

    with RewardServer(script) as server:
        made = recipe(tiny, tmp_path, service(server), max_steps=2)
        train(made, quiet=True)
    groups = list(read_groups(tmp_path / "run/samples.jsonl"))
    assert all(group.responses[1].reward is None for group in groups)
    assert {group.responses[1].reward_error for group in groups} == {"own: the service gave null"}
    assert not any(1 in (edge.winner, edge.loser) for group in groups for edge in group.edges)
    record = next(record for record in read_metrics(tmp_path / "run/metrics.jsonl") if "reward" in record)
    assert record["rollout/failed_answers"] == pytest.approx(1 / 3) and record["rollout/failed_rewards"] == 0
    known = [r.reward for g in groups for r in g.responses if r.reward is not None]
    assert record["reward"] == pytest.approx(sum(known) / len(known))


def test_each_term_is_logged_before_its_weight(tiny, tmp_path, monkeypatch):
    module = types.ModuleType("own_rewards")
    module.count = lambda completions: [float(one[0]["content"].count("e")) for one in completions]
    monkeypatch.setitem(sys.modules, "own_rewards", module)
    terms = {
        "count": FunctionSpec(path="own_rewards:count", weight=2.0),
        "length": LengthSpec(weight=-0.5),
        "cut": NoEndSpec(kind="no_end", weight=0.0),
    }
    train(recipe(tiny, tmp_path, terms, max_steps=2), quiet=True)
    groups = list(read_groups(tmp_path / "run/samples.jsonl"))
    answers = [response for group in groups for response in group.responses]
    for answer in answers:
        assert answer.rewards["count"] == answer.text.count("e")
        assert answer.rewards["length"] == len(answer.tokens) / 6  # max_new_tokens
        assert answer.rewards["cut"] == -(answer.finish_reason == "length")
        assert answer.reward == pytest.approx(2 * answer.rewards["count"] - 0.5 * answer.rewards["length"])
    record = next(record for record in read_metrics(tmp_path / "run/metrics.jsonl") if "reward" in record)
    for name in terms:
        values = [answer.rewards[name] for answer in answers]
        mean = sum(values) / len(values)
        spread = (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5
        assert record[f"rewards/{name}/mean"] == pytest.approx(mean)
        assert record[f"rewards/{name}/std"] == pytest.approx(spread)
    assert json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[0])["reward_std"] > 0


def test_rewards_are_computed_in_their_own_precision(tiny, tmp_path, monkeypatch):
    """Autocast of a run is of its policy: a function's own model would lose digits in silence."""
    module, seen = types.ModuleType("own_rewards"), []

    def exact(completions):
        seen.append(torch.is_autocast_enabled("cpu"))
        return [float((torch.ones(1, 1) @ torch.full((1, 1), 1.001)).item()) for _ in completions]

    module.exact = exact
    monkeypatch.setitem(sys.modules, "own_rewards", module)
    terms = {"exact": FunctionSpec(path="own_rewards:exact")}
    made = recipe(tiny, tmp_path, terms, algorithm={"name": "grpo"}, reference="none", max_steps=1)
    made = replace(
        made, online=replace(made.online, relation="none"), train=replace(made.train, mixed_precision="bf16")
    )
    train(made, quiet=True)
    assert seen and not any(seen)
    rewards = [r.reward for group in read_groups(tmp_path / "run/samples.jsonl") for r in group.responses]
    assert rewards == pytest.approx([1.001] * len(rewards), rel=1e-6)


def test_gdpo_weighs_the_parts_as_the_reward_does(tiny, tmp_path, monkeypatch):
    """A term of negative weight is a punishment, and one of weight 0 is only logged."""
    module = types.ModuleType("own_rewards")
    module.count = lambda completions: [float(one[0]["content"].count("e")) for one in completions]
    module.noise = lambda completions: [hash(one[0]["content"]) % 7 for one in completions]
    monkeypatch.setitem(sys.modules, "own_rewards", module)
    found, prepare = [], PolicyGradient.prepare_step

    def spy(self, batches, counted, world):
        made = prepare(self, batches, counted, world)
        found.extend(made)
        return made

    monkeypatch.setattr(PolicyGradient, "prepare_step", spy)
    terms = {
        "count": FunctionSpec(path="own_rewards:count", weight=-2.0),
        "noise": FunctionSpec(path="own_rewards:noise", weight=0.0),
    }
    made = recipe(tiny, tmp_path, terms, algorithm={"name": "gdpo"}, reference="none", max_steps=1)
    made = replace(made, online=replace(made.online, relation="none"))
    train(made, quiet=True)
    (batch,) = found
    assert batch.rewards.unique().numel() > 2
    first = [int((batch.response == index).nonzero()[0, 0]) for index in range(batch.num_responses)]
    for group in range(batch.num_groups):
        own = [(float(batch.rewards[i]), float(batch.advantages[first[i]])) for i in range(batch.num_responses)
               if batch.group[i] == group]  # fmt: skip
        assert [advantage for _, advantage in sorted(own)] == pytest.approx(sorted(a for _, a in own), abs=1e-6)
    wrong = replace(made, algorithm={"name": "gdpo", "part_weights": {"cuont": 1.0}})
    with pytest.raises(RecipeError, match=r"names 'cuont', and online\.reward has the parts count, noise"):
        train(wrong, overwrite=True, quiet=True)


def test_prompts_without_the_facts_of_a_term_are_refused_before_training(tiny, tmp_path):
    with pytest.raises(DataError, match=r"5-1\.jsonl:1: reward exact: prompt 'row-0' has no fact 'answer'"):
        train(recipe(tiny, tmp_path, {"exact": ExactSpec()}), quiet=True)
    assert latest(tmp_path / "run/checkpoints") is None

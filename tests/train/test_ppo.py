"""PPO as a run: the critic beside the policy, rounds, warm-up, resuming, layouts; and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import train_runs
from safetensors.torch import load_file

from sightline.algorithms.ppo import PPO
from sightline.errors import RecipeError
from sightline.models.load import load_policy
from sightline.recipes.critic import CriticSpec
from sightline.recipes.schema import ModelSpec, PartsSpec, SamplingSpec
from sightline.train.loop import train
from sightline.train.session import open_session

WHOLE = PartsSpec(language="full", projector="full", vision="frozen")


def recipe(model, folder, *, algorithm=None, critic=None, online=None, lora=True, **options):
    spec = train_runs.lora(model) if lora else ModelSpec(path=str(model), parts=WHOLE)
    made = train_runs.online(
        model, folder, "train_runs:CountsE", algorithm={"name": "ppo", **(algorithm or {})}, reference="auto",
        **({"model": spec, "critic": critic} | options),
    )  # fmt: skip
    fields = {"relation": "none", "sampling": SamplingSpec(n=2, max_new_tokens=6), "inner_epochs": 2}
    return replace(made, online=replace(made.online, **(fields | (online or {}))))


@pytest.mark.parametrize("lora", [True, False], ids=["own adapter", "shared"])
def test_a_run_trains_policy_and_critic(tiny, tmp_path, lora):
    made = recipe(tiny["llava"], tmp_path, lora=lora, max_steps=5)
    train(made, quiet=True)
    told = train_runs.figures(made)
    assert {"loss/policy", "loss/value", "objective/kl", "val/mean", "val/error", "kl_coefficient"} <= told[0].keys()
    assert told[0]["val/ratio"] == 1 and told[0]["val/ratio_max"] == 1 and told[0]["objective/kl"] == 0
    assert told[0]["val/mean"] == 0 and told[1]["val/mean"] != 0
    assert told[2]["val/ratio_max"] != 1 and told[4]["val/ratio_max"] == 1  # a new round at the fifth step
    folder = Path(made.output_dir) / "model"
    head = load_file(folder / "value" / "value_head.safetensors")
    assert head["weight"].abs().max() > 0
    assert (folder / "value" / "adapter_model.safetensors").exists() == lora
    load_policy(ModelSpec(path=str(folder)), trainable=False)  # others need not know of the critic


def test_a_critic_of_zeros_gives_the_rewards_to_go(tiny, tmp_path, monkeypatch):
    """At γ = λ = 1 the first returns are what is still to come of the shaped reward."""
    batches, loss = [], PPO.loss

    def spy(self, batch, scores, world):
        batches.append(batch)
        return loss(self, batch, scores, world)

    monkeypatch.setattr(PPO, "loss", spy)
    made = recipe(tiny["llava"], tmp_path, algorithm={"lam": 1.0, "whiten_advantages": False}, max_steps=1)
    train(made, quiet=True)
    first = batches[0]
    assert not first.values.any() and torch.equal(first.old_logprobs, first.ref_logprobs)
    assert torch.equal(first.returns, first.rewards[first.response]) and torch.equal(first.advantages, first.returns)


@pytest.mark.parametrize("stop", [2, 3])
def test_a_run_that_stopped_within_a_round_goes_on_as_if_it_had_not(tiny, tmp_path, stop):
    algorithm = {"kl_target": 0.5, "kl_horizon": 20.0, "kl_coefficient": 0.2}
    whole, broken = (
        recipe(tiny["llava"], tmp_path / name, algorithm=algorithm, max_steps=6, save_every=1) for name in ("a", "b")
    )
    train(whole, quiet=True)

    train_runs.stop(broken, stop + 1)
    assert train(broken, quiet=True).resumed_from == stop
    assert train_runs.figures(broken) == train_runs.figures(whole)
    prices = [record["kl_coefficient"] for record in train_runs.figures(whole)]
    assert prices[:4] == pytest.approx([0.2] * 4) and prices[4] == prices[5] < 0.2  # what was paid, moved after a round


@pytest.mark.parametrize("lora", [True, False], ids=["own adapter", "shared"])
def test_while_the_critic_warms_up_the_policy_stays_as_it_is(tiny, tmp_path, lora):
    made = recipe(
        tiny["llava"], tmp_path, lora=lora, algorithm={"critic_warmup": 2}, max_steps=3, weight_decay=0.1
    )  # fmt: skip
    states = []
    with open_session(made) as session:
        from sightline.train.loop import train_step

        for _ in range(4):
            states.append({name: value.clone() for name, value in session.policy.trainable_state().items()})
            if len(states) <= 3:
                train_step(session)
    critic = {name for name in states[0] if "value" in name.split(".") or name.startswith("value_head.")}
    assert critic and critic != states[0].keys()

    def moved(before, after):
        return {name for name in before if not torch.equal(before[name], after[name])}

    assert moved(states[0], states[2]) <= critic and "value_head.weight" in moved(states[0], states[1])
    assert moved(states[2], states[3]) > critic


def test_layouts_and_micro_batches_agree(tiny, tmp_path):
    told = []
    for number, (layout, budget) in enumerate([("rows", 10_000), ("tree", 10_000), ("packed", 10_000), ("tree", 1)]):
        folder = tmp_path / str(number)
        made = recipe(tiny["llava"], folder, max_steps=4, micro_batch_tokens=budget)
        train(replace(made, model=replace(made.model, layout=layout)), quiet=True)
        told.append(train_runs.figures(made))
    for other in told[1:]:
        for mine, theirs in zip(told[0], other, strict=True):
            for name in ("loss", "loss/policy", "loss/value", "grad_norm", "val/mean", "objective/kl"):
                assert theirs[name] == pytest.approx(mine[name], rel=2e-3, abs=2e-5), name


def test_a_critic_starts_from_a_reward_model_or_another_critic(tiny, tmp_path):
    pairs = train_runs.recipe(
        tiny["llava"], tmp_path / "rm", responses=2, algorithm={"name": "reward_model"}, reference="none",
        model=train_runs.lora(tiny["llava"]), max_steps=2,
    )  # fmt: skip
    train(pairs, quiet=True)
    start = CriticSpec(start=pairs.output_dir, head="start")
    made = recipe(tiny["llava"], tmp_path / "ppo", critic=start, max_steps=2)
    adapter = load_file(Path(pairs.output_dir) / "model" / "adapter_model.safetensors")
    scores = load_file(Path(pairs.output_dir) / "model" / "score_head.safetensors")
    with open_session(made) as session:
        state = session.policy.trainable_state()
        assert torch.equal(state["value_head.weight"], scores["weight"])
        own = {name.replace(".value.", ".").removeprefix("model."): v for name, v in state.items() if ".value." in name}
        assert own.keys() == adapter.keys() and all(torch.equal(own[name], adapter[name]) for name in own)
    train(made, quiet=True, overwrite=True)
    again = CriticSpec(start=str(Path(made.output_dir) / "model" / "value"), head="start")
    value = load_file(Path(made.output_dir) / "model" / "value" / "value_head.safetensors")
    with open_session(recipe(tiny["llava"], tmp_path / "more", critic=again, max_steps=2)) as session:
        assert torch.equal(session.policy.trainable_state()["value_head.weight"], value["weight"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lora": False, "critic": CriticSpec(start="x")}, "no adapter|hidden states|holds no"),
        ({"online": {"greedy": True}}, "reads no greedy answer"),
        ({"online": {"relation": "best_worst"}}, "Set relation: none"),
        ({"algorithm": {"name": "grpo"}, "critic": CriticSpec()}, "found critic"),
    ],
)
def test_recipes_that_would_be_wrong_in_silence_are_refused(tiny, tmp_path, options, message):
    with pytest.raises(RecipeError, match=message):
        train(recipe(tiny["llava"], tmp_path, **options), quiet=True)

"""Runs on quantised weights, and optimizers that hold their moments in fewer bits or elsewhere: the same numbers where
they promise the same, exact after a stop, and refused where they would not do what they say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import train_runs
from torch import nn

from sightline.algorithms.registry import build_algorithm
from sightline.errors import MissingExtra, RecipeError
from sightline.recipes.load import load_recipe
from sightline.recipes.schema import LoraSpec, ModelSpec, PartsSpec, Recipe, TrainSpec
from sightline.rewards.model import load_reward_model, reward_model_spec
from sightline.train import optim
from sightline.train.checkpoint import latest, load_checkpoint
from sightline.train.loop import train
from sightline.train.optim import build_optimizer
from tiny_models import save_tiny

needs_bitsandbytes = pytest.mark.skipif(
    optim.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed (extra: quantize)"
)
OTHERS = ("adamw_8bit", "paged_adamw", "paged_adamw_8bit")
QLORA = """\
name: x
output_dir: out
model: {path: m, quantization: nf4, parts: {language: lora, projector: full}}
algorithm: {name: orpo}
data: {train: [{path: rows.jsonl}]}
"""


def low(model: Path, folder: Path, **options: Any) -> Recipe:
    """DPO with QLoRA and the projector in full."""
    spec = ModelSpec(
        path=str(model),
        quantization="nf4",
        parts=PartsSpec(language="lora", projector="full", vision="frozen"),
        lora=LoraSpec(rank=64, dropout=0.1),  # tensors of 4096 numbers, which 8 bits begin with
    )
    base = {"responses": 2, "model": spec, "reference": "adapter", "max_steps": 4, "schedule": "constant", "warmup": 0}
    return train_runs.recipe(model, folder, **(base | options))


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("llava", tmp_path_factory.mktemp("wide"), hidden=64)


@needs_bitsandbytes
@pytest.mark.parametrize("kind", OTHERS)
def test_steps_are_those_of_adamw(kind: str) -> None:
    """To rounding in 32 bits, and to what 8 bits hold in 8."""
    moved = {}
    for name in ("adamw", kind):
        torch.manual_seed(0)
        weight = nn.Parameter(torch.randn(64, 80))
        named = {"language": [("w", weight)], "projector": [], "vision": []}
        optimizer = build_optimizer(named, TrainSpec(optimizer=name, learning_rate=1e-2, weight_decay=0.1))
        start = weight.detach().clone()
        for _ in range(10):
            weight.grad = weight.detach() - torch.randn(64, 80)
            optimizer.step()
        moved[name] = weight.detach() - start
        held = {value.dtype for value in optimizer.state[weight].values() if torch.is_tensor(value) and value.dim() > 1}
        assert held == {torch.uint8 if kind.endswith("8bit") and name == kind else torch.float32}
    distance = float((moved[kind] - moved["adamw"]).norm() / moved["adamw"].norm())
    assert (1e-4 < distance < 0.1) if kind.endswith("8bit") else distance < 1e-5


@needs_bitsandbytes
@pytest.mark.parametrize("kind", ["adamw", "adamw_8bit", "paged_adamw"])
def test_a_stopped_run_on_quantised_weights_goes_on_exactly(wide: Path, tmp_path: Path, kind: str) -> None:
    recipes = {
        name: low(wide, tmp_path / name, optimizer=kind, batch_size=2, save_every=2) for name in ("whole", "stopped")
    }
    train(recipes["whole"], quiet=True)
    short = replace(recipes["stopped"], train=replace(recipes["stopped"].train, max_steps=2))
    train(short, quiet=True)
    result = train(recipes["stopped"], quiet=True)
    assert result.resumed_from == 2
    runs = {name: Path(made.output_dir) for name, made in recipes.items()}
    assert train_runs.losses(runs["stopped"]) == train_runs.losses(runs["whole"])
    held = {name: load_checkpoint(latest(run)) for name, run in runs.items()}
    whole, stopped = held["whole"].weights, held["stopped"].weights
    assert whole.keys() == stopped.keys() and all(torch.equal(whole[name], stopped[name]) for name in whole)
    kinds = {
        value.dtype
        for moments in held["whole"].optimizer["state"].values()
        for value in moments.get("__bnb_optimizer_quant_state__", moments).values()
        if torch.is_tensor(value)
    }
    assert (torch.uint8 in kinds) == (kind == "adamw_8bit")


@needs_bitsandbytes
def test_references_of_a_quantised_run_agree(wide: Path, tmp_path: Path) -> None:
    losses = {}
    for reference in ("adapter", "copy", "cache"):
        made = low(wide, tmp_path / reference, reference=reference, max_steps=3)
        train(replace(made, model=replace(made.model, lora=LoraSpec(rank=4))), quiet=True)
        losses[reference] = train_runs.losses(Path(made.output_dir))
        assert losses[reference][1] == pytest.approx(0.693147, abs=1e-5)
    assert losses["adapter"] == pytest.approx(losses["copy"], abs=1e-5)
    assert losses["adapter"] == pytest.approx(losses["cache"], abs=1e-5)


@needs_bitsandbytes
def test_an_online_run_on_quantised_weights_learns_after_it_sampled(wide: Path, tmp_path: Path) -> None:
    spec = low(wide, tmp_path).model
    made = train_runs.online(
        wide, tmp_path / "online", "train_runs:CountsE", model=spec, reference="adapter", max_steps=3
    )
    train(made, quiet=True)
    lines = (Path(made.output_dir) / "metrics.jsonl").read_text().splitlines()
    norms = [record["grad_norm"] for record in map(json.loads, lines)]
    assert len(norms) == 3 and sum(norm > 0 for norm in norms) >= 2


@needs_bitsandbytes
def test_a_reward_model_scores_on_the_weights_it_was_trained_on(wide: Path, tmp_path: Path) -> None:
    made = low(wide, tmp_path, algorithm={"name": "reward_model"}, reference="none", max_steps=1)
    result = train(made, quiet=True)
    assert reward_model_spec(result.run_dir).quantization == "nf4"
    scorer = load_reward_model(result.run_dir)
    assert scorer.policy.model.is_loaded_in_4bit


@needs_bitsandbytes
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: there is nothing to page")
@pytest.mark.parametrize("kind", ["paged_adamw", "paged_adamw_8bit"])
def test_moments_that_were_loaded_are_paged_again_and_go_on_exactly(kind: str) -> None:
    def started() -> tuple[nn.Parameter, Any]:
        weight = nn.Parameter(torch.linspace(-1, 1, 400 * 400, device="cuda").reshape(400, 400))
        named = {"language": [("w", weight)], "projector": [], "vision": []}
        return weight, build_optimizer(named, TrainSpec(optimizer=kind, learning_rate=1e-2))  # type: ignore[arg-type]

    def step(weight: nn.Parameter, optimizer: Any, number: int) -> None:
        weight.grad = torch.sin(weight.detach() * (number + 2))
        optimizer.step()

    whole, own = started()
    for number in range(2):
        step(whole, own, number)
    again, other = started()
    with torch.no_grad():
        again.copy_(whole)
    other.load_state_dict(own.state_dict())
    optim.page_again(other)
    assert other.state[again]["state1"].is_paged and other.state[again]["state2"].is_paged
    for number in (2, 3):
        step(whole, own, number)
        step(again, other, number)
    assert torch.equal(whole, again)


def test_bitsandbytes_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optim, "find_spec", lambda name: None)
    named = {"language": [("w", nn.Parameter(torch.ones(2, 2)))], "projector": [], "vision": []}
    with pytest.raises(MissingExtra, match=r"pip install 'sightline\[quantize\]'"):
        build_optimizer(named, TrainSpec(optimizer="adamw_8bit"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.parts.language=full"], "weights in so few bits cannot be trained in full"),
        (["model.parts.language=frozen"], "what is trained on quantised weights is saved as an adapter"),
        (["train.distribution=fsdp"], "fsdp, which spreads no quantised weights"),
        (
            ["model.quantization=none", "train.distribution=fsdp", "train.optimizer=adamw_8bit"],
            "keeps its moments whole",
        ),
        (["model.quantization=int8", "model.double_quant=false"], "double_quant is an option of quantization: nf4"),
        (
            ["model.quantization=none", "model.compute_dtype=bfloat16"],
            "compute_dtype is an option of quantization: nf4",
        ),
        (["model.quantization=nf5"], "Did you mean 'nf4'"),
        (["train.optimizer=adam_8bit"], "Did you mean 'adamw_8bit'"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path: Path, overrides: list[str], message: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(QLORA)
    build_algorithm(load_recipe(path).algorithm)
    with pytest.raises(RecipeError, match=message):
        load_recipe(path, overrides)

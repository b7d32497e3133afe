"""Training in full moves the weights as far as it does in float32, whatever type the model is loaded in."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import test_recipes_run
import torch
import train_runs
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText

from recipe_files import STARTS
from sightline.recipes.load import load_recipe
from sightline.recipes.schema import LoraSpec, ModelSpec, PartsSpec, Recipe
from sightline.train.checkpoint import latest, load_checkpoint
from sightline.train.loop import train

STEPS = 10
SMALL = 1e-6
"""A learning rate whose steps bfloat16 cannot hold."""


def rounds(recipe: Recipe) -> bool:
    """Whether a part is trained in full, with anything in lower precision than float32."""
    low = recipe.model.dtype != "float32" or recipe.train.mixed_precision != "no"
    if recipe.model.quantization != "none":  # an adapter, which tests/models/test_quantized.py looks into
        return False
    if recipe.model.parts is None:  # those of an adapter that is named
        return False
    return low and "full" in vars(recipe.model.parts).values()


ROUNDING = [path for path in STARTS if rounds(load_recipe(path))]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny: dict[str, Path]) -> Path:
    """Weights that bfloat16 holds: those of the next value are far away."""
    return halved(tiny["llava"], tmp_path_factory.mktemp("half"))


def halved(path: Path, folder: Path) -> Path:
    for file in path.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    AutoModelForImageTextToText.from_pretrained(path, dtype=torch.bfloat16).save_pretrained(folder)
    return folder


def low(model: Path, folder: Path, **options: Any) -> Recipe:
    spec = ModelSpec(path=str(model), dtype="bfloat16")
    base = {"responses": 2, "model": spec, "max_steps": STEPS, "learning_rate": SMALL, "warmup": 0}
    return train_runs.recipe(model, folder, **(base | options))


def weights_of(folder: Path) -> dict[str, Tensor]:
    return {
        name: value.float() for file in folder.glob("model*.safetensors") for name, value in load_file(file).items()
    }


def updates(before: dict[str, Tensor], after: dict[str, Tensor]) -> Tensor:
    """All that changed, one after the other."""
    return torch.cat([(value.float() - before[name]).reshape(-1) for name, value in sorted(after.items())])


def trained(recipe: Recipe, model: Path) -> Tensor:
    """What training did, of the weights as they are held at its end."""
    train(recipe, quiet=True)
    start = dict(AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32).named_parameters())
    held = load_checkpoint(latest(Path(recipe.output_dir))).weights
    return updates({n: p.detach() for n, p in start.items()}, {n: v for n, v in held.items() if n in start})


def test_some_recipes_round() -> None:
    assert {path.stem for path in ROUNDING} >= {"dpo_llava_full", "sft_llava"}


@pytest.mark.parametrize("path", ROUNDING, ids=lambda path: path.stem)
def test_every_recipe_moves_as_float32_does(model: Path, pictures: list[str], tmp_path: Path, path: Path) -> None:
    """As shipped: type, precision and learning rate are the recipe's."""
    shipped = load_recipe(path)
    moved = {}
    for name, dtype, precision in (
        ("shipped", shipped.model.dtype, shipped.train.mixed_precision),
        ("float32", "float32", "no"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        types = [f"model.dtype={dtype}", f"train.mixed_precision={precision}", f"train.max_steps={STEPS}"]
        recipe = test_recipes_run.on_tiny(path, model, folder, pictures, *types)
        train(recipe, quiet=True)
        moved[name] = updates(weights_of(model), weights_of(folder / "run" / "model"))
    changed = {name: float((one != 0).float().mean()) for name, one in moved.items()}
    parts = shipped.model.parts
    assert changed["float32"] > (0.3 if parts is None or parts.language != "frozen" else 0.02)  # of the whole model
    assert changed["shipped"] > 0.95 * changed["float32"]
    assert torch.nn.functional.cosine_similarity(moved["shipped"], moved["float32"], 0) > 0.8


@pytest.mark.parametrize("vision", ["frozen", "full"])
def test_bfloat16_weights_move_as_float32_ones(model: Path, tmp_path: Path, vision: str) -> None:
    parts = PartsSpec(vision=vision)  # type: ignore[arg-type]
    made = low(model, tmp_path / "low")
    made = replace(made, model=replace(made.model, parts=parts))
    plain = replace(made, model=replace(made.model, dtype="float32"), output_dir=str(tmp_path / "plain"))
    found, expected = trained(made, model), trained(plain, model)
    assert float((found != 0).float().mean()) == pytest.approx(float((expected != 0).float().mean()), rel=0.01)
    assert torch.nn.functional.cosine_similarity(found, expected, 0) > 0.8
    assert float(found.norm()) == pytest.approx(float(expected.norm()), rel=0.05)


@pytest.mark.parametrize(("language", "projector"), [("lora", "full"), ("full", "lora")])
def test_a_part_in_full_beside_lora_moves_as_well(model: Path, tmp_path: Path, language: str, projector: str) -> None:
    """And all references agree, to the last bit of what bfloat16 gives."""
    losses = {}
    for reference in ("adapter", "copy", "cache"):
        made = low(model, tmp_path / reference, reference=reference, max_steps=3)
        parts = PartsSpec(language=language, projector=projector)  # type: ignore[arg-type]
        train(replace(made, model=replace(made.model, parts=parts, lora=LoraSpec(rank=4, alpha=8))), quiet=True)
        losses[reference] = train_runs.losses(Path(made.output_dir))
        assert losses[reference][1] == pytest.approx(0.693147, abs=1e-6)
    assert losses["adapter"] == pytest.approx(losses["copy"], abs=1e-6)
    assert losses["adapter"] == pytest.approx(losses["cache"], abs=1e-6)
    held = load_checkpoint(latest(tmp_path / "adapter" / "run")).weights
    base = dict(AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32).named_parameters())
    own = {n.removeprefix("base_model.model.").replace("modules_to_save.default.", ""): v for n, v in held.items()}
    whole = {name: value for name, value in own.items() if name in base}
    assert whole and all(value.dtype == torch.float32 for value in held.values())
    assert float((updates({n: base[n].detach() for n in whole}, whole) != 0).float().mean()) > 0.4


def test_a_stopped_run_goes_on_alike(model: Path, tmp_path: Path) -> None:
    """The checkpoint holds float32: nothing is rounded at the stop."""

    def run(steps: int, folder: str) -> dict[int, float]:
        made = low(model, tmp_path / folder, max_steps=steps, schedule="constant", learning_rate=1e-4)
        train(made, quiet=True)
        return train_runs.losses(Path(made.output_dir))

    whole = run(5, "whole")
    run(3, "stopped")
    assert run(5, "stopped") == whole


def test_the_model_is_written_in_bfloat16_and_what_that_loses_is_said(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = low(model, tmp_path)
    with caplog.at_level(logging.WARNING):
        train(made, quiet=True)
    said = re.search(
        r"of the weights that training moved in float32, (\d+)% are in bfloat16 what they were", caplog.text
    )
    assert said and int(said[1]) > 50
    folder = tmp_path / "run" / "model"
    assert AutoConfig.from_pretrained(folder).dtype == torch.bfloat16
    kept = [value for file in folder.glob("*.safetensors") for value in load_file(file).values()]
    assert {value.dtype for value in kept} == {torch.bfloat16}
    caplog.clear()
    larger = low(model, tmp_path / "larger", learning_rate=1e-2)
    with caplog.at_level(logging.WARNING):
        train(larger, quiet=True)
    assert "training moved" not in caplog.text


def test_answers_are_sampled_from_such_weights(model: Path, tmp_path: Path) -> None:
    spec = ModelSpec(path=str(model), dtype="bfloat16", parts=PartsSpec(vision="full"))
    made = train_runs.online(model, tmp_path, "train_runs:CountsE", model=spec, max_steps=2)
    train(made, quiet=True)
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2]
    assert records[0]["loss"] == pytest.approx(0.693147, abs=1e-6)

"""The reference is the policy as training found it, whatever it started from and however its numbers are had."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import train_runs
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForImageTextToText, AutoProcessor

from sightline.errors import CheckpointError, RecipeError
from sightline.models.load import load_policy
from sightline.recipes.schema import LoraSpec, ModelSpec, PartsSpec, Recipe
from sightline.train.loop import train

LORA = {"language": "lora", "projector": "lora", "vision": "frozen"}
STARTS: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    # parts of the adapter that is there before, parts that are trained
    "base": ({}, LORA),
    "base, a part in full": ({}, LORA | {"projector": "full"}),
    "base, parts in full around": ({}, {"language": "full", "projector": "lora", "vision": "full"}),
    "merged": (LORA, LORA),
    "adapter": (LORA, LORA),
    "adapter with a part in full": (LORA | {"projector": "full"}, LORA | {"projector": "full"}),
    "adapter on the tower": (LORA | {"vision": "lora"}, LORA | {"vision": "lora"}),
}
DROPOUT = LoraSpec(rank=4, alpha=8, dropout=0.2)


def spec(model: Path, parts: dict[str, str], **options: Any) -> ModelSpec:
    return ModelSpec(path=str(model), parts=PartsSpec(**parts), lora=DROPOUT, **options)  # type: ignore[arg-type]


def adapter(model: Path, folder: Path, parts: dict[str, str], seed: int = 0) -> Path:
    """An adapter as training leaves one: it changes the model, and what PEFT saves whole is no longer the base's."""
    policy = load_policy(spec(model, parts))
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    policy.save(folder)
    return folder


def start(model: Path, folder: Path, name: str) -> ModelSpec:
    before, parts = STARTS[name]
    if not before:
        return spec(model, parts)
    made = adapter(model, folder / "before", before)
    if name != "merged":
        return spec(model, parts, adapter=str(made))
    plain = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(model), str(made))
    plain.merge_and_unload().save_pretrained(folder / "merged")
    AutoProcessor.from_pretrained(model).save_pretrained(folder / "merged")
    return spec(folder / "merged", parts)


def run(model: ModelSpec, folder: Path, reference: str, **options: Any) -> Recipe:
    return train_runs.recipe(
        Path(model.path),
        folder,
        responses=2,
        model=model,
        reference=reference,
        output_dir=str(folder / reference),
        **({"max_steps": 3} | options),
    )


def records(recipe: Recipe) -> list[dict[str, float]]:
    train(recipe, quiet=True)
    return [json.loads(line) for line in (Path(recipe.output_dir) / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", STARTS)
def test_training_starts_from_its_reference(tiny: dict[str, Path], tmp_path: Path, name: str) -> None:
    model = replace(start(tiny["llava"], tmp_path, name), lora=replace(DROPOUT, dropout=0.0))
    if model.adapter is not None:  # its dropout is its own
        path = Path(model.adapter) / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"lora_dropout": 0.0}))
    curves = {}
    for reference in ("adapter", "copy", "cache"):
        curves[reference] = records(run(model, tmp_path, reference))
        first = curves[reference][0]
        assert first["loss"] == pytest.approx(0.693147, abs=1e-6)
        assert first["rewards/chosen"] == pytest.approx(0, abs=1e-6)
        assert first["rewards/rejected"] == pytest.approx(0, abs=1e-6)
    for reference in ("copy", "cache"):
        for one, other in zip(curves["adapter"], curves[reference], strict=True):
            assert one["loss"] == pytest.approx(other["loss"], abs=1e-6)
            assert one["rewards/margins"] == pytest.approx(other["rewards/margins"], abs=1e-5)
    assert abs(curves["adapter"][-1]["rewards/margins"]) > 1e-3, "nothing was trained"


def test_the_reference_has_no_dropout(tiny: dict[str, Path], tmp_path: Path) -> None:
    """Dropout is of the policy alone: the numbers of the reference are those of the evaluated start."""
    model = start(tiny["llava"], tmp_path, "adapter with a part in full")
    found = {reference: records(run(model, tmp_path, reference)) for reference in ("adapter", "copy", "cache")}
    for reference in ("copy", "cache"):
        assert [r["loss"] for r in found[reference]] == pytest.approx([r["loss"] for r in found["adapter"]], abs=1e-6)


def test_what_is_saved_is_one_adapter(tiny: dict[str, Path], tmp_path: Path) -> None:
    model = start(tiny["llava"], tmp_path, "adapter with a part in full")
    records(run(model, tmp_path, "adapter"))
    records(run(model, tmp_path, "copy"))
    saved = {reference: tmp_path / reference / "model" for reference in ("adapter", "copy")}
    assert [p.name for p in saved["adapter"].iterdir() if p.is_dir()] == []
    assert {p.name for p in saved["adapter"].iterdir()} == {p.name for p in saved["copy"].iterdir()}
    plain = {
        reference: PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(model.path), str(folder))
        for reference, folder in saved.items()
    }
    states = {reference: one.state_dict() for reference, one in plain.items()}
    assert not any("start" in name for name in states["adapter"])
    for name, value in states["copy"].items():
        torch.testing.assert_close(states["adapter"][name], value, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["adapter on the tower", "adapter with a part in full"])
def test_a_stopped_run_goes_on_alike(tiny: dict[str, Path], tmp_path: Path, name: str) -> None:
    model = start(tiny["llava"], tmp_path, name)

    def recipe(steps: int, folder: str) -> Recipe:
        made = run(model, tmp_path, "adapter", max_steps=steps, schedule="constant", save_every=1)
        return replace(made, output_dir=str(tmp_path / folder))

    whole = records(recipe(4, "whole"))
    records(recipe(2, "stopped"))
    assert [r["loss"] for r in records(recipe(4, "stopped"))] == [r["loss"] for r in whole]


def test_an_adapter_that_changed_under_its_path_is_refused(tiny: dict[str, Path], tmp_path: Path) -> None:
    model = replace(start(tiny["llava"], tmp_path, "adapter"), lora=None)
    recipe = run(model, tmp_path, "adapter", max_steps=1, schedule="constant")
    longer = replace(recipe, train=replace(recipe.train, max_steps=2))
    train(recipe, quiet=True)
    folder = Path(str(model.adapter))
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    settings = json.loads(kept["adapter_config.json"])

    def refused() -> None:
        with pytest.raises(CheckpointError, match=rf"{folder} holds another adapter than when \S+step-00000001"):
            train(longer, quiet=True)

    adapter(Path(model.path), folder, LORA, seed=1)
    refused()
    for name, content in kept.items():
        (folder / name).write_bytes(content)
    (folder / "adapter_config.json").write_text(json.dumps(settings | {"lora_alpha": 16}))
    refused()
    (folder / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": "elsewhere"}))
    assert train(longer, quiet=True).resumed_from == 1


def test_numbers_of_another_adapter_are_not_taken_for_its_own(tiny: dict[str, Path], tmp_path: Path) -> None:
    """The weights are the same, and their scale is not."""
    model = replace(start(tiny["llava"], tmp_path, "adapter"), lora=None)
    first = run(model, tmp_path, "cache", max_steps=1)
    records(first)
    path = Path(str(model.adapter)) / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"lora_alpha": 80, "lora_dropout": 0.0}))
    for name in ("recipe.yaml", "metrics.jsonl"):
        (tmp_path / "cache" / name).unlink()
    for step in (tmp_path / "cache" / "checkpoints").iterdir():
        (step / "manifest.json").unlink()
    assert records(first)[0]["loss"] == pytest.approx(0.693147, abs=1e-6)


def test_what_would_move_with_the_policy_is_refused(tiny: dict[str, Path], tmp_path: Path) -> None:
    config = LoraConfig(r=2, target_modules=["q_proj"], bias="all")
    folder = tmp_path / "before"
    get_peft_model(AutoModelForImageTextToText.from_pretrained(tiny["llava"]), config).save_pretrained(folder)
    model = ModelSpec(path=str(tiny["llava"]), adapter=str(folder))
    recipe = run(model, tmp_path, "adapter")
    with pytest.raises(RecipeError, match=r"trained parameters belong to none and would move.*copy or cache"):
        train(recipe, quiet=True)

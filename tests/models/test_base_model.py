"""An adapter says which model it belongs to, and is not laid over another."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from examples.tiny_model import save_tiny_model
from peft import PeftModel
from transformers import AutoModelForImageTextToText

from sightline.errors import RecipeError
from sightline.models.base_model import FILE, fingerprint
from sightline.models.load import load_policy
from sightline.recipes.schema import LoraSpec, ModelSpec, PartsSpec
from tiny_models import FAMILIES, save_tiny

LORA = PartsSpec(language="lora", projector="full")


def loaded(path: Path, **options: object) -> torch.nn.Module:
    return AutoModelForImageTextToText.from_pretrained(path, **options)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fingerprint_is_of_the_weights_and_of_nothing_else(tiny: dict[str, Path], family: str) -> None:
    model = loaded(tiny[family], dtype=torch.float32)
    whole = fingerprint(model)
    assert fingerprint(loaded(tiny[family], dtype=torch.bfloat16)) == whole
    renamed = torch.nn.ModuleDict({"inner": model})
    assert fingerprint(renamed) == whole
    with torch.no_grad():
        next(iter(model.parameters())).reshape(-1)[0] += 1
    assert fingerprint(model) != whole


def test_an_adapter_is_refused_on_another_base_of_the_same_sizes(tiny: dict[str, Path], tmp_path: Path) -> None:
    other = save_tiny("llava", tmp_path / "other", seed=7)
    spec = ModelSpec(path=str(tiny["llava"]), parts=LORA, lora=LoraSpec(rank=2))
    load_policy(spec).save(tmp_path / "adapter")

    there = {"adapter": str(tmp_path / "adapter")}
    load_policy(ModelSpec(path=str(tiny["llava"]), **there))
    load_policy(ModelSpec(path=str(tiny["llava"]), dtype="bfloat16", **there), trainable=False)
    with pytest.raises(RecipeError, match=rf"was trained on {tiny['llava']} .*, and {other} holds other weights"):
        load_policy(ModelSpec(path=str(other), **there))

    again = load_policy(ModelSpec(path=str(tiny["llava"]), **there))  # saved anew, it still names its base
    again.save(tmp_path / "again")
    assert (tmp_path / "again" / FILE).read_text() == (tmp_path / "adapter" / FILE).read_text()

    PeftModel.from_pretrained(loaded(other), tmp_path / "adapter")  # other programs pass over the file
    (tmp_path / "adapter" / FILE).unlink()
    load_policy(ModelSpec(path=str(other), **there))  # an adapter of another program is taken at its word


@pytest.mark.parametrize("family", FAMILIES)
def test_the_example_makes_the_same_model_again(tmp_path: Path, family: str) -> None:
    made = [loaded(save_tiny_model(family, tmp_path / name, hidden=32)) for name in ("one", "two")]
    assert fingerprint(made[0]) == fingerprint(made[1])


def test_a_model_without_adapter_needs_no_fingerprint(tiny: dict[str, Path], tmp_path: Path) -> None:
    load_policy(ModelSpec(path=str(tiny["llava"]))).save(tmp_path)
    assert not (tmp_path / FILE).exists()

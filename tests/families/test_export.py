"""Adapters of families of all kinds are merged into folders that plain transformers reads as the same model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from command_line import sightline
from sightline.models.load import load_policy
from sightline.recipes.schema import LoraSpec, ModelSpec, PartsSpec

KINDS = ("mllama", "paligemma", "idefics3", "gemma4", "qwen3_vl", "mistral3")
"""Those whose processors and heads differ most."""


@pytest.mark.parametrize("model_type", KINDS)
def test_a_merged_adapter_is_verified(folder_of: Callable[[str], Path], tmp_path: Path, model_type: str) -> None:
    parts = PartsSpec(language="lora", projector="frozen", vision="lora")
    spec = ModelSpec(path=str(folder_of(model_type)), layout="rows", parts=parts, lora=LoraSpec(rank=2))
    policy = load_policy(spec)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.02)
    policy.save(tmp_path / "adapter")
    done = sightline("merge", tmp_path / "adapter", "-o", tmp_path / "out")
    assert done.code == 0, done.err


def test_a_family_without_trees_chats(folder_of: Callable[[str], Path], pictures: list[str]) -> None:
    asked = ("--image", pictures[0], "--question", "is there a star?", "--max-tokens", 3)
    done = sightline("chat", folder_of("mllama"), *asked)
    assert done.code == 0, done.err

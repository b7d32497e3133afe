"""A model ready to answer: loaded, frozen, on the GPU where there is one."""

from __future__ import annotations

import torch

from sightline.models.load import load_policy
from sightline.recipes.schema import ModelSpec
from sightline.rollouts.hf import HFEngine


def load_engine(spec: ModelSpec) -> HFEngine:
    """The engine of a model that is only asked.

    Raises:
        RecipeError: No model at ``spec.path``.
        UnsupportedError: A model family that Sightline does not have.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return HFEngine(load_policy(spec, trainable=False).to(device))

"""A processor output that a path drops changes what it computes, or fails: in training, sampling and scoring alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from groups import corner_groups
from test_declarations import ALL_ONES
from test_matrix import batch_of, each_family, policy_of
from torch import Tensor

from sightline.evaluation.logprobs import LogprobScorer
from sightline.models.family import Family
from sightline.models.policy import Policy
from sightline.recipes.schema import SamplingSpec
from sightline.rollouts.hf import HFEngine
from sightline.types import Group

WRONG = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)
"""What models raise without an input."""


def without(family: Family, key: str) -> Family:
    """The family, whose pictures lack one of the processor's outputs from where they are brought together."""
    return replace(family, join=lambda parts: {n: v for n, v in family.join(parts).items() if n != key})


def trained(policy: Policy, group: Group) -> Tensor:
    layout = "tree" if "tree" in policy.family.layouts else "rows"
    logprobs = policy.train()(batch_of(policy, [group], layout)).logprobs
    assert logprobs is not None
    return logprobs.detach()


def sampled(policy: Policy, group: Group) -> Tensor:
    asked = replace(group, responses=(), edges=())
    (answered,) = HFEngine(policy).generate([asked], SamplingSpec(temperature=0, max_new_tokens=3), seed=0)
    (response,) = answered.responses
    assert response.rollout_logprobs is not None
    return torch.tensor(response.rollout_logprobs[:1])


def scored(policy: Policy, group: Group) -> Tensor:
    engine = HFEngine(policy)
    layout = "tree" if "tree" in policy.family.layouts else "rows"
    (found,) = LogprobScorer(policy, engine.renderer, layout=layout).scores([group])  # type: ignore[arg-type]
    return torch.tensor([response.rewards["logprob"] for response in found.responses])


@pytest.mark.parametrize("path", [trained, sampled, scored])
@each_family
def test_no_key_can_be_dropped_on_any_path(
    folder_of: Callable[[str], Path],
    pictures: list[str],
    model_type: str,
    path: Callable[[Policy, Group], Tensor],
) -> None:
    policy = policy_of(folder_of(model_type))
    family, group = policy.family, corner_groups(pictures)[2]  # pictures of different sizes
    whole = path(policy, group)
    assert torch.equal(path(policy, group), whole)
    for key in family.image_keys:
        policy.family = without(family, key)
        try:
            found = path(policy, group)
        except WRONG:
            continue
        finally:
            policy.family = family
        assert bool((found - whole).abs().max() < 1e-4) == ((model_type, key) in ALL_ONES), key


@each_family
def test_no_input_of_a_row_can_be_dropped(
    folder_of: Callable[[str], Path], pictures: list[str], model_type: str
) -> None:
    """What says where the pictures of a row stand (``Family.row_inputs``)."""
    policy = policy_of(folder_of(model_type)).train()
    family, batch = policy.family, batch_of(policy, [corner_groups(pictures)[2]], "rows")
    with torch.no_grad():
        whole = policy(batch).logprobs
    policy.family = replace(family, row_inputs=lambda marks, blocks, vision: {})
    try:
        with torch.no_grad():
            found = policy(batch).logprobs
    except WRONG:
        return
    assert whole is not None and found is not None
    read = family.row_inputs is not Family.row_inputs and model_type != "gemma4"  # whose small models are causal
    assert bool((found - whole).abs().max() > 1e-4) == read

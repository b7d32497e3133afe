"""Attention by segments, apart from any model."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode

from sightline.models.attention import SegmentPlan, segment_attention

H, D, TRUNK, BRANCH = 2, 8, 24, 5


def comb(branches: int) -> SegmentPlan:
    """A trunk and branches that grow from it, all computed one by one."""
    trunk = (0, TRUNK)
    spans = (trunk, *((TRUNK + BRANCH * i, TRUNK + BRANCH * (i + 1)) for i in range(branches)))
    return SegmentPlan(spans, ((), *((trunk,),) * branches), tuple(range(branches + 1)), None, None, None)


def inputs(branches: int, heads: int = H) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    length = TRUNK + BRANCH * branches
    sizes = (H, heads, heads)
    return [torch.randn(1, size, length, D, generator=generator, requires_grad=True) for size in sizes]


@pytest.mark.parametrize("heads", [H, 1], ids=["all heads", "grouped heads"])
def test_a_comb_equals_each_path_by_itself(heads: int) -> None:
    query, key, value = inputs(3, heads)
    found, _ = segment_attention(torch.nn.Module(), query, key, value, None, comb(3))
    upstream = torch.linspace(-1, 1, found.numel()).reshape(found.shape)
    gradients = torch.autograd.grad((upstream * found).sum(), (query, key, value))
    total = found.new_zeros(())
    for branch in range(3):
        own = range(TRUNK + BRANCH * branch, TRUNK + BRANCH * (branch + 1))
        path = torch.tensor([*range(TRUNK), *own])
        q, k, v = (part[:, :, path] for part in (query, key, value))
        alone = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2)
        torch.testing.assert_close(found[:, path], alone, atol=1e-6, rtol=1e-5)
        counted = path if branch == 0 else path[TRUNK:]  # the trunk's own outputs once
        total = total + (upstream[:, counted] * alone[:, -len(counted) :]).sum()
    for one, other in zip(gradients, torch.autograd.grad(total, (query, key, value)), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


class FullLength(TorchDispatchMode):
    """Counts results as large as all keys together."""

    def __init__(self, numel: int) -> None:
        super().__init__()
        self.numel, self.count = numel, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        leaves = torch.utils._pytree.tree_leaves(result)
        self.count += sum(torch.is_tensor(leaf) and leaf.numel() == self.numel for leaf in leaves)
        return result


def full_length_results(branches: int) -> int:
    qkv = inputs(branches)
    output, _ = segment_attention(torch.nn.Module(), *qkv, None, comb(branches))
    with FullLength(qkv[0].numel()) as seen:
        output.backward(torch.ones_like(output))
    return seen.count


def test_the_backward_pass_makes_no_tensor_of_full_length_per_branch() -> None:
    assert full_length_results(2) == full_length_results(9) <= 12

"""The tree's attention in all its forms and as FlexAttention, on one device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.gpu_models import Sizes, random_group
from benchmarks.gpu_time import Clock
from sightline.models.attention import tree_attention
from sightline.models.attention_plan import FORMS, TreePlan, plan_attention
from sightline.models.family import family_of
from sightline.models.layout import lay_out
from sightline.types import Batch

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""query [1,H,T,d], key and value [1,Hkv,T,d] -> [1,H,T,d]."""


@dataclass(frozen=True, kw_only=True)
class Heads:
    """What attention gets in one layer of a model."""

    query: int
    key: int
    size: int

    @staticmethod
    def of(config: Any) -> Heads:
        text = config.get_text_config()
        return Heads(
            query=text.num_attention_heads,
            key=text.num_key_value_heads,
            size=text.hidden_size // text.num_attention_heads,
        )


def tree_batch(config: Any, sizes: Sizes) -> Batch:
    """A group laid out as a tree; text stands for the picture, attention does not tell them apart."""
    prompt = Sizes(image=0, question=sizes.question + sizes.image, answers=sizes.answers, length=sizes.length)
    return lay_out([random_group(config, prompt, with_picture=False)], "tree", family_of(config), config)


def forms(batch: Batch, dtype: torch.dtype, compiled: bool) -> dict[str, Attend]:
    """The forms, ready to be called with queries, keys and values of this batch."""
    device, tokens = batch.tokens.device, batch.tokens.shape[0]
    seen = plan_attention(batch, "dense").dense_mask(0, torch.float32) == 0
    block = create_block_mask(lambda b, h, q, k: seen[q, k], None, None, tokens, tokens, device=device.type)
    flex: Any = torch.compile(flex_attention) if compiled else flex_attention

    def planned(plan: TreePlan) -> Attend:
        return lambda q, k, v: tree_attention(torch.nn.Module(), q, k, v, None, plan)[0].transpose(1, 2)

    return {
        **{form: planned(plan_attention(batch, form)) for form in FORMS},
        "FlexAttention": lambda q, k, v: flex(q, k, v, block_mask=block, enable_gqa=True),
    }


def exact(batch: Batch, inputs: list[Tensor], upstream: Tensor) -> list[Tensor]:
    """Output and gradients in float64, with the dense mask."""
    query, key, value = (part.detach().double().requires_grad_() for part in inputs)
    mask = plan_attention(batch, "dense").dense_mask(0, torch.float64)
    output = scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True)
    return [output.detach(), *torch.autograd.grad(output, (query, key, value), upstream.double())]


def measure_attention(config: Any, sizes: Sizes, clock: Clock, dtype: torch.dtype) -> dict[str, Any]:
    """Of each form: errors against float64, times of forward and of both passes, memory.

    An error is the norm of the difference over the norm. On a CPU, FlexAttention has no backward pass and is not
    compiled.
    """
    heads, on_cpu = Heads.of(config), clock.device == "cpu"
    batch = tree_batch(config, sizes).to(torch.device(clock.device))
    tokens = batch.tokens.shape[0]
    torch.manual_seed(0)
    shapes = [(1, count, tokens, heads.size) for count in (heads.query, heads.key, heads.key)]
    inputs = [torch.randn(shape, device=clock.device, dtype=dtype, requires_grad=True) for shape in shapes]
    upstream = torch.randn(shapes[0], device=clock.device, dtype=dtype)
    expected = exact(batch, inputs, upstream)
    report: dict[str, Any] = {"tokens": tokens, "heads": [heads.query, heads.key, heads.size]}
    for name, attend in forms(batch, dtype, compiled=not on_cpu).items():
        backward = not (on_cpu and name == "FlexAttention")
        report[name] = _measure(attend, inputs, upstream, expected, clock, backward)
    return report


def _measure(
    attend: Attend, inputs: list[Tensor], upstream: Tensor, expected: list[Tensor], clock: Clock, backward: bool
) -> dict[str, float]:
    query, key, value = (part.detach() for part in inputs)
    forward = clock.time(lambda: attend(query, key, value))["seconds"]
    found = {"output_error": relative(attend(query, key, value), expected[0]), "forward_ms": 1e3 * forward}
    if not backward:
        return found

    def both() -> tuple[Tensor, ...]:
        return torch.autograd.grad(attend(*inputs), inputs, upstream)

    found["gradient_error"] = max(relative(one, other) for one, other in zip(both(), expected[1:], strict=True))
    timed = clock.time(both)
    return found | {"both_ms": 1e3 * timed["seconds"], "peak_mb": timed["peak_mb"]}


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())

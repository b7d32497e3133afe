"""Attention of vision towers that take all pictures of a batch as one sequence: windows and pictures end to end.

transformers calls one kernel for each window, of which a picture has dozens, and in every layer asks the device where
they end. On CUDA this is one call of the variable-length kernel (``varlen``); elsewhere it is as transformers does it.
"""

from __future__ import annotations

import copy
import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from sightline.models import varlen
from sightline.models.family import Family
from sightline.models.varlen import Lengths, Sight

TOWER = "sightline_flash_tower"
"""Name of the attention implementation. transformers hands over where sequences end where ``flash`` is in a name."""


def pack_tower(model: nn.Module, family: Family) -> None:
    """Switches the vision tower of a model to it, where that one takes sequences end to end.

    The tower gets a config of its own: with a ``flash`` in that of the model, transformers would look for a library of
    this name wherever a model is made from it.
    """
    tower = [module for name, module in model.named_modules() if f"{name}.".startswith(family.vision)]
    shared = {id(module.config): module.config for module in tower if _asks_for_ends(module)}  # copied parts: their own
    own = {number: copy.copy(config) for number, config in shared.items()}
    for config in own.values():
        config._attn_implementation = TOWER
    for module in tower:
        if (number := id(getattr(module, "config", None))) in own:
            module.config = own[number]


def _asks_for_ends(module: nn.Module) -> bool:
    return hasattr(module, "config") and "cu_seqlens" in inspect.signature(module.forward).parameters


def tower_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention function for transformers' interface: query, key and value [1,H,T,d], every token sees its sequence.

    Of the keywords ``cu_seq_lens_q`` [B+1] int32 says where sequences end, ``max_length_q`` how long the longest is.

    Returns:
        [1,T,H,d] and no attention weights.
    """
    ends, scaling, dropout = kwargs["cu_seq_lens_q"], kwargs["scaling"], kwargs.get("dropout", 0.0)
    parts = varlen.as_autocast(query, key, value)
    if dropout or not varlen.kernel_takes(query.device, parts[0].dtype, query.shape[-1]):
        return _one_by_one(module, (query, key, value), ends, scaling, dropout), None
    queries, keys, values = (part[0].transpose(0, 1).contiguous() for part in parts)
    most = torch.tensor([kwargs["max_length_q"]] * 2)
    output: Tensor = _packed(queries, keys, values, ends.to(torch.int32), most, scaling)[0]
    return output[None], None


def _one_by_one(module: nn.Module, parts: tuple[Tensor, ...], ends: Tensor, scaling: float, dropout: float) -> Tensor:
    lengths = (ends[1:] - ends[:-1]).tolist()
    split = zip(*(part.split(lengths, dim=2) for part in parts), strict=True)
    given: dict[str, Any] = {"attention_mask": None, "scaling": scaling, "dropout": dropout, "is_causal": False}
    return torch.cat([sdpa_attention_forward(module, *one, **given)[0] for one in split], dim=1)


# --- as an operator that autograd and torch.compile take whole ---


@torch.library.custom_op("sightline::packed_attention", mutates_args=())
def _packed(
    query: Tensor, key: Tensor, value: Tensor, ends: Tensor, most: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    lengths, sight = Lengths(queries=ends, keys=ends, most=most), Sight(causal=False, window=0, scale=scale)
    return varlen.forward(query, key, value, lengths, sight)


@torch.library.custom_op("sightline::packed_attention_backward", mutates_args=())
def _packed_backward(
    grad: Tensor, inputs: list[Tensor], outputs: list[Tensor], ends: Tensor, most: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    lengths, sight = Lengths(queries=ends, keys=ends, most=most), Sight(causal=False, window=0, scale=scale)
    query, key, value = inputs
    return varlen.backward(grad.contiguous(), (query, key, value), outputs[0], outputs[1], lengths, sight)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors, *output)


def _gradients(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Any, ...]:
    query, key, value, ends, most, *outputs = ctx.saved_tensors
    return (*_packed_backward(grad, [query, key, value], outputs, ends, most, ctx.scale), None, None, None)


_packed.register_fake(varlen.like_forward)
_packed_backward.register_fake(varlen.like_backward)
_packed.register_autograd(_gradients, setup_context=_keep)


@register_flop_formula(torch.ops.sightline.packed_attention)
def _flops(query: Any, key: Any, value: Any, ends: Any, *_: Any, **__: Any) -> int:
    """Two products, as if all sequences were of one length."""
    return 4 * query[1] * query[2] * query[0] * key[0] // max(1, ends[0] - 1)


@register_flop_formula(torch.ops.sightline.packed_attention_backward)
def _backward_flops(grad: Any, inputs: Any, outputs: Any, ends: Any, *_: Any, **__: Any) -> int:
    return 5 * _flops(*inputs, ends) // 2


AttentionInterface.register(TOWER, tower_attention)

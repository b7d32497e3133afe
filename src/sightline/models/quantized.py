"""Decoders whose linear layers are held in 4 or 8 bits by bitsandbytes, frozen, under adapters that are trained: QLoRA
(Dettmers et al. 2023, arXiv 2305.14314) and LLM.int8() (Dettmers et al. 2022, arXiv 2208.07339).

Projector, vision tower, embeddings, norms and LM head stay as they were loaded. Which layers are quantised is read off
the model itself: lists of names to leave out are matched in other ways by every version of transformers.
"""

from __future__ import annotations

from copy import deepcopy
from importlib.util import find_spec
from typing import Any

import torch
from peft import PeftConfig
from torch import nn

from sightline.errors import MissingExtra, RecipeError, UnsupportedError
from sightline.models.family import Family
from sightline.recipes.schema import ModelSpec

OUTLIERS = 6.0
"""Of int8: inputs with a larger value anywhere in the call are multiplied in 16 bits (section 3.2 of the paper)."""


def check_quantization(spec: ModelSpec, config: Any) -> None:
    """Whether a model can be quantised as the recipe asks, before anything is loaded.

    Args:
        spec: of the recipe.
        config: of the model, from transformers.

    Raises:
        MissingExtra: bitsandbytes is not there.
        RecipeError: the folder is quantised already, or the adapter holds a quantised layer whole.
    """
    if spec.quantization == "none":
        return
    if find_spec("bitsandbytes") is None:
        raise MissingExtra("bitsandbytes", "quantize")
    if getattr(config, "quantization_config", None) is not None:
        raise RecipeError(
            f"model.quantization is {spec.quantization}, and the weights in model.path {spec.path} are quantised "
            "already. Leave model.quantization out, or name the model that they were made from"
        )
    if has_experts(config):
        raise RecipeError(
            f"model.quantization is {spec.quantization}, and {spec.path} is a mixture of experts: its experts are no "
            "linear layers and would stay as large as they are. Leave model.quantization out"
        )


def quantise(model: Any, family: Family, spec: ModelSpec) -> None:
    """Replaces the linear layers of the decoder in place; does nothing where the recipe asks for nothing.

    Where there is a GPU, weights go there one by one and are quantised there, and the rest follows: layers of 8 bits
    cannot be moved afterwards (``Module.to`` leaves their scales behind).

    Args:
        model: as loaded, without adapters.
        family: of the model.
        spec: which type, and what products are computed in.

    Raises:
        RecipeError: the adapter that will be loaded holds a quantised layer whole.
    """
    if spec.quantization == "none":
        return
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    names = decoder_linears(model, family)
    _check_copies(names, spec)
    make = _nf4 if spec.quantization == "nf4" else _int8
    for name in names:
        parent, leaf = name.rsplit(".", 1)
        setattr(model.get_submodule(parent), leaf, make(model.get_submodule(name), spec, device))
    model.to(device)
    # PEFT then makes adapters for such layers
    model.is_loaded_in_4bit, model.is_loaded_in_8bit = spec.quantization == "nf4", spec.quantization == "int8"


def has_experts(config: Any) -> bool:
    """Whether the decoder is a mixture of experts; families name their number in three ways."""
    text = config.get_text_config()
    return any(getattr(text, name, None) for name in ("num_experts", "num_local_experts", "n_routed_experts"))


def quantised_loading(config: Any) -> dict[str, Any]:
    """Options of ``from_pretrained`` for a folder of compressed-tensors (GPTQ and AWQ by LLM Compressor): its weights
    are unpacked as they are loaded. The package does it by itself only when the whole model's forward is called, and
    the parts of a policy are called one by one.

    Raises:
        MissingExtra: compressed-tensors is not there.
    """
    settings = getattr(config, "quantization_config", None)
    if not isinstance(settings, dict) or settings.get("quant_method") != "compressed-tensors":
        return {}
    if find_spec("compressed_tensors") is None:
        raise MissingExtra("compressed-tensors", "compressed")
    unpacked = deepcopy(config)
    unpacked.quantization_config = {**settings, "dequantize": True}
    return {"config": unpacked}


def decoder_linears(model: Any, family: Family) -> list[str]:
    """Names of the linear layers of the decoder, without the LM head."""
    head = model.get_output_embeddings()
    inside = f"{family.language}."
    return [
        name
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear)
        and layer is not head
        and name.startswith(inside)
        and family.part_of(f"{name}.") == "language"
    ]


def keep_gradients(model: nn.Module) -> None:
    """Makes 4-bit layers, whoever loaded them, train after they were evaluated or sampled from.

    On a CPU with AVX512-BF16 a forward pass in eval mode without gradient repacks their weights for good, into a
    layout that has no backward pass: gradients behind it are 0, without a word.
    """
    layer: Any
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False


def is_quantized(model: nn.Module) -> bool:
    """Whether any weight is held in whole numbers."""
    return any(not parameter.is_floating_point() for parameter in model.parameters())


def check_not_spread(model: nn.Module) -> None:
    """Raises UnsupportedError where a model that is to be spread over processes is quantised."""
    if is_quantized(model):
        raise UnsupportedError(
            "the weights of this model are quantised, and quantised weights are not spread over processes. Set "
            "train.distribution to ddp: every process then holds them whole, in a quarter or half of their memory"
        )


def _check_copies(names: list[str], spec: ModelSpec) -> None:
    if spec.adapter is None:
        return
    try:
        copied = getattr(PeftConfig.from_pretrained(spec.adapter), "modules_to_save", None) or []
    except (OSError, ValueError, KeyError, TypeError):
        return  # loading it will say what is wrong
    held = [name for name in names if any(f".{copy}." in f".{name}." for copy in copied)]
    if held:
        raise RecipeError(
            f"model.adapter {spec.adapter} holds {held[0]} whole (modules_to_save), and model.quantization "
            f"{spec.quantization} leaves nothing of it to train. Set model.quantization to none, or start from an "
            "adapter with LoRA on the decoder"
        )


def _nf4(linear: nn.Linear, spec: ModelSpec, device: torch.device) -> nn.Module:
    import bitsandbytes as bnb

    low = bnb.nn.Linear4bit(
        linear.in_features,
        linear.out_features,
        bias=linear.bias is not None,
        compute_dtype=getattr(torch, spec.compute_dtype or spec.dtype),
        device="meta",
    )
    low.weight = bnb.nn.Params4bit(
        linear.weight.detach().cpu(), requires_grad=False, quant_type="nf4", compress_statistics=spec.double_quant
    ).to(device)
    return _finished(low, linear)


def _int8(linear: nn.Linear, spec: ModelSpec, device: torch.device) -> nn.Module:
    import bitsandbytes as bnb

    low = bnb.nn.Linear8bitLt(
        linear.in_features,
        linear.out_features,
        bias=linear.bias is not None,
        has_fp16_weights=False,
        threshold=OUTLIERS,
        device="meta",
    )
    low.weight = bnb.nn.Int8Params(linear.weight.detach().cpu(), requires_grad=False, has_fp16_weights=False).to(device)
    return _finished(low, linear)


def _finished(low: nn.Module, linear: nn.Linear) -> nn.Module:
    low.bias = linear.bias
    for parameter in low.parameters():
        parameter.requires_grad_(False)
    return low.train(linear.training)

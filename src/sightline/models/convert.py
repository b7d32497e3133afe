"""From the layout of LLaVA's own code to that of transformers: LLaVA 1.5 and 1.6 with a CLIP tower.

There the sizes of the language model stand at the top of config.json, the tower is named by its path, and tensors are
``model.layers.*``, ``model.mm_projector.*``, ``model.image_newline`` and perhaps ``model.vision_tower.vision_tower.*``.
Whatever is not known is refused by its name: a guess would be another model.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlavaConfig,
    LlavaImageProcessorPil,
    LlavaNextConfig,
    LlavaNextImageProcessorPil,
    MistralConfig,
)

from sightline.errors import RecipeError, UnsupportedError
from sightline.models.llava_parts import (
    MISTRAL,
    VICUNA,
    Tower,
    build,
    image_token,
    processor_of,
    read_tokenizer,
    read_tower,
    with_rows,
    write_llava,
)

_TEXT = {
    "llava": (LlamaConfig, VICUNA),
    "llava_llama": (LlamaConfig, VICUNA),
    "llava_mistral": (MistralConfig, MISTRAL),
}
_OLD_TEXT = {"rope_theta", "rope_scaling", "sliding_window", "torch_dtype", "_attn_implementation"}
"""Entries of language models that newer versions of transformers keep under other names."""
_OF_LLAVA = {
    "mm_vision_tower",
    "mm_projector_type",
    "mm_hidden_size",
    "mm_vision_select_layer",
    "mm_vision_select_feature",
    "mm_patch_merge_type",
    "mm_use_im_start_end",
    "mm_use_im_patch_token",
    "image_aspect_ratio",
    "image_grid_pinpoints",
}
"""Entries that say what is computed; each is looked at."""
_OF_TRAINING = {
    "freeze_mm_mlp_adapter",
    "freeze_mm_vision_resampler",
    "image_crop_resolution",
    "image_split_resolution",
    "max_length",
    "mm_projector_lr",
    "mm_vision_tower_lr",
    "tokenizer_model_max_length",
    "tokenizer_padding_side",
    "tune_mm_mlp_adapter",
    "tune_mm_vision_resampler",
    "unfreeze_mm_vision_tower",
    "use_mm_proj",
}
"""Entries that only training read."""
_BUFFERS = (".rotary_emb.inv_freq", ".position_ids")
_EMBEDDINGS, _HEAD = "model.language_model.embed_tokens.weight", "lm_head.weight"
_PROJECTOR = "model.multi_modal_projector."
_PLACES = {"0": "linear_1", "2": "linear_2"}


def convert(source: Path, out: Path, *, tower: str, template: str | None = None) -> None:
    """Writes a folder of LLaVA's own code as transformers reads it.

    Args:
        source: folder with config.json, weights and tokenizer.
        out: folder to write.
        tower: folder or hub name of the CLIP tower that ``mm_vision_tower`` names.
        template: a chat template; None: that of Vicuna, or of Mistral.

    Raises:
        RecipeError: tensors that are missing or do not fit.
        UnsupportedError: an entry, a value or a tensor that is not known.
    """
    config = _config(source)
    clip = read_tower(tower, kinds=("clip_vision_model",))
    tokenizer = read_tokenizer(str(source))
    state = _state(source, config, clip)
    placeholder = image_token(tokenizer)
    for name in {_EMBEDDINGS, _HEAD} & state.keys():
        state[name] = with_rows(state[name], placeholder + 1)
    described = _described(config, clip, placeholder, state)
    model = build(described, state)
    kind = template or _TEXT[config["model_type"]][1]
    processor = processor_of(tokenizer, _pictures(config, clip), described, clip.additional_tokens, kind)
    write_llava(model, processor, out)


def _config(source: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((source / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"{source}/config.json cannot be read ({error}). Name a folder of LLaVA's own code"
        ) from error
    kind = config.get("model_type")
    if config.get("text_config") or kind not in _TEXT or not (_OF_LLAVA & config.keys()):
        other = " with text_config" if "text_config" in config else ""
        raise UnsupportedError(
            f"{source}: its config.json has model_type {kind!r}{other}, where the layout of LLaVA's own code was "
            f"expected ({', '.join(_TEXT)}, with mm_vision_tower). A folder in the layout of transformers needs none"
        )
    known = set(_TEXT[kind][0]().to_dict()) | _OLD_TEXT | _OF_LLAVA | _OF_TRAINING
    unknown = sorted(key for key, value in config.items() if key not in known and value not in (None, False))
    if unknown:
        raise UnsupportedError(
            f"{source}/config.json has entries that are not known: {', '.join(unknown)}. Remove those that change "
            "nothing in the forward pass; a model that needs one cannot be converted"
        )
    _check(source, config, "mm_projector_type", "linear", ("linear", "mlp2x_gelu"))
    _check(source, config, "mm_vision_select_feature", "patch", ("patch", "cls_patch"))
    _check(source, config, "mm_use_im_start_end", False, (False,))
    _check(source, config, "image_aspect_ratio", "square", ("square", "pad", "anyres"))
    if config.get("image_aspect_ratio") == "anyres":
        _check(source, config, "mm_patch_merge_type", "flat", ("spatial_unpad",))
    return config


def _check(source: Path, config: Mapping[str, Any], key: str, default: Any, known: tuple[Any, ...]) -> None:
    if (value := config.get(key, default)) not in known:
        raise UnsupportedError(
            f"{source}/config.json: {key} is {value!r}, where transformers' classes know {', '.join(map(str, known))}. "
            "Such a model cannot be converted"
        )


def _described(config: Mapping[str, Any], clip: Tower, placeholder: int, state: Mapping[str, Tensor]) -> Any:
    kind = _TEXT[config["model_type"]][0]
    known = set(kind().to_dict()) | _OLD_TEXT
    text = {name: value for name, value in config.items() if name in known - {"model_type", "architectures"}}
    tiles = config.get("image_aspect_ratio") == "anyres"
    options = {"image_grid_pinpoints": _grids(config)} if tiles else {}
    return (LlavaNextConfig if tiles else LlavaConfig)(
        text_config=kind(**(text | {"vocab_size": state[_EMBEDDINGS].shape[0]})),
        vision_config=clip.config,
        image_token_index=placeholder,
        image_seq_length=(clip.config.image_size // clip.config.patch_size) ** 2,
        projector_hidden_act="gelu" if config.get("mm_projector_type") == "mlp2x_gelu" else "linear",
        vision_feature_layer=config.get("mm_vision_select_layer", -2),
        vision_feature_select_strategy="full" if config.get("mm_vision_select_feature") == "cls_patch" else "default",
        tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
        **options,
    )


def _grids(config: Mapping[str, Any]) -> list[list[int]]:
    """Grids as (height, width); LLaVA's own code has them as (width, height)."""
    grids: Any = config.get("image_grid_pinpoints")
    try:
        listed = ast.literal_eval(grids) if isinstance(grids, str) else grids
        return [[int(height), int(width)] for width, height in listed]
    except (SyntaxError, ValueError, TypeError) as error:
        raise UnsupportedError(
            f"image_grid_pinpoints is {grids!r}, where a list of [width, height] was expected. Write them out"
        ) from error


def _pictures(config: Mapping[str, Any], clip: Tower) -> Any:
    made, ratio = clip.image_processor, config.get("image_aspect_ratio", "square")
    names = ("size", "crop_size", "image_mean", "image_std", "resample")
    options = {name: getattr(made, name) for name in names}
    if ratio == "anyres":
        return LlavaNextImageProcessorPil(**options, image_grid_pinpoints=_grids(config))
    return LlavaImageProcessorPil(**options, do_pad=True) if ratio == "pad" else made


# --- tensors ---


def _state(source: Path, config: Mapping[str, Any], clip: Tower) -> dict[str, Tensor]:
    tensors = _tensors(source)
    tower = {f"model.vision_tower.{name}": value for name, value in clip.state.items()}
    state: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if not name.endswith(_BUFFERS):
            state[_place(name, tower)] = value
    kinds = {value.dtype for name, value in state.items() if name.startswith("model.language_model.")}
    if len(kinds) != 1:
        raise RecipeError(f"{source}: its language model has tensors of {len(kinds)} types. Expected one; save it anew")
    kind = kinds.pop()
    state = {name: value.to(kind) for name, value in (tower | state).items()}
    if config.get("mm_projector_type", "linear") == "linear" and f"{_PROJECTOR}linear_1.weight" in state:
        # the class has two layers: with no function between them and one that passes on, they are one
        width = state[f"{_PROJECTOR}linear_1.weight"].shape[0]
        state[f"{_PROJECTOR}linear_2.weight"] = torch.eye(width, dtype=kind)
        state[f"{_PROJECTOR}linear_2.bias"] = torch.zeros(width, dtype=kind)
    return state


def _place(name: str, tower: Mapping[str, Tensor]) -> str:
    """Where a tensor of LLaVA's own code stands in transformers."""
    if name == _HEAD or name == "model.image_newline":
        return name
    if name.startswith("model.mm_projector."):
        place, _, kind = name.removeprefix("model.mm_projector.").rpartition(".")
        if place in ("", *_PLACES) and kind in ("weight", "bias"):
            return f"{_PROJECTOR}{_PLACES.get(place, 'linear_1')}.{kind}"
    elif name.startswith("model.vision_tower.vision_tower."):
        own = name.removeprefix("model.vision_tower.vision_tower.")
        places = [f"model.vision_tower.{one}" for one in (own, own.removeprefix("vision_model."))]
        found = [place for place in places if place in tower]
        if found:
            return found[0]
    elif name.startswith(("model.embed_tokens.", "model.layers.", "model.norm.")):
        return f"model.language_model.{name.removeprefix('model.')}"
    raise UnsupportedError(
        f"tensor {name} is none that LLaVA 1.5 or 1.6 with a CLIP tower has. A model that needs it cannot be converted"
    )


def _tensors(source: Path) -> dict[str, Tensor]:
    files = sorted(source.glob("model*.safetensors")) or sorted(source.glob("pytorch_model*.bin"))
    if not files:
        raise RecipeError(
            f"{source} holds no weights: expected model*.safetensors or pytorch_model*.bin. A projector alone "
            "(mm_projector.bin) is no model; add the weights of its language model"
        )
    tensors: dict[str, Tensor] = {}
    for file in files:
        safe = file.suffix == ".safetensors"
        tensors |= load_file(file) if safe else torch.load(file, map_location="cpu", weights_only=True)
    return tensors

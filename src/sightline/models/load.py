"""Loads a model and its processor from a folder or hub name, and marks what is trained."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from PIL import Image
from torch import nn
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor
from transformers.utils import logging

from sightline.errors import RecipeError
from sightline.models.adapters import check_kind, fingerprint
from sightline.models.attention import TREE
from sightline.models.base_model import BaseModel
from sightline.models.decoder import check_decoder
from sightline.models.family import Family, base_name, family_of
from sightline.models.locate import located, processor_folder
from sightline.models.parts import lora_config, modes_of, resolve, tie_copies
from sightline.models.pictures import check_options, picture_settings, set_options
from sightline.models.policy import Policy
from sightline.models.precision import in_float32
from sightline.models.quantized import check_quantization, keep_gradients, quantise, quantised_loading
from sightline.models.recurrence import follow_trees
from sightline.models.score_head import ScoreHead, has_score_head, load_score_head
from sightline.models.vision_inputs import check_crop
from sightline.models.weights import WEIGHED, check_adapter, check_layout, check_size, check_weights
from sightline.recipes.pictures import PictureSpec
from sightline.recipes.schema import LoraSpec, ModelSpec, PartsSpec

IMAGE_BACKEND = "pil"
"""Named, because the default depends on what is installed and changes the pixels."""


_LOGPROBS: frozenset[str] = frozenset({"logprobs"})
_reading = threading.RLock()
"""While transformers makes a model, torch's default dtype is that of its weights, in the whole process: of two threads
that load at once the one that ends last would leave its own for good."""


def load_policy(
    spec: ModelSpec, *, trainable: bool = True, heads: frozenset[str] = _LOGPROBS, processor_of: str | None = None
) -> Policy:
    """Loads the policy that a recipe asks for, into main memory; a quantised one onto the GPU where there is one.

    Args:
        spec: path, dtype, quantisation, layout, parts, LoRA. The path may be a run directory or an adapter
            (``models.locate``).
        trainable: False freezes everything (sampling, evaluation).
        heads: what the policy will be asked for. With ``reward`` it gets a score head: the one in
            ``spec.adapter`` or ``spec.path``, or a new one. Without ``logprobs`` the LM head is not trained.
        processor_of: folder whose processor is taken; None: the adapter's own, or the model's.

    Raises:
        RecipeError: no model at ``spec.path``, or parts that cannot be trained as asked.
        UnsupportedError: a model family or layout that Sightline does not have.
        MissingExtra: quantised weights without bitsandbytes.
    """
    spec = located(spec, trainable=trainable)
    config, family, processor = read_sides(spec, processor_of)
    check_size(spec.path, config, AutoModelForImageTextToText)
    model, found = read_pretrained(
        AutoModelForImageTextToText,
        spec.path,
        dtype=getattr(torch, spec.dtype),
        attn_implementation={"text_config": TREE, "vision_config": "sdpa"},
        **quantised_loading(config),
        **WEIGHED,
    )
    follow_pictures(model.config, spec, family, processor, processor_of)
    check_weights(spec.path, found, family.unused(config))
    family = follow_trees(model, family)
    family.check_layout(spec.layout)
    check_decoder(Policy(model, processor, family), spec.path)
    if spec.gradient_checkpointing:
        checkpoint_activations(model)
    base = BaseModel.of(model, spec.path)
    if spec.adapter is not None:
        check_kind(spec.adapter)
        base.check(spec.adapter)
    quantise(model, family, spec)
    keep_gradients(model)
    model = _with_adapter(model, family, spec, trainable)
    head = _score_head(config, spec, heads)
    start = None if spec.adapter is None else fingerprint(model, BaseModel.of(model, spec.path).fingerprint)
    policy = Policy(
        model, processor, family, attention=spec.attention, score_head=head, base_model=base, start_adapter=start
    )
    if not heads & {"logprobs", "entropy"}:
        freeze_lm_head(policy.base)
    if not trainable:
        policy.requires_grad_(False)
    policy.masters = in_float32(policy.model)
    return policy


def read_sides(spec: ModelSpec, processor_of: str | None = None) -> tuple[Any, Family, Any]:
    """Config, family and processor of a model, as far as they and the recipe agree. Reads no weights.

    Args:
        spec: located.
        processor_of: folder whose processor is taken; None: the adapter's own, or the model's.

    Raises:
        RecipeError, UnsupportedError, MissingExtra: as ``load_policy``.
    """
    check_layout(spec.path)
    config = read_pretrained(AutoConfig, spec.path)
    family = family_of(config)
    family.check_layout(spec.layout)
    check_quantization(spec, config)
    processor = load_processor(spec, processor_of)
    follow_pictures(config, spec, family, processor, processor_of)
    try:
        family.check_pictures(config, processor)
    except RecipeError as error:
        raise RecipeError(f"model.path {spec.path}: {error}") from error
    return config, family, processor


def follow_pictures(
    config: Any, spec: ModelSpec, family: Family, processor: Any, processor_of: str | None = None
) -> None:
    """Lets a config say of the pictures what the processor says, where that was changed on purpose: by options of the
    recipe, or of the run whose processor it is."""
    if spec.pictures.given() or (processor_of or processor_folder(spec)) != spec.path:
        family.follow(config, processor)


def _score_head(config: Any, spec: ModelSpec, heads: frozenset[str]) -> ScoreHead | None:
    if "reward" not in heads:
        return None
    hidden_size = config.get_text_config().hidden_size
    folders = [folder for folder in (spec.adapter, spec.path) if folder is not None and has_score_head(folder)]
    return load_score_head(folders[0], hidden_size) if folders else ScoreHead(hidden_size)


def freeze_lm_head(model: Any) -> None:
    """Nothing reads it, so it would never get a gradient, and DDP would wait for it. One that is tied to the input
    embeddings is read there."""
    read = {id(parameter) for parameter in model.get_input_embeddings().parameters()}
    for parameter in model.get_output_embeddings().parameters():
        if id(parameter) not in read:
            parameter.requires_grad_(False)


def load_processor(spec: ModelSpec, folder: str | None = None) -> Any:
    """The processor of a model, with the recipe's picture options and chat template.

    Args:
        spec: with a model folder (or hub name) as ``path``, as ``models.locate`` gives it.
        folder: whose processor is taken; None: the adapter's own, or the model's.

    Raises:
        RecipeError: no processor, or options that it or the model's family does not have.
    """
    folder = folder or processor_folder(spec)
    processor = read_pretrained(AutoProcessor, folder)
    if not hasattr(processor, "image_processor"):
        raise RecipeError(
            f"{folder} holds a tokenizer and no image processor. Add its preprocessor or processor config"
        )
    processor.image_processor = read_pretrained(AutoImageProcessor, folder, backend=IMAGE_BACKEND)
    family = family_of(read_pretrained(AutoConfig, spec.path))
    check_options(spec, family.name, family.options)
    if spec.image_size is not None:
        _resize(processor, spec.image_size, family)
    set_options(processor, spec, family.options)
    if spec.chat_template is not None:
        processor.chat_template = _template(spec.chat_template)
    return processor


def picture_facts(spec: ModelSpec, folder: str | None = None) -> dict[str, Any]:
    """How the pictures of a model are made ready, as it stands beside figures: ``pictures``, and of what ``spec``
    changes ``pictures_saved``, as the model's own processor has it.

    Args:
        spec: as of ``load_processor``.
        folder: as of ``load_processor``.
    """
    options = family_of(read_pretrained(AutoConfig, spec.path)).options
    here = picture_settings(load_processor(spec, folder), options)
    if spec.image_size is None and not spec.pictures.given():
        return {"pictures": here}
    plain = replace(spec, image_size=None, pictures=PictureSpec())
    saved = picture_settings(load_processor(plain, folder), options)
    return {"pictures": here, "pictures_saved": {n: value for n, value in saved.items() if value != here.get(n)}}


def _resize(processor: Any, size: dict[str, int], family: Family) -> None:
    """Sets the size of pictures, and tries it: processors look at its keys only when a picture comes."""
    if getattr(processor.image_processor, "size", None) is None:
        raise RecipeError(
            f"model.image_size is set, and {type(processor.image_processor).__name__} takes none. Leave it out, and "
            "set what it has instead in model.pictures (Gemma 4: max_tokens)"
        )
    own = dict(processor.image_processor.size)
    processor.image_processor.size = size
    try:
        processor.image_processor(images=[Image.new("RGB", (64, 64))], return_tensors="pt")
        family.count(processor, (64, 64))
    except (KeyError, TypeError, ValueError) as error:
        raise RecipeError(
            f"model.image_size {size} does not suit {type(processor.image_processor).__name__} ({error}). "
            f"The model's own size is {own}: use its keys"
        ) from error
    check_crop(processor)


def _template(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"model.chat_template {path!r} cannot be read ({error}). Give a Jinja file") from error


def read_pretrained(loader: Any, path: str, **options: Any) -> Any:
    """What a loader of transformers makes of a folder or hub name. Code from model folders is never run.

    Raises:
        RecipeError: there is nothing that it can read.
    """
    try:
        with _reading:
            return loader.from_pretrained(path, trust_remote_code=False, **options)
    except (OSError, ValueError, ImportError) as error:  # ValueError: a folder without a model in it
        first = str(error).strip().splitlines()[0]
        if "custom code" in first:
            first = "it brings code of its own to run, and code from model folders is never run"
        folder, why = Path(path), first
        if folder.is_dir() and not (folder / "config.json").is_file():
            why = "there is no config.json in this folder"
        elif not folder.exists():
            why = f"there is no such folder; as a name on the hub: {first}"
        raise RecipeError(
            f"no model could be loaded from {path!r} ({why}). Give the folder of a model, or a hub name"
        ) from error


def checkpoint_activations(model: Any, contexts: Callable[[], Any] | None = None) -> None:
    """Recompute activations in the backward pass, in the contexts that ``torch.utils.checkpoint`` takes (not in
    compiled layers); the method has a new name since transformers 5.2x."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False} if contexts is None else {"use_reentrant": False, "context_fn": contexts})


def hide_loading_bars() -> None:
    """Turns off transformers' own progress bars for loading and saving, in this process."""
    logging.disable_progress_bar()


# --- what is trained ---


def _with_adapter(model: Any, family: Family, spec: ModelSpec, trainable: bool) -> nn.Module:
    parts = spec.parts or PartsSpec()
    modes = modes_of(parts)
    if spec.adapter is not None:
        wrapped = _adapted(model, spec.adapter, trainable)
        tie_copies(wrapped)
        modes = resolve(wrapped, family, spec) if trainable else modes
    elif trainable and "lora" in modes.values():
        with without_old_names():
            wrapped = get_peft_model(model, lora_config(model, family, parts, spec.lora or LoraSpec()))
        tie_copies(wrapped)
    else:
        wrapped = model
    mark_trained(wrapped, family, modes, trainable)
    return wrapped


def mark_trained(wrapped: Any, family: Family, modes: Mapping[str, str], trainable: bool = True) -> None:
    """Marks which parameters of a model, or of a PEFT model, are trained.

    Raises:
        RecipeError: none is.
    """
    if not isinstance(wrapped, PeftModel):
        for name, parameter in wrapped.named_parameters():
            parameter.requires_grad_(trainable and modes[family.part_of(name)] == "full")
    unused = family.unused(wrapped.config)
    for name, parameter in wrapped.named_parameters():
        plain = base_name(name)
        frozen = modes[family.part_of(plain)] == "frozen"
        if plain.startswith(unused) or frozen or not trainable:
            parameter.requires_grad_(False)
    if trainable and not any(parameter.requires_grad for parameter in wrapped.parameters()):
        raise RecipeError(f"nothing is trained: model.parts is {modes}. Set one of them to full or lora")


@contextmanager
def without_old_names() -> Iterator[None]:
    """PEFT 0.21 asks for gradient checkpointing by its old name; gone when it asks by the new one. And it warns of
    tied embeddings, which ``tie_copies`` sees to."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        warnings.filterwarnings("ignore", message=".*ensure_weight_tying.*", category=UserWarning)
        yield


def _adapted(model: Any, adapter: str, trainable: bool) -> PeftModel:
    try:
        with without_old_names():
            wrapped = PeftModel.from_pretrained(model, adapter, is_trainable=trainable)
    except (KeyError, OSError, RuntimeError, ValueError) as error:  # KeyError: half a file; RuntimeError: other sizes
        first = " ".join(line.strip() for line in str(error).strip().splitlines()[:2])
        raise RecipeError(
            f"no adapter could be loaded from model.adapter {adapter!r} ({first}). "
            "Give the folder of a PEFT adapter: the model folder of a LoRA run"
        ) from error
    check_adapter(wrapped, adapter)
    return wrapped

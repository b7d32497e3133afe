"""The parts of a LLaVA in the layout of transformers: tower, image token, chat template, folder.

``convert`` and ``from_parts`` put them together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoTokenizer,
    CLIPImageProcessorPil,
    CLIPVisionModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    LlavaProcessor,
    SiglipImageProcessorPil,
    SiglipVisionModel,
)

from sightline.errors import RecipeError, UnsupportedError
from sightline.files import cleared, replace_folder
from sightline.models.load import load_policy
from sightline.recipes.schema import ModelSpec

IMAGE = "<image>"
_PARTS = (
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}"
    "{% endif %}{% endfor %}{% endif %}"
)
VICUNA = (
    "{% for message in messages %}{% if message['role'] == 'user' %}USER: "
    "{% elif message['role'] == 'assistant' %}ASSISTANT: {% endif %}"
    + _PARTS
    + "{% if message['role'] == 'assistant' %}{{ eos_token }}{% else %} {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
"""As LLaVA 1.5 and 1.6 on Vicuna were trained; a system text is written as it is."""
MISTRAL = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %} "
    + _PARTS
    + "{{ eos_token }}{% elif message['role'] == 'user' %}[INST] "
    + _PARTS
    + " [/INST]{% else %}"
    + _PARTS
    + "{% endif %}{% endfor %}"
)
"""As LLaVA 1.6 on Mistral was trained."""
_FLATTEN = (
    "{%- set flat = namespace(messages=[]) -%}{%- for message in messages -%}{%- set content -%}"
    + _PARTS
    + "{%- endset -%}{%- set flat.messages = flat.messages + [{'role': message['role'], 'content': content}] -%}"
    "{%- endfor -%}{%- set messages = flat.messages -%}"
)
"""Before the template of a language model, which takes texts: pictures become image tokens in them."""
_TOWERS = {
    "clip_vision_model": (CLIPVisionModel, CLIPImageProcessorPil, 1),
    "siglip_vision_model": (SiglipVisionModel, SiglipImageProcessorPil, 0),
}


@dataclass(frozen=True, kw_only=True)
class Tower:
    """A vision tower and how pictures are made for it."""

    config: Any
    state: Mapping[str, Tensor]
    """By the names that it has inside of a LLaVA, behind ``model.vision_tower.``."""
    image_processor: Any
    additional_tokens: int
    """Features beside those of patches: 1 for the class token of CLIP."""


def read_tower(path: str, kinds: Sequence[str] = tuple(_TOWERS)) -> Tower:
    """The vision part of a CLIP or SigLIP folder.

    Raises:
        RecipeError: no such model, or weights or a picture processor are missing.
        UnsupportedError: another kind of tower.
    """
    config = _read(AutoConfig, path, "a vision tower")
    vision = getattr(config, "vision_config", config)
    if vision.model_type not in kinds:
        raise UnsupportedError(
            f"{path} is a {vision.model_type}, where one of {', '.join(kinds)} was expected. Name the folder of such a "
            "vision tower"
        )
    tower, processor, additional = _TOWERS[vision.model_type]
    model, found = tower.from_pretrained(path, trust_remote_code=False, output_loading_info=True)
    if missing := sorted(found["missing_keys"]):
        raise RecipeError(f"{path} lacks {len(missing)} tensors of its tower (first {missing[0]}). Take a whole folder")
    made = _read(processor, path, "a picture processor")
    return Tower(config=model.config, state=model.state_dict(), image_processor=made, additional_tokens=additional)


def read_tokenizer(path: str) -> Any:
    """A tokenizer that can end an answer.

    Raises:
        RecipeError: there is none, or it has no end.
    """
    tokenizer = _read(AutoTokenizer, path, "a tokenizer")
    if tokenizer.eos_token is None:
        raise RecipeError(f"{path}: its tokenizer has no eos_token, where an answer must end. Set one")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    return tokenizer


def _read(loader: Any, path: str, what: str) -> Any:
    try:
        return loader.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        first = str(error).strip().splitlines()[0]
        raise RecipeError(f"{path} holds nothing that loads as {what} ({first}). Name a whole model folder") from error


def image_token(tokenizer: Any) -> int:
    """The id of the token that stands for pictures; added where there is none."""
    if IMAGE not in tokenizer.get_vocab():
        tokenizer.add_tokens([AddedToken(IMAGE, special=True, normalized=False)])
    return int(tokenizer.convert_tokens_to_ids(IMAGE))


def with_rows(matrix: Tensor, rows: int) -> Tensor:
    """Embeddings with as many rows at least; new ones are the mean, as transformers adds them to LLaVA."""
    lacking = rows - matrix.shape[0]
    if lacking <= 0:
        return matrix
    mean = matrix.float().mean(0, keepdim=True).to(matrix.dtype)
    return torch.cat([matrix, mean.expand(lacking, -1)])


def text_template(own: str | Mapping[str, str] | None) -> str:
    """A chat template that takes pictures, from that of a language model, of several the default one; None: LLaVA's."""
    own = own.get("default") if isinstance(own, Mapping) else own
    return VICUNA if own is None else _FLATTEN + own


def processor_of(tokenizer: Any, image_processor: Any, config: Any, additional: int, template: str) -> Any:
    """The processor of a LLaVA or LLaVA-NeXT."""
    kind = LlavaNextProcessor if config.model_type == "llava_next" else LlavaProcessor
    tokenizer.chat_template = template  # its own, for texts or of several kinds, would be saved beside it
    return kind(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=additional,
        chat_template=template,
    )


def build(config: LlavaConfig | LlavaNextConfig, state: Mapping[str, Tensor]) -> Any:
    """A LLaVA of these tensors, each in its place.

    Raises:
        RecipeError: names tensors that are missing, left over or of another shape.
    """
    kind = LlavaNextForConditionalGeneration if config.model_type == "llava_next" else LlavaForConditionalGeneration
    with torch.device("meta"):
        model = kind(config)
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    expected = {name: value.shape for name, value in model.state_dict().items()}
    faults = [f"{name} is missing" for name in expected if name not in state and name not in tied]
    faults += [f"{name} has no place" for name in state if name not in expected]
    shapes = ((name, state[name].shape, shape) for name, shape in expected.items() if name in state)
    faults += [f"{name} is {list(here)} for {list(there)}" for name, here, there in shapes if here != there]
    if faults:
        raise RecipeError(
            f"{len(faults)} tensors do not fit the model that the configs describe ({'; '.join(faults[:4])}). Take "
            "configs and weights that belong together"
        )
    model.load_state_dict(dict(state), strict=False, assign=True)
    model.tie_weights()
    return model


def write_llava(model: Any, processor: Any, out: Path) -> None:
    """Writes a folder as ``from_pretrained`` reads it, once it has loaded as Sightline loads models.

    Raises:
        RecipeError: it does not. Nothing is left at ``out``.
    """

    def write(folder: Path) -> None:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        kind = "bfloat16" if model.dtype == torch.bfloat16 else "float32"
        load_policy(ModelSpec(path=str(folder), dtype=kind), trainable=False)  # type: ignore[arg-type]

    with cleared(out):
        replace_folder(out, write)

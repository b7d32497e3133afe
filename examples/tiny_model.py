"""Saves a tiny vision-language model with random weights: to try a recipe where no real model is at hand.

    python examples/tiny_model.py llava models/tiny-llava
    python examples/tiny_model.py qwen2_5_vl models/tiny-qwen

It has the layers, the picture sizes and the files of its family, so whatever runs with it runs with the real
one; only its layers are few and narrow. A LLaVA takes pictures of 336 x 336 pixels in patches of 14: 576 tokens.
A LLaVA-NeXT adds up to four tiles of that size. A Qwen2.5-VL takes pictures as large as they are, up to 401,408
pixels: 512 tokens. The tokenizer has a token for every byte.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sightline.models  # noqa: F401  (makes torchvision importable, so before transformers)

# isort: split

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessorPil,
    LlavaNextProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessorPil,
    Qwen2VLVideoProcessor,
)
from transformers.utils import logging

PIXELS, PATCH = 336, 14
TILES = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
SPREAD = 0.3
"""Standard deviation of the weights. With the usual 0.02 so narrow a model tells questions apart only after
hundreds of steps."""
NATIVE = {"shortest_edge": 4 * 28 * 28, "longest_edge": 512 * 28 * 28}
"""Fewest and most pixels of a picture of Qwen2.5-VL; 28 x 28 of them are a token."""

LLAVA_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'][0]['text'] }} "
    "{% else %}{{ message['role'] | upper }}: "
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %} {% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
LLAVA_TOKENS = {"pad": "<pad>", "bos": "<s>", "eos": "</s>", "image": "<image>"}

QWEN_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN_TOKENS = {
    "pad": "<|endoftext|>",
    "eos": "<|im_end|>",
    "start": "<|im_start|>",
    "vision_bos": "<|vision_start|>",
    "vision_eos": "<|vision_end|>",
    "image": "<|image_pad|>",
    "video": "<|video_pad|>",
}


def byte_tokenizer(tokens: dict[str, str]) -> PreTrainedTokenizerFast:
    """One token per byte, and the special ``tokens``, by name."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    ids = {token: index for index, token in enumerate([*tokens.values(), *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    named = {f"{name}_token": token for name, token in tokens.items()}
    own = {name: named.pop(name) for name in ("pad_token", "bos_token", "eos_token") if name in named}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, extra_special_tokens=named, **own)


def text_sizes(tokenizer: PreTrainedTokenizerFast, hidden: int, layers: int) -> dict[str, Any]:
    """Sizes of a language model; ``hidden`` is a multiple of 32."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 8192,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


def clip_tower(hidden: int, layers: int) -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        image_size=PIXELS,
        patch_size=PATCH,
        projection_dim=hidden,
    )


def llava(hidden: int, layers: int) -> tuple[Any, Any]:
    """LLaVA 1.5: a picture is 576 tokens."""
    tokenizer = byte_tokenizer(LLAVA_TOKENS)
    config = LlavaConfig(
        vision_config=clip_tower(hidden, layers),
        text_config=LlamaConfig(**text_sizes(tokenizer, hidden, layers)),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=(PIXELS // PATCH) ** 2,
    )
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": PIXELS}, crop_size={"height": PIXELS, "width": PIXELS}
        ),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA_TEMPLATE,
    )
    return LlavaForConditionalGeneration(config), processor


def llava_next(hidden: int, layers: int) -> tuple[Any, Any]:
    """LLaVA-NeXT (1.6): the picture small, and in up to four tiles."""
    tokenizer = byte_tokenizer(LLAVA_TOKENS)
    config = LlavaNextConfig(
        vision_config=clip_tower(hidden, layers),
        text_config=LlamaConfig(**text_sizes(tokenizer, hidden, layers)),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=TILES,
    )
    processor = LlavaNextProcessor(
        image_processor=LlavaNextImageProcessorPil(
            size={"shortest_edge": PIXELS},
            crop_size={"height": PIXELS, "width": PIXELS},
            image_grid_pinpoints=TILES,
        ),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA_TEMPLATE,
    )
    return LlavaNextForConditionalGeneration(config), processor


def qwen2_5_vl(hidden: int, layers: int) -> tuple[Any, Any]:
    """Qwen2.5-VL: pictures as large as they are."""
    tokenizer = byte_tokenizer(QWEN_TOKENS)
    config = Qwen2_5_VLConfig(
        text_config={
            **text_sizes(tokenizer, hidden, layers),
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [hidden // 32, hidden // 32, hidden // 16],
            },
        },
        vision_config={
            "depth": layers,
            "hidden_size": hidden,
            "intermediate_size": 2 * hidden,
            "num_heads": 2,
            "patch_size": PATCH,
            "fullatt_block_indexes": [layers - 1],
            "out_hidden_size": hidden,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
    )
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessorPil(patch_size=PATCH, size=NATIVE),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(patch_size=PATCH, size=NATIVE),
        chat_template=QWEN_TEMPLATE,
    )
    return Qwen2_5_VLForConditionalGeneration(config), processor


FAMILIES: dict[str, Callable[[int, int], tuple[Any, Any]]] = {
    "llava": llava,
    "llava_next": llava_next,
    "qwen2_5_vl": qwen2_5_vl,
}


def save_tiny_model(family: str, folder: Path, *, hidden: int = 64, layers: int = 2, seed: int = 0) -> Path:
    """Saves model and processor of ``family`` to ``folder``, as ``from_pretrained`` reads them.

    Args:
        family: a name in ``FAMILIES``.
        folder: made if need be.
        hidden: width of all parts, a multiple of 32.
        layers: of the language model and of the vision tower, 2 or more.
        seed: of the weights.
    """
    torch.manual_seed(seed)  # of what transformers draws: vectors, such as the class embedding of CLIP
    model, processor = FAMILIES[family](hidden, layers)
    torch.manual_seed(seed)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=SPREAD)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description="Save a tiny vision-language model with random weights.")
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--hidden", type=int, default=64, choices=range(32, 1025, 32), metavar="N")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.disable_progress_bar()
    folder = save_tiny_model(
        options.family, options.folder, hidden=options.hidden, layers=options.layers, seed=options.seed
    )
    print(f"A tiny {options.family} with random weights: {folder}")


if __name__ == "__main__":
    main()

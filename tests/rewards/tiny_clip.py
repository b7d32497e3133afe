"""CLIP and SigLIP as tiny random models on disk."""

from __future__ import annotations

from pathlib import Path

import sightline.models  # noqa: F401  (makes torchvision importable, so before transformers)

# isort: split

import torch
from tokenizers.processors import TemplateProcessing
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipProcessor,
)

from tiny_models import byte_level_tokenizer

MOST = 12
"""Tokens that the tiny text towers read."""


def tokenizer() -> PreTrainedTokenizerFast:
    made = byte_level_tokenizer(["<pad>", "<s>", "</s>"])
    made.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def save_clip(root: Path) -> dict[str, str]:
    """Writes ``clip`` and ``siglip`` into a folder; gives their folders."""
    torch.manual_seed(0)
    words = tokenizer()
    text = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "max_position_embeddings": MOST, "vocab_size": len(words), "pad_token_id": 0, "bos_token_id": 1,
        "eos_token_id": 2,
    }  # fmt: skip
    vision = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16,
        "patch_size": 8,
    }  # fmt: skip
    size = {"height": 16, "width": 16}
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    pictures = CLIPImageProcessorPil(size=size, crop_size=size)
    siglip = SiglipModel(SiglipConfig(text_config=text | {"projection_size": 16}, vision_config=vision))
    made = {
        "clip": (clip, CLIPProcessor(image_processor=pictures, tokenizer=words)),
        "siglip": (siglip, SiglipProcessor(image_processor=SiglipImageProcessorPil(size=size), tokenizer=words)),
    }
    for name, parts in made.items():
        for part in parts:
            part.save_pretrained(root / name)
    return {name: str(root / name) for name in made}

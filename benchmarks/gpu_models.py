"""Models of 7B shape with random weights, made on the device, and groups of random tokens for them. No download."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sightline.models  # noqa: F401  (makes torchvision importable, so before transformers)

# isort: split

import torch
from peft import get_peft_model
from torch import nn
from transformers import AutoModelForImageTextToText, CLIPVisionConfig, LlamaConfig, LlavaConfig, Qwen2_5_VLConfig

from benchmarks.arithmetic import Architecture
from benchmarks.gpu_jobs import Job
from sightline.models.attention import TREE
from sightline.models.family import Family, family_of
from sightline.models.load import checkpoint_activations
from sightline.models.parts import lora_config
from sightline.models.policy import Policy
from sightline.recipes.schema import LoraSpec, PartsSpec
from sightline.rendered import ImageInputs, RenderedGroup, RenderedPrompt, RenderedResponse
from sightline.types import Edge, Group, Prompt, Response

LORA = PartsSpec(language="lora", projector="frozen", vision="frozen")
DTYPE = torch.bfloat16


def llava_config(tiny: bool) -> LlavaConfig:
    """LLaVA-1.5-7B, or one that a CPU runs."""
    vision = CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=336,
        patch_size=14, projection_dim=768,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=32_064, hidden_size=4096, intermediate_size=11_008, num_hidden_layers=32, num_attention_heads=32,
        max_position_embeddings=8192, rms_norm_eps=1e-5, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    if tiny:
        vision = CLIPVisionConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=56,
            patch_size=14, projection_dim=32,
        )  # fmt: skip
        text = LlamaConfig(
            vocab_size=2048, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
            pad_token_id=0, bos_token_id=1, eos_token_id=2,
        )  # fmt: skip
    side = vision.image_size // vision.patch_size
    return LlavaConfig(
        vision_config=vision, text_config=text, image_token_id=text.vocab_size - 64, vision_feature_layer=-2,
        vision_feature_select_strategy="default", image_seq_length=side**2,
    )  # fmt: skip


def qwen_config(tiny: bool) -> Qwen2_5_VLConfig:
    """Qwen2.5-VL-7B, or one that a CPU runs."""
    text: dict[str, Any] = {
        "vocab_size": 152_064, "hidden_size": 3584, "intermediate_size": 18_944, "num_hidden_layers": 28,
        "num_attention_heads": 28, "num_key_value_heads": 4, "max_position_embeddings": 32_768,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    }  # fmt: skip
    vision = {
        "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584,
        "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
    }  # fmt: skip
    if tiny:
        rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
        text |= {
            "vocab_size": 2048,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "rope_parameters": rope,
        }
        text |= {"num_attention_heads": 4, "num_key_value_heads": 2}
        vision |= {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 64}
        vision |= {"fullatt_block_indexes": [1]}
    first = text["vocab_size"] - 412  # 151,652 in the real one
    return Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, vision_start_token_id=first, vision_end_token_id=first + 1,
        image_token_id=first + 3, video_token_id=first + 4,
    )  # fmt: skip


CONFIGS = {"llava": llava_config, "qwen": qwen_config}


def build(config: Any, device: str, dtype: torch.dtype, *, attention: str = TREE) -> Any:
    """A model with random weights; the same weights for the same device and dtype."""
    torch.manual_seed(0)
    named = {"text_config": attention, "vision_config": "sdpa"}
    with torch.device(device):
        return AutoModelForImageTextToText.from_config(
            config, dtype=dtype, attn_implementation=named, trust_remote_code=False
        )


def policy_of(model: Any, parts: PartsSpec, *, checkpointing: bool = True) -> Policy:
    """Marks what is trained, as ``load_policy`` does for a saved model."""
    family = family_of(model.config)
    if checkpointing:
        checkpoint_activations(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(_part_mode(parts, family, name) == "full")
    if parts.language == "lora":
        model = get_peft_model(model, lora_config(model, family, parts, LoraSpec()))
    return Policy(model, None, family).train()


def _part_mode(parts: PartsSpec, family: Family, name: str) -> str:
    return {"language": parts.language, "projector": parts.projector, "vision": parts.vision}[family.part_of(name)]


def architecture_of(model: Any) -> Architecture:
    """Weights that a token meets, counted on a model without adapters (on any device, ``meta`` too)."""
    config, family = model.config, family_of(model.config)
    text, skipped = config.get_text_config(), family.unused(config)
    counts = {"language": 0, "projector": 0, "vision": 0}
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.Conv3d)) and not f"{name}.".startswith(skipped or ("-",)):
            counts[family.part_of(f"{name}.")] += module.weight.numel()
    head = model.get_output_embeddings().weight.numel()
    patches = 4 if family.name == "qwen2_5_vl" else 1  # that become one image token
    return Architecture(
        body=counts["language"] - head,
        head=head,
        vision=patches * counts["vision"] + counts["projector"],
        width=text.num_hidden_layers * text.hidden_size,
    )


def picture(config: Any, tokens: int, number: int = 0) -> ImageInputs:
    """Random pixels that become about ``tokens`` image tokens; LLaVA's number is fixed."""
    generator = torch.Generator().manual_seed(number)
    vision = config.vision_config
    if config.model_type == "llava":
        pixels = torch.randn(1, 3, vision.image_size, vision.image_size, generator=generator)
        return ImageInputs(key=str(number), tensors={"pixel_values": pixels}, num_tokens=config.image_seq_length)
    side = 2 * max(1, round(math.sqrt(tokens) / 2))
    patches = (side * vision.spatial_merge_size) ** 2
    width = 3 * vision.temporal_patch_size * vision.patch_size**2
    grid = torch.tensor([[1, side * vision.spatial_merge_size, side * vision.spatial_merge_size]])
    tensors = {"pixel_values": torch.randn(patches, width, generator=generator), "image_grid_thw": grid}
    return ImageInputs(key=str(number), tensors=tensors, num_tokens=side**2)


def random_group(config: Any, image: ImageInputs, question: int, lengths: Sequence[int], seed: int) -> RenderedGroup:
    """One prompt (picture, then random words up to ``question`` tokens beside it) and an answer of each length; the
    first two are a pair."""
    generator = torch.Generator().manual_seed(seed)

    def text(length: int) -> list[int]:
        return torch.randint(10, 1000, (length,), generator=generator).tolist()

    places = [config.image_token_id] * image.num_tokens
    if config.model_type == "qwen2_5_vl":
        places = [config.vision_start_token_id, *places, config.vision_end_token_id]
    tokens = [*text(4), *places, *text(question - 4)]
    placeholders = tuple(place for place, token in enumerate(tokens) if token == config.image_token_id)
    return RenderedGroup(
        group=Group(
            prompts=(Prompt(id=str(seed), messages=()),),
            responses=tuple(Response(text=str(index)) for index in range(len(lengths))),
            edges=(Edge(winner=0, loser=1),) if len(lengths) > 1 else (),
        ),
        prompts=(RenderedPrompt(tokens=tuple(tokens), images=(0,), placeholders=placeholders),),
        responses=tuple(RenderedResponse(prompt=0, tokens=tuple(text(n)), trained=(True,) * n) for n in lengths),
        images=(image,),
    )


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Micro-batches of random groups: the pictures stay, words and lengths are new in every step.

    The same step has the same groups for whoever asks.
    """

    config: Any
    images: tuple[ImageInputs, ...]
    """One per group."""
    question: int
    answers: int
    shortest: int
    longest: int

    @staticmethod
    def of(config: Any, job: Job) -> Draws:
        return Draws(
            config=config,
            images=tuple(picture(config, job.image, number) for number in range(job.groups)),
            question=job.question,
            answers=job.answers,
            shortest=job.shortest,
            longest=job.longest,
        )

    def step(self, number: int) -> list[RenderedGroup]:
        rng = random.Random(number)
        groups = []
        for place, image in enumerate(self.images):
            lengths = [rng.randint(self.shortest, self.longest) for _ in range(self.answers)]
            groups.append(random_group(self.config, image, self.question, lengths, 1000 * number + place))
        return groups

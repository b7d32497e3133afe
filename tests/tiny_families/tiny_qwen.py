"""Tiny models that see a picture as a grid of patches at its own size: Qwen2-VL, Qwen3-VL, GLM-4.xV."""

from __future__ import annotations

from typing import Any

from transformers import (
    Glm4vConfig,
    Glm4vForConditionalGeneration,
    Glm4vImageProcessorPil,
    Glm4vProcessor,
    Glm4vVideoProcessor,
    Glm46VConfig,
    Glm46VForConditionalGeneration,
    Glm46VImageProcessorPil,
    Glm46VProcessor,
    Glm46VVideoProcessor,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from tiny_models import QWEN_TEMPLATE, byte_level_tokenizer

PATCH, HIDDEN = 4, 32
SIZE = {"shortest_edge": 4 * (2 * PATCH) ** 2, "longest_edge": 1024}
QWEN_SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
GLM_SPECIAL = [
    "<|endoftext|>",
    "[gMASK]",
    "<sop>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|begin_of_image|>",
    "<|end_of_image|>",
    "<|begin_of_video|>",
    "<|end_of_video|>",
    "<|image|>",
    "<|video|>",
]
GLM_TEMPLATE = (
    "[gMASK]<sop>{% for message in messages %}<|{{ message['role'] }}|>\n"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|begin_of_image|><|image|><|end_of_image|>"
    "{% elif message['role'] == 'assistant' %}{{ part['text'].strip() }}{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% if message['role'] == 'assistant' and not loop.last %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def text_sizes(vocabulary: int, layers: int, **more: Any) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        **more,
    }


def rope(*section: int, **more: Any) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": list(section), **more}


def qwen_tokenizer() -> tuple[PreTrainedTokenizerFast, dict[str, int]]:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_level_tokenizer(QWEN_SPECIAL),
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        extra_special_tokens={
            "image_token": "<|image_pad|>",
            "video_token": "<|video_pad|>",
            "vision_bos_token": "<|vision_start|>",
            "vision_eos_token": "<|vision_end|>",
        },
    )
    ids = tokenizer.convert_tokens_to_ids
    return tokenizer, {
        "image_token_id": ids("<|image_pad|>"),
        "video_token_id": ids("<|video_pad|>"),
        "vision_start_token_id": ids("<|vision_start|>"),
        "vision_end_token_id": ids("<|vision_end|>"),
    }


def qwen2_vl() -> tuple[Any, Any]:
    tokenizer, ids = qwen_tokenizer()
    config = Qwen2VLConfig(
        text_config=text_sizes(len(tokenizer), 2, rope_parameters=rope(1, 1, 2)),
        vision_config={
            "depth": 2,
            "embed_dim": HIDDEN,
            "hidden_size": HIDDEN,
            "mlp_ratio": 2,
            "num_heads": 2,
            "patch_size": PATCH,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
        **ids,
    )
    options = {"patch_size": PATCH, "merge_size": 2, "temporal_patch_size": 2, "size": SIZE}
    processor = Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessorPil(**options),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**options),
        chat_template=QWEN_TEMPLATE,
    )
    return Qwen2VLForConditionalGeneration(config), processor


def qwen3_vl() -> tuple[Any, Any]:
    """Three layers, the first two of which get features of the tower's first and second layer."""
    tokenizer, ids = qwen_tokenizer()
    config = Qwen3VLConfig(
        text_config=text_sizes(len(tokenizer), 3, head_dim=8, rope_parameters=rope(2, 1, 1, mrope_interleaved=True)),
        vision_config={
            "depth": 3,
            "hidden_size": HIDDEN,
            "intermediate_size": 2 * HIDDEN,
            "num_heads": 2,
            "patch_size": PATCH,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "out_hidden_size": HIDDEN,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
        },
        **ids,
    )
    options = {"patch_size": PATCH, "merge_size": 2, "temporal_patch_size": 2, "size": SIZE}
    processor = Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessorPil(**options),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(**options),
        chat_template=QWEN_TEMPLATE,
    )
    return Qwen3VLForConditionalGeneration(config), processor


def _glm_tokenizer() -> tuple[PreTrainedTokenizerFast, dict[str, int]]:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_level_tokenizer(GLM_SPECIAL),
        pad_token="<|endoftext|>",
        eos_token="<|user|>",
        extra_special_tokens={"image_token": "<|image|>", "video_token": "<|video|>"},
    )
    ids = tokenizer.convert_tokens_to_ids
    return tokenizer, {
        "image_token_id": ids("<|image|>"),
        "video_token_id": ids("<|video|>"),
        "image_start_token_id": ids("<|begin_of_image|>"),
        "image_end_token_id": ids("<|end_of_image|>"),
        "video_start_token_id": ids("<|begin_of_video|>"),
        "video_end_token_id": ids("<|end_of_video|>"),
    }


def _glm_vision() -> dict[str, Any]:
    return {
        "depth": 2,
        "hidden_size": HIDDEN,
        "intermediate_size": HIDDEN,
        "num_heads": 2,
        "image_size": 6 * PATCH,
        "patch_size": PATCH,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "out_hidden_size": HIDDEN,
    }


def _glm(config: type, model: type, processor: type, pictures: type, videos: type) -> tuple[Any, Any]:
    tokenizer, ids = _glm_tokenizer()
    text = text_sizes(len(tokenizer), 2, rope_parameters=rope(1, 0, 1, partial_rotary_factor=0.5))
    options = {"patch_size": PATCH, "merge_size": 2, "temporal_patch_size": 2, "size": SIZE}
    made = processor(
        image_processor=pictures(**options),
        tokenizer=tokenizer,
        video_processor=videos(**options),
        chat_template=GLM_TEMPLATE,
    )
    return model(config(text_config=text, vision_config=_glm_vision(), **ids)), made


def glm4v() -> tuple[Any, Any]:
    return _glm(Glm4vConfig, Glm4vForConditionalGeneration, Glm4vProcessor, Glm4vImageProcessorPil, Glm4vVideoProcessor)


def glm46v() -> tuple[Any, Any]:
    return _glm(
        Glm46VConfig, Glm46VForConditionalGeneration, Glm46VProcessor, Glm46VImageProcessorPil, Glm46VVideoProcessor
    )

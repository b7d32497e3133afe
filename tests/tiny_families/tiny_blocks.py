"""Tiny models whose decoder is not plainly causal: Mllama, Gemma 3, PaliGemma 2, Qwen3.5."""

from __future__ import annotations

from typing import Any

from tiny_qwen import HIDDEN, PATCH, SIZE, qwen_tokenizer, rope, text_sizes
from tiny_tiles import IMAGE, SIGLIP
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessorPil,
    Gemma3Processor,
    MllamaConfig,
    MllamaForConditionalGeneration,
    MllamaImageProcessorPil,
    MllamaProcessor,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessorPil,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3_5MoeConfig,
    Qwen3_5MoeForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
    SiglipImageProcessorPil,
)
from transformers.models.paligemma.processing_paligemma import EXTRA_TOKENS

from tiny_models import QWEN_TEMPLATE, byte_level_tokenizer

LLAMA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|image|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "<start_of_turn>{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<start_of_image>{% else %}{{ part['text'] | trim }}{% endif %}"
    "{% endfor %}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)

PALIGEMMA_TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% endif %}{% endfor %}{% endfor %}<bos>"
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% if message['role'] == 'assistant' %}<eos>{% else %}{{ '\\n' }}{% endif %}{% endfor %}"
)


def mllama() -> tuple[Any, Any]:
    """Self-attention, cross-attention, self-attention; up to four tiles."""
    special = ["<|finetune_right_pad_id|>", "<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>"]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_level_tokenizer([*special, "<|end_header_id|>", "<|python_tag|>"]),
        pad_token="<|finetune_right_pad_id|>",
        bos_token="<|begin_of_text|>",
        eos_token="<|eot_id|>",
        extra_special_tokens={"image_token": "<|image|>"},
    )
    text = text_sizes(len(tokenizer) - 1, 3, cross_attention_layers=[1], rope_parameters={"rope_type": "default"})
    config = MllamaConfig(
        vision_config={
            "hidden_size": HIDDEN,
            "intermediate_size": HIDDEN,
            "num_hidden_layers": 2,
            "num_global_layers": 1,
            "attention_heads": 2,
            "image_size": IMAGE,
            "patch_size": PATCH * 2,
            "max_num_tiles": 4,
            "vision_output_dim": 2 * HIDDEN,
            "intermediate_layers_indices": [1],
            "supported_aspect_ratios": [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]],
        },
        text_config={**text, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
        image_token_index=tokenizer.convert_tokens_to_ids("<|image|>"),
    )
    processor = MllamaProcessor(
        image_processor=MllamaImageProcessorPil(size={"height": IMAGE, "width": IMAGE}, max_image_tiles=4),
        tokenizer=tokenizer,
        chat_template=LLAMA_TEMPLATE,
    )
    return MllamaForConditionalGeneration(config), processor


def gemma3() -> tuple[Any, Any]:
    """A layer with a window of three tokens, less than the four of a picture, and one without."""
    special = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_level_tokenizer([*special, "<start_of_image>", "<end_of_image>", "<image_soft_token>"]),
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        extra_special_tokens={
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
            "image_token": "<image_soft_token>",
        },
    )
    ids = tokenizer.convert_tokens_to_ids
    text = text_sizes(len(tokenizer), 2, head_dim=8, query_pre_attn_scalar=8, sliding_window=3)
    config = Gemma3Config(
        vision_config={"model_type": "siglip_vision_model", **SIGLIP, "vision_use_head": False},
        text_config={**text, "layer_types": ["sliding_attention", "full_attention"], "eos_token_id": 1},
        mm_tokens_per_image=4,
        boi_token_index=ids("<start_of_image>"),
        eoi_token_index=ids("<end_of_image>"),
        image_token_index=ids("<image_soft_token>"),
    )
    processor = Gemma3Processor(
        image_processor=Gemma3ImageProcessorPil(size={"height": IMAGE, "width": IMAGE}),
        tokenizer=tokenizer,
        image_seq_length=4,
        chat_template=GEMMA_TEMPLATE,
    )
    model = Gemma3ForConditionalGeneration(config)
    model.get_input_embeddings().weight.data.mul_(0.2)  # tied: a token's own embedding would decide the next one
    return model, processor


def paligemma() -> tuple[Any, Any]:
    """PaliGemma 2: caps on scores and logits, a window in one of two layers, a placeholder without embedding."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_level_tokenizer(["<pad>", "<eos>", "<bos>", *EXTRA_TOKENS], 1700),
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        extra_special_tokens={"image_token": "<image>"},
    )
    vocabulary = len(tokenizer) - 1
    text = text_sizes(vocabulary, 2, head_dim=8, query_pre_attn_scalar=8, sliding_window=6)
    caps = {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 4.0}
    config = PaliGemmaConfig(
        vision_config={
            **SIGLIP,
            "model_type": "siglip_vision_model",
            "vision_use_head": False,
            "projection_dim": HIDDEN,
        },
        text_config={"model_type": "gemma2", **text, **caps, "layer_types": ["sliding_attention", "full_attention"]},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vocab_size=vocabulary,
        projection_dim=HIDDEN,
        hidden_size=HIDDEN,
    )
    pictures = SiglipImageProcessorPil(size={"height": IMAGE, "width": IMAGE})
    pictures.image_seq_length = (IMAGE // SIGLIP["patch_size"]) ** 2
    processor = PaliGemmaProcessor(image_processor=pictures, tokenizer=tokenizer, chat_template=PALIGEMMA_TEMPLATE)
    model = PaliGemmaForConditionalGeneration(config)
    model.get_input_embeddings().weight.data.mul_(0.2)
    return model, processor


def qwen3_5() -> tuple[Any, Any]:
    """A layer with a recurrent state and one with attention."""
    return _qwen3_5(Qwen3_5Config, Qwen3_5ForConditionalGeneration)


def qwen3_5_moe() -> tuple[Any, Any]:
    """Two of four experts for every token, beside one that all share."""
    experts = {"moe_intermediate_size": HIDDEN, "shared_expert_intermediate_size": HIDDEN, "num_experts": 4}
    return _qwen3_5(Qwen3_5MoeConfig, Qwen3_5MoeForConditionalGeneration, **experts, num_experts_per_tok=2)


def _qwen3_5(config_type: type, model_type: type, **more: Any) -> tuple[Any, Any]:
    tokenizer, ids = qwen_tokenizer()
    text = text_sizes(
        len(tokenizer),
        2,
        head_dim=16,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        layer_types=["linear_attention", "full_attention"],
        rope_parameters=rope(1, 1, 0, mrope_interleaved=True, partial_rotary_factor=0.25),
        **more,
    )
    config = config_type(
        text_config=text,
        vision_config={
            "depth": 2,
            "hidden_size": HIDDEN,
            "intermediate_size": 2 * HIDDEN,
            "num_heads": 2,
            "patch_size": PATCH,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "out_hidden_size": HIDDEN,
            "num_position_embeddings": 64,
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
    return model_type(config), processor

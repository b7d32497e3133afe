"""Tiny Gemma 4, in the two shapes that differ."""

from __future__ import annotations

from typing import Any

from tiny_qwen import HIDDEN, PATCH, text_sizes
from transformers import (
    Gemma4AudioFeatureExtractor,
    Gemma4Config,
    Gemma4ForConditionalGeneration,
    Gemma4ImageProcessorPil,
    Gemma4Processor,
    Gemma4VideoProcessor,
    PreTrainedTokenizerFast,
)

from tiny_models import byte_level_tokenizer

POOLED = 2
"""Patches along each side of one token: 3 in the real ones, where the tower would see more than twice as many."""
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "<|turn>{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|image|>{% else %}{{ part['text'] | trim }}{% endif %}"
    "{% endfor %}<turn|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn>model\n{% endif %}"
)
TOKENS = {
    "boi_token": "<|image>",
    "eoi_token": "<image|>",
    "image_token": "<|image|>",
    "boa_token": "<|audio>",
    "eoa_token": "<audio|>",
    "audio_token": "<|audio|>",
}


def small() -> tuple[Any, Any]:
    """As E2B and E4B: the last two of four layers share keys and values, tokens are looked up for every layer."""
    return _gemma4(4, hidden_size_per_layer_input=8, num_kv_shared_layers=2)


def large() -> tuple[Any, Any]:
    """As the dense 31B: pictures see each other, full layers have fewer key heads and no values of their own."""
    more = {"attention_k_eq_v": True, "num_global_key_value_heads": 1}
    return _gemma4(2, hidden_size_per_layer_input=0, use_bidirectional_attention="vision", **more)


def _gemma4(layers: int, **more: Any) -> tuple[Any, Any]:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_level_tokenizer(["<pad>", "<eos>", "<bos>", "<|turn>", "<turn|>", "<|video|>"]),
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        extra_special_tokens=TOKENS,
    )
    ids = tokenizer.convert_tokens_to_ids
    text = {
        **text_sizes(len(tokenizer), layers, head_dim=8, global_head_dim=16, sliding_window=9),
        "layer_types": ["sliding_attention", "full_attention"] * (layers // 2),
        "vocab_size_per_layer_input": len(tokenizer),
        "final_logit_softcapping": 8.0,
    }
    config = Gemma4Config(
        text_config={**text, **more},
        vision_config={
            "hidden_size": HIDDEN,
            "intermediate_size": HIDDEN,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "patch_size": PATCH,
            "pooling_kernel_size": POOLED,
            "position_embedding_size": 256,
        },
        image_token_id=ids("<|image|>"),
        video_token_id=ids("<|video|>"),
        boi_token_id=ids("<|image>"),
        eoi_token_id=ids("<image|>"),
        boa_token_id=ids("<|audio>"),
        eoa_token_index=ids("<audio|>"),
        audio_token_id=ids("<|audio|>"),
    )
    options = {"patch_size": PATCH, "max_soft_tokens": 70, "pooling_kernel_size": POOLED}
    processor = Gemma4Processor(
        feature_extractor=Gemma4AudioFeatureExtractor(),
        image_processor=Gemma4ImageProcessorPil(**options),
        tokenizer=tokenizer,
        video_processor=Gemma4VideoProcessor(**options),
        image_seq_length=70,
        chat_template=TEMPLATE,
    )
    model = Gemma4ForConditionalGeneration(config)
    model.get_input_embeddings().weight.data.mul_(0.2)
    return model, processor

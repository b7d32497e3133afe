"""Tiny models that see a picture as tiles or rows: LLaVA-OneVision, InternVL, Idefics3, SmolVLM, Mistral 3."""

from __future__ import annotations

from typing import Any

from tiny_qwen import HIDDEN, text_sizes
from transformers import (
    GotOcr2ImageProcessorPil,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessorPil,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PixtralImageProcessorPil,
    PixtralProcessor,
    PreTrainedTokenizerFast,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessorPil,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)

from tiny_models import QWEN_TEMPLATE, byte_level_tokenizer

IMAGE, PATCH = 32, 8
SIGLIP = {
    "hidden_size": HIDDEN,
    "intermediate_size": 2 * HIDDEN,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": IMAGE,
    "patch_size": PATCH,
}
IDEFICS_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}:{% else %}: {% endif %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
MISTRAL_TEMPLATE = (
    "<s>{% for message in messages %}"
    "{% if message['role'] == 'system' %}[SYSTEM_PROMPT]{{ message['content'][0]['text'] }}[/SYSTEM_PROMPT]"
    "{% elif message['role'] == 'user' %}[INST]"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}[IMG]{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}[/INST]"
    "{% else %}{{ message['content'][0]['text'] }}</s>{% endif %}{% endfor %}"
)


def llava_onevision() -> tuple[Any, Any]:
    """At most four tiles' worth of features: a larger picture's are scaled down."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_level_tokenizer(["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>"]),
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        extra_special_tokens={"image_token": "<image>", "video_token": "<video>"},
    )
    grid = [[height * IMAGE, width * IMAGE] for height in (1, 2, 3) for width in (1, 2, 3)]
    config = LlavaOnevisionConfig(
        vision_config={"model_type": "siglip_vision_model", **SIGLIP, "vision_use_head": False},
        text_config={"model_type": "qwen2", **text_sizes(len(tokenizer), 2)},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=grid,
        vision_aspect_ratio="anyres_max_4",
    )
    size = {"height": IMAGE, "width": IMAGE}
    template = QWEN_TEMPLATE.replace("<|vision_start|><|image_pad|><|vision_end|>", "<image>\n")
    processor = LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessorPil(size=size, image_grid_pinpoints=grid),
        tokenizer=tokenizer,
        video_processor=LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=(IMAGE // PATCH) ** 2,
        vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_4",
        chat_template=template,
    )
    return LlavaOnevisionForConditionalGeneration(config), processor


def internvl() -> tuple[Any, Any]:
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>"]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_level_tokenizer(special),
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        extra_special_tokens={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
    )
    vision = {**SIGLIP, "image_size": [IMAGE, IMAGE], "patch_size": [PATCH, PATCH], "use_qk_norm": True}
    tokens = (IMAGE // PATCH // 2) ** 2
    config = InternVLConfig(
        vision_config=vision,
        text_config={"model_type": "qwen3", **text_sizes(len(tokenizer), 2), "head_dim": 8},
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=tokens,
        tie_word_embeddings=False,
    )
    size = {"height": IMAGE, "width": IMAGE}
    template = QWEN_TEMPLATE.replace("<|vision_start|><|image_pad|><|vision_end|>", "<IMG_CONTEXT>\n")
    processor = InternVLProcessor(
        image_processor=GotOcr2ImageProcessorPil(size=size, crop_to_patches=True, min_patches=1, max_patches=4),
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(size=size),
        image_seq_length=tokens,
        chat_template=template,
    )
    return InternVLForConditionalGeneration(config), processor


def _idefics_tokenizer() -> PreTrainedTokenizerFast:
    special = [
        "<|im_end|>",
        "<|im_start|>",
        "<end_of_utterance>",
        "<fake_token_around_image>",
        "<image>",
        "<global-img>",
        "<video>",
        *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)),
    ]
    return PreTrainedTokenizerFast(
        tokenizer_object=byte_level_tokenizer(special, 640), pad_token="<|im_end|>", eos_token="<end_of_utterance>"
    )


def idefics3() -> tuple[Any, Any]:
    tokenizer = _idefics_tokenizer()
    config = Idefics3Config(
        vision_config=SIGLIP,
        text_config={"model_type": "llama", **text_sizes(len(tokenizer), 2), "pad_token_id": 0},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    processor = Idefics3Processor(
        image_processor=Idefics3ImageProcessorPil(
            size={"longest_edge": 2 * IMAGE}, max_image_size={"longest_edge": IMAGE}
        ),
        tokenizer=tokenizer,
        image_seq_len=(IMAGE // PATCH // 2) ** 2,
        chat_template=IDEFICS_TEMPLATE,
    )
    return Idefics3ForConditionalGeneration(config), processor


def smolvlm() -> tuple[Any, Any]:
    tokenizer = _idefics_tokenizer()
    config = SmolVLMConfig(
        vision_config=SIGLIP,
        text_config={"model_type": "llama", **text_sizes(len(tokenizer), 2), "pad_token_id": 0},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    processor = SmolVLMProcessor(
        image_processor=SmolVLMImageProcessorPil(
            size={"longest_edge": 2 * IMAGE}, max_image_size={"longest_edge": IMAGE}
        ),
        tokenizer=tokenizer,
        video_processor=SmolVLMVideoProcessor(size={"longest_edge": 2 * IMAGE}, max_image_size={"longest_edge": IMAGE}),
        image_seq_len=(IMAGE // PATCH // 2) ** 2,
        chat_template=IDEFICS_TEMPLATE,
    )
    return SmolVLMForConditionalGeneration(config), processor


def mistral3() -> tuple[Any, Any]:
    special = ["<pad>", "<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_level_tokenizer([*special, "[IMG]", "[IMG_BREAK]", "[IMG_END]"]),
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
    )
    config = Mistral3Config(
        vision_config={"model_type": "pixtral", **SIGLIP, "image_size": 2 * IMAGE, "head_dim": 8},
        text_config={"model_type": "mistral", **text_sizes(len(tokenizer), 2), "head_dim": 8, "sliding_window": None},
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        spatial_merge_size=2,
        tie_word_embeddings=False,
    )
    processor = PixtralProcessor(
        image_processor=PixtralImageProcessorPil(size={"longest_edge": 2 * IMAGE}, patch_size=PATCH),
        tokenizer=tokenizer,
        patch_size=PATCH,
        spatial_merge_size=2,
        chat_template=MISTRAL_TEMPLATE,
    )
    return Mistral3ForConditionalGeneration(config), processor

"""The LLaVA-shaped model, questions and answers that the benchmarks run on."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import sightline.models  # noqa: F401  (makes torchvision importable, so before transformers)

# isort: split

import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}USER: {% else %}ASSISTANT: {% endif %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% if message['role'] == 'user' %} {% else %}</s>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
"""As LLaVA-1.5 writes it; an answer ends with the end token."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of a LLaVA-shaped model and of what it is trained on."""

    image: int = 336
    patch: int = 14
    vision_hidden: int = 192
    vision_layers: int = 6
    hidden: int = 256
    layers: int = 6
    intermediate: int = 688
    vocabulary: int = 32_000
    question_words: int = 30
    answer_words: int = 90

    @property
    def image_tokens(self) -> int:
        return (self.image // self.patch) ** 2


SHAPES = {
    "small": Shape(),
    "deep": Shape(hidden=512, layers=12, intermediate=1376, vision_hidden=256, vision_layers=8),
    "quick": Shape(image=112, vocabulary=8192, hidden=64, layers=2, vision_layers=2),
}
"""``small``: half of its parameters are the head. ``deep``: three in four are the decoder, as nearly all are in a 7B
model. ``quick``: to see that the benchmark runs."""


def words(count: int, rng: random.Random, lexicon: list[str]) -> str:
    return " ".join(rng.choice(lexicon) for _ in range(count))


def lexicon(seed: int = 0) -> list[str]:
    """4,000 invented words of two to four syllables."""
    rng = random.Random(seed)
    syllables = [a + b for a in "bdfgklmnprstv" for b in "aeiou"]
    return sorted({"".join(rng.choices(syllables, k=rng.randint(2, 4))) for _ in range(4200)})[:4000]


def build(folder: Path, shape: Shape) -> Path:
    """Saves a random model of this shape, with a tokenizer that writes a word in one to two tokens."""
    torch.manual_seed(0)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=5000, special_tokens=["<pad>", "<s>", "</s>", "<image>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator([" " + word for word in lexicon()], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>",
        extra_special_tokens={"image_token": "<image>"},
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=shape.vision_hidden, intermediate_size=4 * shape.vision_hidden, image_size=shape.image,
            num_hidden_layers=shape.vision_layers, num_attention_heads=4, patch_size=shape.patch,
        ),
        text_config=LlamaConfig(
            vocab_size=shape.vocabulary, hidden_size=shape.hidden, intermediate_size=shape.intermediate,
            num_hidden_layers=shape.layers, num_attention_heads=4, max_position_embeddings=4096,
            pad_token_id=0, bos_token_id=1, eos_token_id=2,
        ),
        image_token_id=3, image_seq_length=shape.image_tokens,
    )  # fmt: skip
    side = {"height": shape.image, "width": shape.image}
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": shape.image}, crop_size=side), tokenizer=fast,
        patch_size=shape.patch, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )  # fmt: skip
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def records(folder: Path, shape: Shape, *, answers: int, count: int = 2) -> list[dict[str, object]]:
    """Question, picture and ``answers`` answers, as plain values."""
    rng, vocabulary = random.Random(1), lexicon()
    rows: list[dict[str, object]] = []
    for index in range(count):
        path = folder / f"picture{index}.png"
        Image.effect_noise((shape.image, shape.image), 60).convert("RGB").save(path)
        texts = [words(shape.answer_words, rng, vocabulary) for _ in range(answers)]
        rows.append({"image": str(path), "question": words(shape.question_words, rng, vocabulary), "answers": texts})
    return rows

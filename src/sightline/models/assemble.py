"""Builds a model from nothing: a tiny LLaVA with random weights and a word-level tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from sightline.files import replace_folder

_SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>", "USER:", "ASSISTANT:")
_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] | upper }}: "
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %} {% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


@dataclass(frozen=True, kw_only=True)
class TinyLlava:
    """Sizes of a LLaVA small enough to learn on a CPU in minutes."""

    pixels: int = 96
    """Side of the pictures; they are neither resized nor cropped."""
    patch: int = 32
    """Side of a patch: one image token each."""
    vision_hidden: int = 96
    vision_layers: int = 2
    hidden: int = 128
    layers: int = 2
    heads: int = 4
    mean: float = 0.96
    """Pixel values are (value / 255 - mean) / std: the light background is near zero."""
    std: float = 2.0
    initializer_range: float = 0.06
    """Of both towers. With the usual 0.02 so small a model ignores its picture for hundreds of steps."""

    def build(self, folder: Path, words: Sequence[str], *, seed: int) -> Path:
        """Saves model and processor to ``folder``, as ``from_pretrained`` reads them.

        Args:
            folder: made if need be.
            words: every word and mark the model can read or write.
            seed: of the weights.
        """
        vocabulary = [*_SPECIAL, *words]
        ids = {word: index for index, word in enumerate(vocabulary)}
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = LlavaForConditionalGeneration(self._config(ids))

        def write(aside: Path) -> None:
            model.save_pretrained(aside)
            self._processor(ids).save_pretrained(aside)

        replace_folder(folder, write)
        return folder

    def _config(self, ids: dict[str, int]) -> LlavaConfig:
        vision = CLIPVisionConfig(
            hidden_size=self.vision_hidden,
            intermediate_size=2 * self.vision_hidden,
            num_hidden_layers=self.vision_layers,
            num_attention_heads=self.heads,
            image_size=self.pixels,
            patch_size=self.patch,
            projection_dim=self.vision_hidden,
            initializer_range=self.initializer_range,
        )
        text = LlamaConfig(
            vocab_size=len(ids),
            hidden_size=self.hidden,
            intermediate_size=2 * self.hidden,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.heads,
            max_position_embeddings=512,
            pad_token_id=ids["<pad>"],
            bos_token_id=ids["<s>"],
            eos_token_id=ids["</s>"],
            tie_word_embeddings=False,
            initializer_range=self.initializer_range,
        )
        return LlavaConfig(
            vision_config=vision,
            text_config=text,
            image_token_id=ids["<image>"],
            image_seq_length=(self.pixels // self.patch) ** 2,
            vision_feature_layer=-1,
            vision_feature_select_strategy="default",
            tie_word_embeddings=False,
        )

    def _processor(self, ids: dict[str, int]) -> LlavaProcessor:
        words = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
        words.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
        words.decoder = decoders.WordPiece(prefix="##", cleanup=True)
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=words,
            pad_token="<pad>",
            bos_token="<s>",
            eos_token="</s>",
            unk_token="<unk>",
            extra_special_tokens={"image_token": "<image>", "user_token": "USER:", "assistant_token": "ASSISTANT:"},
        )
        side = {"height": self.pixels, "width": self.pixels}
        return LlavaProcessor(
            image_processor=CLIPImageProcessorPil(
                do_resize=False,
                do_center_crop=False,
                size=side,
                crop_size=side,
                image_mean=[self.mean] * 3,
                image_std=[self.std] * 3,
            ),
            tokenizer=tokenizer,
            patch_size=self.patch,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
            chat_template="<s>" + _TEMPLATE,
        )

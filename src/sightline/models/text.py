"""Language models without pictures: judges that read text alone. Any chat model of transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from sightline.errors import RecipeError
from sightline.models.load import read_pretrained
from sightline.models.weights import WEIGHED, check_size, check_weights
from sightline.recipes.schema import ModelSpec


def sees_pictures(path: str) -> bool:
    """Whether the model in a folder or of a hub name has a vision part.

    Raises:
        RecipeError: there is no model.
    """
    config = read_pretrained(AutoConfig, path)
    return config.get_text_config() is not config


def tokenizer_of(path: str) -> Any:
    """The tokenizer of a model.

    Raises:
        RecipeError: there is no model.
    """
    return read_pretrained(AutoTokenizer, path)


def context_length(path: str) -> int:
    """Most tokens of a prompt with its answer; a large number where the model states none.

    Raises:
        RecipeError: there is no model.
    """
    config = read_pretrained(AutoConfig, path).get_text_config()
    return int(getattr(config, "max_position_embeddings", None) or 1 << 30)


@dataclass(frozen=True, kw_only=True)
class TextModel:
    """A causal language model and its tokenizer."""

    model: Any
    tokenizer: Any

    @property
    def ends(self) -> list[int]:
        """Ids that end an answer: those of the generation config, and the tokenizer's."""
        ids = self.model.generation_config.eos_token_id
        listed = ids if isinstance(ids, list) else [] if ids is None else [ids]
        own = self.tokenizer.eos_token_id
        return sorted({*listed, *([] if own is None else [own])})

    @property
    def longest(self) -> int:
        """Most tokens of a prompt with its answer."""
        return int(getattr(self.model.config, "max_position_embeddings", None) or 1 << 30)

    def encode(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Ids of a chat of ``{"role", "content"}``, up to where the answer begins."""
        chat = [dict(message) for message in messages]
        if "System role not supported" in str(self.tokenizer.chat_template) and chat[0]["role"] == "system":
            first, *chat = chat  # such a template raises; its documentation says to put the text before the question
            chat[0]["content"] = f"{first['content']}\n\n{chat[0]['content']}"
        return list(self.tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False))

    def start(self, prompts: Sequence[Sequence[int]]) -> Decoding:
        """Prompts of different lengths, padded on the left."""
        width = max(map(len, prompts))
        pads = [width - len(prompt) for prompt in prompts]
        device = self.model.device
        ids = torch.tensor([[0] * pad + list(prompt) for pad, prompt in zip(pads, prompts, strict=True)], device=device)
        mask = torch.tensor([[0] * pad + [1] * (width - pad) for pad in pads], device=device)
        return Decoding(model=self.model, ids=ids, mask=mask)


@dataclass(kw_only=True)
class Decoding:
    """Answers as they grow, a token a step. ``R`` rows."""

    model: Any
    ids: Tensor
    """[R, L] tokens that the cache does not hold yet."""
    mask: Tensor
    """[R, L] 1 where a token stands, 0 on padding; cache included."""
    cache: Any = None

    @torch.inference_mode()
    def logits(self) -> Tensor:
        """[R, V] of the next token."""
        positions = (self.mask.cumsum(-1) - 1).clamp(min=0)[:, -self.ids.shape[1] :]
        out = self.model(
            input_ids=self.ids,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.cache = out.past_key_values
        return out.logits[:, -1].float()

    def extend(self, tokens: Tensor) -> None:
        """Adds the next token [R] of each row."""
        self.ids = tokens[:, None]
        self.mask = torch.cat([self.mask, torch.ones_like(self.ids)], dim=1)


def load_text_model(spec: ModelSpec, device: str) -> TextModel:
    """A frozen language model for generation.

    Raises:
        RecipeError: there is no model at ``spec.path``, it has no chat template, or its weights do not fit.
    """
    tokenizer = read_pretrained(AutoTokenizer, spec.path)
    if tokenizer.chat_template is None:
        raise RecipeError(f"{spec.path} has no chat template. Give a chat model")
    check_size(spec.path, read_pretrained(AutoConfig, spec.path), AutoModelForCausalLM)
    model, found = read_pretrained(AutoModelForCausalLM, spec.path, dtype=getattr(torch, spec.dtype), **WEIGHED)
    check_weights(spec.path, found)
    return TextModel(model=model.to(device).eval().requires_grad_(False), tokenizer=tokenizer)

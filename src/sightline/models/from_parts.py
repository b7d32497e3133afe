"""A LLaVA folder from parts: a causal language model, a vision tower and a new projector."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlavaConfig
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from sightline.errors import RecipeError, UnsupportedError
from sightline.models.llava_parts import (
    Tower,
    build,
    image_token,
    processor_of,
    read_tokenizer,
    read_tower,
    text_template,
    with_rows,
    write_llava,
)

_ACTS = {"linear": "linear", "mlp2x": "gelu"}
_EMBEDDINGS, _HEAD = "model.language_model.embed_tokens.weight", "lm_head.weight"
_PROJECTOR = "model.multi_modal_projector."
_APART = 1e-3
"""Logits of the language model alone and inside of the whole may differ by so much."""


def assemble(
    language: str, vision: str, out: Path, *, projector: Literal["linear", "mlp2x", "resampler"], layer: int, seed: int
) -> None:
    """Writes a LLaVA folder.

    Args:
        language: causal language model.
        vision: CLIP or SigLIP tower.
        out: folder to write.
        projector: ``linear``: one matrix; ``mlp2x``: two with a GELU between, as LLaVA 1.5.
        layer: hidden state of the tower that is read, as in ``vision_feature_layer``.
        seed: of the projector's weights.

    Raises:
        UnsupportedError: a projector that transformers' class has not, or a language model whose forward does more
            than its decoder and a linear head, or whose attention cannot be exchanged.
        RecipeError: parts that cannot be read.
    """
    if projector not in _ACTS:
        raise UnsupportedError(
            "a resampler was asked for, and LlavaForConditionalGeneration has no place for its queries and attention: "
            "the folder would load nowhere else. Take --projector mlp2x or linear; for fewer tokens a picture, a tower "
            "with larger patches or smaller pictures"
        )
    tower = read_tower(vision)
    depth = tower.config.num_hidden_layers
    if not -depth - 1 <= layer <= depth:
        raise RecipeError(f"--vision-layer is {layer}, and {vision} has {depth} layers. Take -{depth} to {depth}")
    model = _read_language(language)
    tokenizer = read_tokenizer(language)
    own = tokenizer.chat_template
    placeholder = image_token(tokenizer)
    state = _language_state(model, language, placeholder + 1)
    config = _config(model.config, tower, projector, layer, placeholder, state[_EMBEDDINGS].shape[0])
    kind = state[_EMBEDDINGS].dtype
    state |= {f"model.vision_tower.{name}": value.to(kind) for name, value in tower.state.items()}
    state |= {f"{_PROJECTOR}{name}": value.to(kind) for name, value in _projector(config, projector, seed).items()}
    whole = build(config, state)
    whole.generation_config.eos_token_id = model.generation_config.eos_token_id  # of some models more than the config's
    processor = processor_of(tokenizer, tower.image_processor, config, tower.additional_tokens, text_template(own))
    _check_language(model, whole, language)
    write_llava(whole, processor, out)


@torch.no_grad()
def _check_language(model: Any, whole: Any, path: str) -> None:
    """Whether text alone gets the numbers that the language model gives."""
    ids = torch.arange(min(model.config.vocab_size, 24))[None]
    own = model(input_ids=ids, use_cache=False).logits.float()
    with_buffers = type(whole)._from_config(whole.config, dtype=whole.dtype).eval()
    with_buffers.load_state_dict(whole.state_dict(), strict=False, assign=True)
    inside = with_buffers(input_ids=ids, use_cache=False).logits[..., : own.shape[-1]].float()
    apart = float((own - inside).abs().max())
    if not apart <= _APART * max(1.0, float(own.abs().max())):
        raise UnsupportedError(
            f"--language {path} ({model.config.model_type}) does more in its forward than decoder and LM head: inside "
            f"of a LLaVA its logits differ by {apart:.2g}. Take a model that does not scale or cap them"
        )


def _read_language(path: str) -> Any:
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            path, dtype="auto", output_loading_info=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise RecipeError(f"--language {path}: no causal language model ({first}). Name its folder") from error
    if missing := sorted(found["missing_keys"]):
        raise RecipeError(f"--language {path} lacks {len(missing)} tensors (first {missing[0]}). Take a whole folder")
    return model.eval()


def _language_state(model: Any, path: str, rows: int) -> dict[str, Tensor]:
    """The decoder and the LM head by their names inside of a LLaVA."""
    head = model.get_output_embeddings()
    decoder = getattr(model, model.base_model_prefix)
    if not getattr(decoder, "_supports_attention_backend", False):
        raise UnsupportedError(
            f"--language {path} ({model.config.model_type}) computes its attention in its own way, and layouts could "
            "not exchange it. Take a model of the Llama, Mistral, Qwen or Gemma kind"
        )
    state = {f"model.language_model.{name}": value for name, value in decoder.state_dict().items()}
    if _EMBEDDINGS not in state or head is None or getattr(head, "bias", None) is not None:
        raise UnsupportedError(
            f"--language {path} ({model.config.model_type}) has other embeddings or another LM head than "
            "LlavaForConditionalGeneration, whose head is linear without bias. Take a model of the Llama kind"
        )
    state[_EMBEDDINGS] = with_rows(state[_EMBEDDINGS], rows)
    if not model.config.tie_word_embeddings:
        state[_HEAD] = with_rows(head.weight.detach(), rows)
    return state


def _config(
    text: Any, tower: Tower, projector: str, layer: int, placeholder: int, rows: int
) -> LlavaConfig:  # fmt: skip
    values = text.to_dict() | {"vocab_size": rows}
    return LlavaConfig(
        text_config=type(text)(**values),
        vision_config=tower.config,
        image_token_index=placeholder,
        image_seq_length=(tower.config.image_size // tower.config.patch_size) ** 2,
        projector_hidden_act=_ACTS[projector],
        vision_feature_layer=layer or -tower.config.num_hidden_layers - 1,  # transformers takes 0 for no layer
        vision_feature_select_strategy="default" if tower.additional_tokens else "full",
        tie_word_embeddings=bool(text.tie_word_embeddings),
    )


def _projector(config: LlavaConfig, projector: str, seed: int) -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = LlavaMultiModalProjector(config)
    if projector == "linear":  # the class has two layers: the second passes on what the first makes
        torch.nn.init.eye_(made.linear_2.weight)
        torch.nn.init.zeros_(made.linear_2.bias)
    return {name: value.detach() for name, value in made.state_dict().items()}

"""Whether a language model can be computed branch by branch: any text model may stand in a LLaVA.

A batch without padding, a tree and a sampler's branches hold many answers in one sequence, and attention alone keeps
them apart. A decoder that mixes tokens in another way (recurrent layers, convolutions), or that does not hand on to its
attention what keeps them apart, would let answers read each other without a word.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sightline.errors import UnsupportedError
from sightline.models.layout import lay_out
from sightline.models.policy import Policy
from sightline.rendered import RenderedGroup, RenderedPrompt, RenderedResponse
from sightline.types import Group, LayoutName, Prompt, Response

_SHOWN = frozenset(("llama", "mistral", "qwen2", "qwen2_5_vl_text"))
"""Text models that the tests compare with their own forward: not asked again."""
_PROMPT, _ANSWERS = (3, 4, 10), ((5, 9, 7), (11, 6, 8))
"""Token ids, counted from the middle of the vocabulary: its ends hold control tokens and places of pictures."""
_EXACT, _ROUNDED = 1e-5, 1e-2
"""Most that two ways to compute the same may differ, relative to the numbers: in float32, and in half precision."""


def check_decoder(policy: Policy, path: str) -> None:
    """Compares two branches of a tree of a few tokens with the model's own forward on each row.

    Args:
        policy: without adapters, in evaluation mode.
        path: of the model, for the message.

    Raises:
        UnsupportedError: they differ, or attention takes more than queries, keys and values.
    """
    text = policy.config.get_text_config()
    if text.model_type in _SHOWN or "tree" not in policy.family.layouts:  # such a family is computed in rows alone
        return
    with torch.no_grad():
        own, tree = (_states(policy, layout) for layout in ("rows", "tree"))
    most = _EXACT if own.dtype == torch.float32 else _ROUNDED
    if float((tree - own).float().norm() / own.float().norm()) > most:
        raise UnsupportedError(
            f"model.path {path}: in its language model ({text.model_type!r}) answers that are computed together read "
            "each other: it has layers that are no attention, or attention that is computed otherwise than through "
            "transformers' interface. Take a model with another language model (llama, mistral, qwen2, qwen3)"
        )


def _states(policy: Policy, layout: LayoutName) -> Tensor:
    """[N,D]: what predicts the tokens of two answers to one prompt."""
    middle = policy.config.get_text_config().vocab_size // 2
    batch = lay_out([_group(middle)], layout, policy.family, policy.config).to(policy.device)
    return policy.hidden(batch)[batch.source]


def _group(middle: int) -> RenderedGroup:
    prompt = Prompt(id="two answers", messages=())
    question, *answers = (tuple(middle + one for one in ids) for ids in (_PROMPT, *_ANSWERS))
    return RenderedGroup(
        group=Group(prompts=(prompt,), responses=tuple(Response(text="") for _ in answers)),
        prompts=(RenderedPrompt(tokens=question),),
        responses=tuple(RenderedResponse(prompt=0, tokens=ids, trained=(True,) * len(ids)) for ids in answers),
        images=(),
    )

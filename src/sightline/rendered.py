"""Groups as token ids and pixels: what the renderer makes and ``models.layout`` lays out into a ``Batch``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sightline.types import Group

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ImageInputs:
    """One distinct picture as the model's processor made it."""

    key: str
    """Identity: equal keys are the same pixels."""
    tensors: Mapping[str, Tensor]
    """Processor outputs of this one picture, keyed as the model's forward expects (``pixel_values`` [1,3,H,W] or
    [patches,dim], ``image_sizes`` [1,2], ``image_grid_thw`` [1,3])."""
    num_tokens: int
    """Placeholder tokens it takes in the sequence, equal to its rows of vision features."""
    expansion: tuple[int, ...] = ()
    """All ids it takes in the sequence, where other tokens stand between the placeholders (tiles, rows, borders);
    empty: the placeholders alone."""


@dataclass(frozen=True, kw_only=True)
class RenderedPrompt:
    """Token ids of a prompt, every image placeholder expanded to its full length."""

    tokens: tuple[int, ...]
    images: tuple[int, ...] = ()
    """For each picture in reading order, its index in ``RenderedGroup.images``."""
    placeholders: tuple[int, ...] = ()
    """Positions in ``tokens`` that take an image feature, in order; the pictures follow each other."""
    trained: tuple[tuple[int, int], ...] = ()
    """Half-open spans [start, end) of history tokens that SFT trains (assistant turns of weight 1)."""


@dataclass(frozen=True, kw_only=True)
class RenderedResponse:
    """Token ids of a response, end of turn included."""

    prompt: int
    tokens: tuple[int, ...]
    trained: tuple[bool, ...]
    """Which tokens are scored; as long as ``tokens``."""


@dataclass(frozen=True, kw_only=True)
class RenderedGroup:
    """A group ready to be laid out. Holds no model and no device; made in data workers."""

    group: Group
    prompts: tuple[RenderedPrompt, ...]
    responses: tuple[RenderedResponse, ...]
    images: tuple[ImageInputs, ...]
    """Distinct pictures of this group."""

    @property
    def num_tokens(self) -> int:
        """Tokens of all prompts and responses, each once: the cost of the group as a tree."""
        return sum(len(p.tokens) for p in self.prompts) + sum(len(r.tokens) for r in self.responses)

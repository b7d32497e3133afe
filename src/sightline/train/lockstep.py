"""All ranks compute the same parts of the policy in the same order, whatever their data: where parameters are spread
over the ranks, a part is gathered by all of them at once.

Ranks make equal numbers of passes anyway. What may still differ is whether a pass has a picture: a rank without one
would leave out projector and vision tower, and the others would wait for it. So where any rank has a picture in a
pass, the others get a white one that no token stands for: computed, and with gradients of zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from torch import Tensor

from sightline.data.render import Renderer
from sightline.rendered import ImageInputs
from sightline.types import Batch


class Ranks(Protocol):
    """The part of the runtime that this needs."""

    @property
    def sharded(self) -> bool: ...

    def gather_objects(self, value: Any) -> list[Any]: ...


@dataclass(frozen=True, kw_only=True)
class Lockstep:
    """Brings the passes of all ranks in step. Does nothing where parameters are not spread."""

    ranks: Ranks
    image: ImageInputs | None
    """A white picture; None where nothing is spread."""
    join: Callable[[Sequence[Mapping[str, Tensor]]], dict[str, Tensor]]
    """The family's."""

    @classmethod
    def of(cls, ranks: Ranks, renderer: Renderer) -> Lockstep:
        """With pictures as a model's processor makes them."""
        image = renderer.white_image() if ranks.sharded else None
        return cls(ranks=ranks, image=image, join=renderer.family.join)

    def align(self, batches: Sequence[Batch]) -> list[Batch]:
        """The micro-batches of a step, as many on every rank, with white pictures where they are needed for company.

        A pass without a picture on any rank stays as it is: the vision parts then get no gradient at all, as in one
        process. Every rank must call.
        """
        if self.image is None:
            return list(batches)
        shown = self.ranks.gather_objects([bool(batch.vision) for batch in batches])
        needed = [any(passes) for passes in zip(*shown, strict=True)]
        return [
            self._with_company(batch, self.image) if wanted and not batch.vision else batch
            for batch, wanted in zip(batches, needed, strict=True)
        ]

    def _with_company(self, batch: Batch, image: ImageInputs) -> Batch:
        return replace(batch, vision=self.join([image.tensors]), image_tokens=(image.num_tokens,))

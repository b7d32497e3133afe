"""The gradient of a loss at each group, projected to a short vector: what the group would teach the model.

LESS (Xia et al. 2024, arXiv 2402.04333) compares samples by such vectors. They project by a dense matrix of random
signs; here every parameter goes to one entry with a random sign (Charikar et al. 2002; Weinberger et al. 2009,
arXiv 0902.2206), which keeps inner products in expectation as well and costs one pass over the gradient.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sightline.data.render import Renderer
from sightline.errors import CheckpointError, DataError
from sightline.models.layout import lay_out
from sightline.models.limits import Limits
from sightline.models.policy import Policy
from sightline.types import Algorithm, Group, LayoutName

_CHUNK = 64
"""Groups whose vectors are written together."""


class OneProcess:
    """A ``types.World`` of one process."""

    rank, size = 0, 1

    def sum(self, value: Tensor) -> Tensor:
        return value


class Projection:
    """A fixed random map from the gradients of some parameters to vectors of ``dimension``.

    Parameters that are no more than ``dimension`` altogether are not projected: their vector is as long as they are.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], *, dimension: int, seed: int) -> None:
        """
        Args:
            parameters: whose gradients will come, in this order.
            dimension: most entries of a vector.
            seed: same seed, same map.
        """
        sizes = [parameter.numel() for parameter in parameters]
        self.dimension = min(dimension, sum(sizes))
        self._entry: list[Tensor] = []
        self._sign: list[Tensor] = []
        if sum(sizes) <= dimension:
            return
        generator = torch.Generator().manual_seed(seed)
        for parameter, size in zip(parameters, sizes, strict=True):
            entry = torch.randint(dimension, (size,), generator=generator, dtype=torch.int32)
            sign = torch.randint(2, (size,), generator=generator, dtype=torch.int8) * 2 - 1
            self._entry.append(entry.to(parameter.device))
            self._sign.append(sign.to(parameter.device))

    def __call__(self, gradients: Sequence[Tensor]) -> Tensor:
        """[dimension] float32."""
        flat = [gradient.reshape(-1).float() for gradient in gradients]
        if not self._entry:
            return torch.cat(flat)
        projected = flat[0].new_zeros(self.dimension)
        for values, entry, sign in zip(flat, self._entry, self._sign, strict=True):
            projected.index_add_(0, entry, values * sign)
        return projected


class GradientFeatures:
    """Feature vectors of groups: projected gradients of a loss, of length 1."""

    def __init__(
        self,
        policy: Policy,
        algorithm: Algorithm,
        *,
        layout: LayoutName,
        head_only: bool = False,
        dimension: int = 2048,
        seed: int = 0,
    ) -> None:
        """
        Args:
            policy: its trainable parameters are those of the gradient.
            algorithm: whose loss; it must need no reference.
            layout: how groups are laid out.
            head_only: the gradient with respect to the score head alone: the difference of the last hidden states of
                winner and loser, times how wrong the model is. Needs no backward pass through the model.
            dimension: most entries of a vector.
            seed: of the projection.
        """
        self._policy, self._algorithm, self._layout = policy.eval(), algorithm, layout
        if head_only:
            assert policy.score_head is not None
            policy.model.requires_grad_(False)
        self._parameters = [p for p in policy.parameters() if p.requires_grad]
        self._project = Projection(self._parameters, dimension=dimension, seed=seed)
        self._renderer = Renderer(policy.processor, policy.family, limits=Limits.of(policy.config))
        self.dimension = self._project.dimension

    def __call__(self, group: Group) -> Tensor:
        """[dimension] float32 of length 1, on the CPU; a gradient that is zero stays zero.

        Raises:
            DataError: the group has no comparison, or lacks what the algorithm needs.
        """
        policy = self._policy
        rendered = self._renderer.render(group)
        batch = policy.encode(lay_out([rendered], self._layout, policy.family, policy.config).to(policy.device))
        terms, _ = self._algorithm.loss(batch, policy(batch, self._algorithm.heads), OneProcess())
        if any(batch.count(term.unit) == 0 for term in terms):
            raise DataError(
                f"group {group.id!r} has no comparison, so its loss has no gradient",
                source=group.source,
                remedy="Give it edges (sightline pairs), or leave the row out",
            )
        loss = torch.stack([term.coefficient * term.values.sum() / batch.count(term.unit) for term in terms]).sum()
        found = torch.autograd.grad(loss, self._parameters, allow_unused=True)
        gradients = [
            parameter.new_zeros(parameter.shape) if gradient is None else gradient
            for gradient, parameter in zip(found, self._parameters, strict=True)
        ]
        return torch.nn.functional.normalize(self._project(gradients), dim=0).cpu()


def kept_features(
    path: Path,
    groups: Sequence[Group],
    feature: Callable[[Group], Tensor],
    dimension: int,
    on_progress: Callable[[int], None],
) -> Tensor:
    """[n, dimension] features of all groups, kept in a file, so that a stopped computation goes on where it was.

    Args:
        path: raw float32 rows, in the order of the groups. The caller answers for its being of these groups.
        groups: n groups.
        feature: gives [dimension] for one.
        dimension: length of a row.
        on_progress: called with how many groups are done.

    Raises:
        CheckpointError: the file has more rows than there are groups.
    """
    row = 4 * dimension
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        done, half = divmod(file.tell(), row)
        if half:
            file.truncate(done * row)
        if done > len(groups):
            raise CheckpointError(
                f"{path} has {done} rows for {len(groups)} groups. "
                "Remove it, or pass --overwrite (in Python overwrite=True)"
            )
        on_progress(done)
        for start in range(done, len(groups), _CHUNK):
            some = groups[start : start + _CHUNK]
            file.write(torch.stack([feature(group) for group in some]).numpy().astype("<f4").tobytes())
            file.flush()
            os.fsync(file.fileno())
            on_progress(start + len(some))
    return torch.from_numpy(np.fromfile(path, dtype="<f4").reshape(len(groups), dimension))

"""PAPO: answers become less likely without the picture than with it (Wang et al. 2025, arXiv 2507.06448)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from sightline.algorithms.pairs import check_range
from sightline.ops.perception import dependence


@dataclass(frozen=True, kw_only=True)
class Papo:
    """The implicit perception loss, and the double entropy loss that keeps it from being gamed (equation 2).

    ``-γ KL(π(·|I) ‖ π(·|masked I)) + η₁ H[π(·|I)] + η₂ H[π(·|masked I)]`` at each token, averaged as the policy
    gradient is. The divergence is estimated by k3, an entropy by the negative log-probability of the token. The
    gradient flows through both pictures.
    """

    kind: Literal["papo"] = "papo"
    gamma: float = 0.01
    """γ, weight of the divergence, which is maximised, > 0. Paper: 0.01, with KL to the reference 0.02."""
    entropy: float = 0.03
    """η₁, weight of the entropy with the picture, which is minimised, >= 0. Paper: 0.03, 0.05 for PAPO-G of 7B."""
    masked_entropy: float = 0.03
    """η₂, the same with the masked picture, >= 0."""
    most: float = 10.0
    """Largest divergence of a token, > 0: beyond it there is no gradient."""
    through_masked: bool = True
    """Whether the divergence has a gradient through the masked picture (the paper's objective), or not (the default of
    its authors' program)."""

    __pydantic_config__ = {"extra": "forbid"}

    def __post_init__(self) -> None:
        check_range("perception.gamma", self.gamma, above=0)
        check_range("perception.entropy", self.entropy, least=0)
        check_range("perception.masked_entropy", self.masked_entropy, least=0)
        check_range("perception.most", self.most, above=0)

    def terms(self, logprobs: Tensor, masked: Tensor) -> Iterator[tuple[str, Tensor, float]]:
        """Name, values [N] and coefficient of each term.

        Args:
            logprobs: [N] of the answers' tokens.
            masked: [N] of the same tokens under the masked picture.
        """
        other = masked if self.through_masked else masked.detach()
        yield "kl_prcp", dependence(logprobs, other, self.most), -self.gamma
        if self.entropy:
            yield "ori_entropy", -logprobs, self.entropy
        if self.masked_entropy:
            yield "aug_entropy", -masked, self.masked_entropy

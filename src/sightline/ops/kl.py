"""Estimates of a KL divergence from the tokens of one sample (Schulman 2020, "Approximating KL divergence")."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

KLEstimator = Literal["k1", "k2", "k3"]


def kl_estimate(logratio: Tensor, kind: KLEstimator) -> Tensor:
    """Estimate of ``KL(π ‖ π_ref)`` at each token, of samples from π.

    ======  ====================  ========================================================================
    k1      ``d``                 without bias; of either sign
    k2      ``d² / 2``            biased, small variance; its gradient is that of the KL divergence
    k3      ``exp(-d) - 1 + d``   without bias, never negative
    ======  ====================  ========================================================================

    Args:
        logratio: [N] d = log π - log π_ref.
        kind: which of them.

    Returns:
        [N], with gradient where ``logratio`` has one.

    >>> kl_estimate(torch.tensor([0.5, -0.5]), "k2")
    tensor([0.1250, 0.1250])
    """
    if kind == "k1":
        return logratio
    if kind == "k2":
        return logratio.square() / 2
    return (-logratio).exp() - 1 + logratio

"""Entropic optimal transport between two sets of feature vectors, in the log domain.

Everything is computed in float64. With regularisation ε, weights a [n] and b [m] and costs C [n,m], the value is

    OT = min_π Σ π_ij C_ij + ε KL(π | a ⊗ b) = Σ a_i f_i + Σ b_j g_j   (at the optimum)

over plans π with the marginals a and b (Cuturi 2013, arXiv 1306.0895; this form: Peyré and Cuturi 2019,
arXiv 1803.00567, chapter 4). f and g are its dual potentials.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sightline.errors import DivergenceError


@dataclass(frozen=True, kw_only=True, eq=False)
class Transport:
    """A solved problem."""

    source: Tensor
    """[n] potentials f."""
    target: Tensor
    """[m] potentials g."""
    plan: Tensor
    """[n,m], sums to 1."""
    value: float
    """OT, in units of the cost."""
    iterations: int


def cosine_cost(source: Tensor, target: Tensor) -> Tensor:
    """[n,m]: 1 - cosine of each source [n,d] with each target [m,d]; a zero vector is at distance 1 from all."""
    one, other = (torch.nn.functional.normalize(x.double(), dim=1, eps=1e-30) for x in (source, target))
    return 1 - one @ other.T


def sinkhorn(
    cost: Tensor,
    regularisation: float,
    *,
    weights: Tensor | None = None,
    tolerance: float = 1e-6,
    iterations: int = 20_000,
) -> Transport:
    """Solves entropic transport from sources to targets; the targets have equal weights.

    Args:
        cost: [n,m].
        regularisation: ε > 0, in units of the cost. Small values need many iterations.
        weights: [n] of the sources, > 0, scaled to sum to 1; None: equal.
        tolerance: most that the marginals may be off, summed over all sources.
        iterations: most pairs of updates.

    Raises:
        DivergenceError: the marginals are still off after all iterations.
    """
    n, m = cost.shape
    cost = cost.double()
    log_a = cost.new_full((n,), 1 / n).log() if weights is None else (weights.double() / weights.double().sum()).log()
    log_b = cost.new_full((m,), 1 / m).log()
    g = cost.new_zeros(m)
    error = torch.inf
    for number in range(1, iterations + 1):
        f = -regularisation * torch.logsumexp(log_b + (g - cost) / regularisation, dim=1)
        g = -regularisation * torch.logsumexp(log_a[:, None] + (f[:, None] - cost) / regularisation, dim=0)
        if number % 10 and number != iterations:
            continue
        plan = ((f[:, None] + g - cost) / regularisation + log_a[:, None] + log_b).exp()
        error = float((plan.sum(1) - log_a.exp()).abs().sum())
        if error <= tolerance:
            value = float(log_a.exp() @ f + g.mean())
            return Transport(source=f, target=g, plan=plan, value=value, iterations=number)
    raise DivergenceError(
        f"optimal transport is off by {error:.1e} after {iterations} iterations, more than {tolerance:g}. "
        f"Raise the regularisation ({regularisation:g} in units of the cost)"
    )


def sinkhorn_divergence(source: Tensor, target: Tensor, regularisation: float) -> float:
    """OT(source, target) - OT(source, source) / 2 - OT(target, target) / 2 with cosine costs: 0 for equal sets.

    Feydy et al. 2019, arXiv 1810.08278, equation 3.

    Args:
        source: [n,d].
        target: [m,d].
        regularisation: ε, in units of the cost.
    """
    between, own, other = (
        sinkhorn(cosine_cost(x, y), regularisation).value
        for x, y in ((source, target), (source, source), (target, target))
    )
    return between - own / 2 - other / 2


def calibrated(potentials: Tensor) -> Tensor:
    """[n]: ``f_i - Σ_{k≠i} f_k / (n - 1)``, how the transport cost grows when weight moves to sample i from all others.

    Just et al. 2023 (LAVA, arXiv 2305.00054), equation 5. Potentials are known up to a constant, which cancels here.

    Raises:
        ValueError: a single potential, which has nothing to be compared with.
    """
    n = potentials.shape[0]
    if n < 2:
        raise ValueError(f"{n} sample(s) cannot be ranked; expected two or more")
    return potentials - (potentials.sum() - potentials) / (n - 1)

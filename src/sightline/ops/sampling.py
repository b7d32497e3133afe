"""Choosing the next token: temperature, top-k, top-p, and a draw that one uniform number decides."""

from __future__ import annotations

import torch
from torch import Tensor

CANDIDATES = 1024
"""Tokens that top-p ranks at first."""


def sampling_probabilities(logits: Tensor, temperature: float, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """What is sampled from: temperature first, then top-k, then top-p, renormalised.

    Args:
        logits: [R,V]; ``-inf`` bars a token.
        temperature: > 0.
        top_k: keep the k likeliest tokens (and ties with the k-th); 0: all.
        top_p: keep the likeliest tokens until their probability reaches ``top_p``, always at least one
            (nucleus sampling, Holtzman et al. 2019, arXiv 1904.09751).

    Returns:
        [R,V] float, rows that sum to 1, 0 for what is not kept.
    """
    logits = logits / temperature if temperature != 1 else logits
    if 0 < top_k < logits.shape[-1]:
        least = logits.topk(top_k).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    probabilities = torch.softmax(logits, dim=-1)
    return probabilities if top_p >= 1 else _nucleus(probabilities, top_p, CANDIDATES)


def _nucleus(probabilities: Tensor, top_p: float, candidates: int) -> Tensor:
    """Top-p. Ranks only so many candidates where they suffice: sorting a whole vocabulary takes longer than
    the model's step."""
    size = probabilities.shape[-1]
    ranked, order = probabilities.topk(min(candidates, size), dim=-1)
    before = ranked.cumsum(-1) - ranked
    kept = torch.zeros_like(probabilities).scatter_(-1, order, ranked.masked_fill(before >= top_p, 0))
    kept /= kept.sum(-1, keepdim=True)
    flat = ranked.sum(-1) < top_p
    if candidates < size and bool(flat.any()):
        kept[flat] = _nucleus(probabilities[flat], top_p, size)
    return kept


def draw(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Inverse-transform sampling: the token whose cumulated probability first exceeds ``uniform``.

    One number per row decides, so a row's draw does not depend on the other rows.

    Args:
        probabilities: [R,V], rows that sum to about 1.
        uniform: [R] in [0,1).

    Returns:
        [R] long; never a token of probability 0.

    >>> draw(torch.tensor([[0.2, 0.0, 0.8]]), torch.tensor([0.2]))
    tensor([2])
    """
    cumulated = probabilities.cumsum(-1)
    total = cumulated[:, -1]
    # rounding must not lift the threshold to the total, which no cumulated sum exceeds
    threshold = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulated, threshold[:, None], right=True)[:, 0]

"""What the length of an answer does to its reward."""

from __future__ import annotations

from dataclasses import replace

from sightline.types import Group, Response


def soft_overlong(group: Group, longest: int, buffer: int) -> Group:
    """Rewards less a penalty that grows from 0 to 1 over the last tokens before the limit, as the part ``overlong``
    (DAPO: Yu et al. 2025, arXiv 2503.14476, equation 13).

    Args:
        group: scored; answers have their tokens.
        longest: most tokens of an answer.
        buffer: tokens before it over which the penalty grows.

    >>> prompt = Prompt(id="a", messages=())
    >>> answer = Response(text="", tokens=(1,) * 9, reward=1.0)
    >>> soft_overlong(Group(prompts=(prompt,), responses=(answer,)), 10, 4).responses[0].reward
    0.25
    """
    return replace(group, responses=tuple(_shaped(one, longest, buffer) for one in group.responses))


def overlong_penalty(length: int, longest: int, buffer: int) -> float:
    """0 for answers of up to ``longest - buffer`` tokens, then falling evenly to -1 at ``longest``."""
    over = min(max(length - (longest - buffer), 0) / buffer, 1.0)
    return -over if over else 0.0  # and not -0: the mean of the part is over all answers


def _shaped(response: Response, longest: int, buffer: int) -> Response:
    if response.reward is None or response.tokens is None:
        return response
    penalty = overlong_penalty(len(response.tokens), longest, buffer)
    return replace(response, reward=response.reward + penalty, rewards={**response.rewards, "overlong": penalty})

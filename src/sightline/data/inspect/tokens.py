"""How many tokens rows take, pictures included, and what that makes of a group in each layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sightline.data.inspect.figures import Found, Spread, spread
from sightline.data.render import Lengths


@dataclass(frozen=True, kw_only=True)
class TokenFigures:
    """Of all rows of a part of the data, those that are too long included."""

    prompt: Spread
    """Tokens of every prompt, pictures included."""
    pictures: Spread | None
    """Of every prompt with a picture, the tokens of its pictures; None: there are none."""
    answer: Spread | None
    """Tokens of every answer, the end of its turn included; None: there are none."""
    total: Spread
    """Of every row, its longest prompt with answer."""
    max_length: int | None
    too_long: Found
    """Rows that take more than ``max_length`` or the model's context; they are bad rows."""


def token_figures(lengths: Sequence[Lengths], *, max_length: int | None, too_long: Found) -> TokenFigures | None:
    """None where there are no rows."""
    total = spread([one.longest for one in lengths])
    prompt = spread([count for one in lengths for count in one.prompts])
    if total is None or prompt is None:
        return None
    return TokenFigures(
        prompt=prompt,
        pictures=spread([count for one in lengths for count in one.pictures if count]),
        answer=spread([count for one in lengths for _, count in one.answers]),
        total=total,
        max_length=max_length,
        too_long=too_long,
    )


def layout_tokens(one: Lengths) -> Mapping[str, int]:
    """Tokens that the decoder computes of a group: a prompt once for each answer, or once (``data.sampler.cost``)."""
    apart = sum(one.prompts[prompt] + count for prompt, count in one.answers)
    return {"rows": apart, "packed": apart, "tree": sum(one.prompts) + sum(count for _, count in one.answers)}


def layout_seen(one: Lengths) -> Mapping[str, float]:
    """Pairs of a token and one that it sees, on and below the diagonal of attention."""
    apart = sum((one.prompts[prompt] + count) ** 2 / 2 for prompt, count in one.answers)
    branches = sum(count * (one.prompts[prompt] + count / 2) for prompt, count in one.answers)
    return {"rows": apart, "packed": apart, "tree": sum(count**2 / 2 for count in one.prompts) + branches}


def scored_tokens(one: Lengths) -> int:
    """Tokens whose log-probability is computed: answers, and trained history."""
    return sum(count for _, count in one.answers) + sum(one.trained)

"""Token weights from what differs between two answers: dense preferences on corrected segments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from difflib import SequenceMatcher

from sightline.errors import DataError
from sightline.recipes.segments import SegmentSpec
from sightline.rendered import RenderedGroup
from sightline.types import Group


def weigh_segments(rendered: RenderedGroup, spec: SegmentSpec) -> RenderedGroup:
    """The group with a weight for every token of its compared answers: ``corrected`` where the two sides of a
    comparison differ, ``shared`` where they agree.

    The difference is taken on rendered token ids, so that weights fit tokens whatever the tokenizer. Answers of the
    same tokens (one answer under several pictures) get the same weights; of several comparisons, the largest.
    Yu et al. 2024 (RLHF-V, DDPO, arXiv 2312.00849, equation 3), with γ = ``corrected``.

    Raises:
        DataError: an answer that brings weights of its own, or answers that nothing is compared with.
    """
    if rendered.responses and not rendered.group.edges:
        raise DataError(
            "there is no comparison of answers that data.segments could weigh tokens by",
            source=rendered.group.source,
            remedy="Give the row chosen and rejected, or remove data.segments",
        )
    weights: dict[tuple[int, ...], list[float]] = {}
    for edge in rendered.group.edges:
        sides = rendered.responses[edge.winner].tokens, rendered.responses[edge.loser].tokens
        if edge.kind == "mismatched" or sides[0] == sides[1]:
            continue
        for own, other in (sides, sides[::-1]):
            found = segment_weights(own, other, corrected=spec.corrected, shared=spec.shared)
            before = weights.get(own, found)
            weights[own] = [max(pair) for pair in zip(found, before, strict=True)]
    responses = []
    for response, made in zip(rendered.group.responses, rendered.responses, strict=True):
        if response.weights is not None:
            raise DataError(
                "an answer brings token weights, and data.segments would make others",
                source=rendered.group.source,
                remedy="Remove data.segments, or the weights",
            )
        own_weights = tuple(weights.get(made.tokens, ()))
        weighed = replace(response, tokens=made.tokens, trained=made.trained, weights=own_weights)
        responses.append(weighed if own_weights else response)
    group: Group = replace(rendered.group, responses=tuple(responses))
    return replace(rendered, group=group)


def segment_weights(own: Sequence[int], other: Sequence[int], *, corrected: float, shared: float) -> list[float]:
    """Weight of each token of ``own``: ``shared`` within runs that ``other`` has in the same order too.

    >>> segment_weights([5, 6, 7, 8], [5, 9, 8], corrected=5.0, shared=1.0)
    [1.0, 5.0, 5.0, 1.0]
    """
    weights = [corrected] * len(own)
    # one direction only, so that an answer and its correction agree on what they share
    first, second = (own, other) if tuple(own) <= tuple(other) else (other, own)
    for block in SequenceMatcher(None, first, second, autojunk=False).get_matching_blocks():
        start = block.a if first is own else block.b
        weights[start : start + block.size] = [shared] * block.size
    return weights

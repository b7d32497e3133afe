"""What is trained of a group whose answers are scored: comparisons, or answers with their rewards."""

from __future__ import annotations

from dataclasses import replace

from sightline.recipes.schema import OnlineSpec
from sightline.relations.scores import only_compared
from sightline.relations.selection import relation_of, why_none
from sightline.train.rollout_stats import Sampled, all_equal
from sightline.types import Group, Response


def related(scored: Group | None, spec: OnlineSpec) -> Sampled:
    """A group as ``online.relation`` relates its answers.

    Args:
        scored: with the rewards of its answers; None: its reward failed.
        spec: of the recipe.
    """
    if scored is None:
        return Sampled(scored=None, trained=None)
    found = relation_of(spec.relation, spec.min_gap, spec.selection)(scored)
    if spec.relation == "best":
        return Sampled(scored=replace(scored, edges=()), trained=found if found.responses else None)
    if spec.relation == "none":
        return Sampled(scored=found, trained=_rewarded(found, spec))
    trained = only_compared(found) if found.edges else None
    return Sampled(scored=_sampled_alone(found, len(scored.responses)), trained=trained)


def why_unrelated(spec: OnlineSpec) -> tuple[str, str]:
    """Why no prompt of a round left anything to train on though its answers have rewards, and what to do, by options
    that the relation reads."""
    told, wider = why_none(spec.relation), "raise online.sampling.n or its temperature"
    if spec.relation == "ovip":
        return told, f"Look at the samples; bring online.selection to the scale of the rewards, or {wider}"
    if spec.relation == "none":
        return told, f"Look at the samples; {wider}, or set online.dynamic_sampling to 0"
    return told, f"Look at the samples; {wider}" + (", or lower online.min_gap" if spec.min_gap else "")


def _sampled_alone(found: Group, count: int) -> Group:
    """Without a reference answer that the relation added behind the sampled ones: nobody scored it."""
    edges = tuple(edge for edge in found.edges if max(edge.winner, edge.loser) < count)
    return replace(found, responses=found.responses[:count], edges=edges)


def _rewarded(scored: Group, spec: OnlineSpec) -> Group | None:
    """The answers whose rewards are used as they are; None: nothing could be learned from any."""
    kept = [response for response in scored.responses if response.reward is not None and not response.greedy]
    if spec.truncated == "mask":
        kept = [_untrained(one) if one.finish_reason == "length" else one for one in kept]
    if spec.greedy:
        measure = next((one.reward for one in scored.responses if one.greedy), None)
        kept = [] if measure is None else [_measured(one, measure) for one in kept]
    learns = any(one.trained is None or any(one.trained) for one in kept)
    if not learns or (spec.dynamic_sampling and all_equal(scored)):
        return None
    return replace(scored, responses=tuple(kept))


def _untrained(response: Response) -> Response:
    """Its reward counts among those of its group, its tokens do not."""
    return replace(response, trained=(False,) * len(response.tokens or ()))


def _measured(response: Response, measure: float) -> Response:
    """A response whose every trained token is worth what the greedy answer to its prompt got."""
    count = sum(response.trained or (True,) * len(response.tokens or ()))
    return replace(response, columns={**response.columns, "values": (measure,) * count})

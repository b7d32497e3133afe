"""Which choices of a policy gradient go together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from sightline.algorithms.mismatch import mismatch_of
from sightline.algorithms.pairs import check_range
from sightline.errors import RecipeError

CHOICES: Mapping[str, tuple[str, ...]] = {
    "baseline": ("group", "leave_one_out", "length", "greedy", "none"),
    "scale": ("none", "group", "mean", "batch", "whiten", "whiten_tokens"),
    "std": ("sample", "population"),
    "ratio": ("token", "sequence", "sequence_token", "product", "geometric"),
    "objective": ("clip", "detached", "soft", "plain"),
    "normaliser": ("token", "response", "group", "sum", "constant"),
    "kl": ("k1", "k2", "k3"),
    "kl_in": ("loss", "reward"),
}


class Choices(Protocol):
    """The fields of ``PolicyGradient`` that depend on each other."""

    baseline: Any
    scale: Any
    per_part: bool
    part_weights: Mapping[str, float]
    ratio: Any
    objective: Any
    epsilon: float
    epsilon_high: float | None
    delta: float | None
    normaliser: Any
    length: int | None
    beta: float
    kl: Any
    kl_in: Any
    kl_by_ratio: bool
    mismatch: Any


def check_choices(chosen: Any) -> None:
    """
    Raises:
        RecipeError: a value outside its range, or one that another makes meaningless.
    """
    fields = vars(chosen)
    for name, valid in CHOICES.items():
        if fields[name] not in valid:
            raise RecipeError(f"algorithm.{name} is {fields[name]!r}; choose one of {', '.join(valid)}.")
    for name in ("epsilon", "std_epsilon", "beta"):
        check_range(name, fields[name], least=0)
    for name in ("cap", "temperature_positive", "temperature_negative"):
        check_range(name, fields[name], above=0)
    if chosen.epsilon_high is not None:
        check_range("epsilon_high", chosen.epsilon_high, least=0)
    if chosen.delta is not None:
        check_range("delta", chosen.delta, above=1)
    if chosen.length is not None:
        check_range("length", chosen.length, least=1)
    for name, weight in chosen.part_weights.items():
        check_range(f"part_weights.{name}", weight)
    mismatch_of(chosen.mismatch)
    problems = (*_of_advantage(chosen), *_of_ratio(chosen), *_of_kl(chosen), *_of_perception(chosen), *_unread(chosen))
    for problem in problems:
        raise RecipeError(problem)


def _unread(chosen: Any) -> Iterator[str]:
    """Fields that were set and that no other choice reads."""
    bounded, whole = chosen.objective == "clip", chosen.per_part or chosen.scale in ("group", "batch", "whiten")
    readers = {
        "epsilon": (bounded, "objective: clip"),
        "epsilon_high": (bounded, "objective: clip"),
        "cap": (chosen.objective == "detached", "objective: detached (cispo)"),
        "temperature_positive": (chosen.objective == "soft", "objective: soft (sapo)"),
        "temperature_negative": (chosen.objective == "soft", "objective: soft (sapo)"),
        "std": (whole, "scale: group, batch or whiten"),
    }
    defaults = vars(type(chosen))
    for name, (is_read, reader) in readers.items():
        if not is_read and vars(chosen)[name] != defaults[name]:
            yield (
                f"algorithm.{name} is {vars(chosen)[name]}, by you or by the preset, and is read with {reader} alone. "
                f"Set that, or {name} to {'null' if defaults[name] is None else defaults[name]}."
            )


def _of_advantage(chosen: Choices) -> Iterator[str]:
    if chosen.scale in ("group", "mean") and chosen.baseline != "group":
        yield (
            f"algorithm.scale is {chosen.scale} and algorithm.baseline {chosen.baseline}; the deviation or the mean of "
            "a group goes with baseline: group. Set it, or scale: none, batch or whiten."
        )
    if chosen.baseline == "greedy" and chosen.scale not in ("none", "whiten_tokens"):
        yield f"algorithm.baseline is greedy and algorithm.scale {chosen.scale}; set scale: none or whiten_tokens."
    if chosen.per_part and (chosen.baseline != "group" or chosen.scale not in ("none", "whiten")):
        yield (
            f"algorithm.per_part standardises each part in its group, found baseline: {chosen.baseline} and scale: "
            f"{chosen.scale}. Set baseline: group and scale: whiten (GDPO) or none."
        )
    if chosen.per_part and chosen.beta and chosen.kl_in == "reward":
        yield "algorithm.per_part has no place for KL in the reward. Set kl_in: loss."
    if chosen.part_weights and not chosen.per_part:
        yield "algorithm.part_weights is read with per_part alone. Set per_part: true, or remove the weights."


def _of_ratio(chosen: Choices) -> Iterator[str]:
    if chosen.ratio == "geometric" and chosen.objective not in ("clip", "plain"):
        yield f"algorithm.ratio is geometric, which has no objective {chosen.objective}. Set objective: clip."
    if chosen.delta is not None and (chosen.objective != "clip" or chosen.ratio == "geometric"):
        yield "algorithm.delta is read by objective: clip alone, and not with ratio: geometric. Remove it."
    if chosen.length is not None and chosen.normaliser != "constant":
        yield "algorithm.length is read by normaliser: constant alone. Set that too, or remove length."


def _of_kl(chosen: Choices) -> Iterator[str]:
    if chosen.kl_by_ratio and not (chosen.beta and chosen.kl_in == "loss"):
        yield "algorithm.kl_by_ratio corrects KL in the loss, and there is none. Set beta and kl_in: loss."
    if chosen.beta and chosen.kl_in == "loss" and chosen.kl == "k1" and not chosen.kl_by_ratio:
        yield (
            "algorithm.kl is k1 in the loss: its gradient is 0 on average, so it would hold nothing back. Set kl: k2 "
            "or k3, or kl_in: reward, or kl_by_ratio: true."
        )


def _of_perception(chosen: Any) -> Iterator[str]:
    kind = None if chosen.perception is None else chosen.perception.kind
    if kind == "vppo" and chosen.perception.share < 1 and chosen.ratio not in ("token", "sequence_token"):
        yield (
            f"algorithm.perception filters tokens, and algorithm.ratio is {chosen.ratio}, one ratio for all tokens of "
            "an answer. Set ratio: token or sequence_token, or perception.share: 1."
        )
    if kind == "visual_entropy" and chosen.baseline == "greedy":
        yield (
            "algorithm.perception adds to the reward of sampled answers, and algorithm.baseline: greedy measures them "
            "by an answer without that part. Set another baseline."
        )
    if kind == "visual_entropy" and "visual_entropy" in chosen.part_weights:
        yield "algorithm.part_weights names visual_entropy, whose weight is algorithm.perception.weight. Set that."

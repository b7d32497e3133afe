"""Pairs by OViP's rule (arXiv 2505.15963, as its code has it), and any relation by its name."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial

from sightline.errors import DataError, RecipeError
from sightline.recipes.preferences import SelectionSpec
from sightline.relations.scores import RELATIONS, apart, by_prompt
from sightline.types import Edge, Group, Prompt, Response

OVIP = SelectionSpec()
"""Published values."""


def relation_of(name: str, min_gap: float = 0.0, selection: SelectionSpec | None = None) -> Callable[[Group], Group]:
    """What a recipe or a command line names: gives a scored group its edges, or keeps its best answers.

    Args:
        name: of ``online.relation``.
        min_gap: least difference of reward; not of ``ovip``.
        selection: of ``ovip``; None: its published values.
    """
    if name == "ovip":
        return partial(ovip, spec=selection or OVIP)
    return partial(RELATIONS[name], min_gap=min_gap)


def why_none(relation: str) -> str:
    """Why no prompt has a comparison by a relation though all answers have rewards."""
    if relation == "ovip":
        return "no two answers to a prompt are as far apart as the selection asks"
    alike = "all rewards of each prompt are equal"
    if relation == "length_balanced":
        return f"{alike}, or too near each other, or only longer answers or only shorter ones are better"
    return alike if relation == "none" else f"{alike}, or too near each other"


def ovip(group: Group, spec: SelectionSpec = OVIP) -> Group:
    """Pairs of each prompt by the rule of ``spec``. Where the reference answer wins, it is added behind the others,
    without tokens and without a reward.

    Raises:
        DataError: the rule falls back on a reference answer, and the prompt has none.

    >>> prompt = Prompt(id="a", messages=(), facts={"answer": "a red ball"})
    >>> answers = tuple(Response(text=str(r), reward=r) for r in (7.0, 6.0, 5.0))
    >>> made = ovip(Group(prompts=(prompt,), responses=answers))
    >>> made.responses[3].text, made.edges
    ('a red ball', (Edge(winner=3, loser=2, kind='text', weight=1.0),))
    """
    edges: list[Edge] = []
    added: list[Response] = []
    for prompt, rewards in by_prompt(group).items():
        order = sorted(_unique(group, rewards), key=lambda i: (-rewards[i], i))
        found = _pairs([rewards[i] for i in order], spec)
        fallback = spec.fallback if not found and not apart(rewards[order[-1]], spec.bad) else "none"
        if fallback == "reference":
            text = reference_answer(group.prompts[prompt], spec.reference, group.source)
            if text.strip() != group.responses[order[-1]].text.strip():  # else the judge calls the reference itself bad
                edges.append(Edge(winner=len(group.responses) + len(added), loser=order[-1]))
                added.append(Response(text=text, prompt=prompt))
        elif fallback == "relaxed" and apart(rewards[order[0]], rewards[order[-1]], spec.relaxed_gap):
            found = [(0, len(order) - 1)]
        edges += [Edge(winner=order[winner], loser=order[loser]) for winner, loser in found]
    return replace(group, responses=(*group.responses, *added), edges=tuple(edges))


def check_pairing(relation: str, *, best: bool, min_gap: float, keep_all: bool, of_ovip: Sequence[str] = ()) -> None:
    """Options of ``sightline pairs`` and of ``sightline.pairs``.

    Args:
        relation: how answers are compared.
        best: no pairs: the best answer of each group alone.
        min_gap: least difference of reward.
        keep_all: keep answers that are in no pair.
        of_ovip: names of given options that ``ovip`` alone reads.

    Raises:
        RecipeError: options that contradict each other, or that nothing would read.
    """
    if best and relation != "best_worst":
        raise RecipeError(f"found --best and --relation {relation}: --best makes no pairs. Leave one of them out.")
    if best and keep_all:
        raise RecipeError("found --best and --keep-all: the best answer alone, or all of them. Leave one of them out.")
    if relation in ("ovip", "options") and min_gap:
        raise RecipeError(f"--min-gap is not read with --relation {relation}. Leave it out (ovip: see --selection).")
    if not min_gap >= 0:
        raise RecipeError(f"--min-gap is {min_gap}, expected 0 or more. Leave it out where every difference counts.")
    if of_ovip and relation != "ovip":
        raise RecipeError(f"--{of_ovip[0]} is for --relation ovip, found {'best' if best else relation}. Leave it out.")


def check_references(groups: Sequence[Group], spec: SelectionSpec) -> None:
    """Looks, before there is an answer, whether each prompt has the reference answer that ``spec`` falls back on.

    Raises:
        DataError: names the row that has none.
    """
    for group in groups if spec.fallback == "reference" else ():
        for prompt in group.prompts:
            reference_answer(prompt, spec.reference, group.source)


def check_scored(groups: Sequence[Group], source: str) -> list[str]:
    """Every answer needs a reward, or the reason why there is none (``score`` with ``failed: drop``): it is then in no
    pair.

    Returns:
        Why answers have none.

    Raises:
        DataError: an answer has neither.
    """
    failed = list[str]()
    for group in groups:
        for index, response in enumerate(group.responses):
            if response.reward is not None and math.isfinite(response.reward):
                continue
            if response.reward is not None:
                raise DataError(
                    f"the reward of answer {index} of group {group.id} (counted from 0) is {response.reward}",
                    source=source,
                    remedy="Score it anew; an answer that cannot be judged has none",
                )
            if response.reward_error is None and response.finish_reason != "error":
                raise DataError(
                    f"group {group.id} has answers without a reward (number {index}, counted from 0)",
                    source=source,
                    remedy="Run `sightline score` first",
                )
            failed.append(response.reward_error or "it was never given")
    return failed


def _pairs(scores: Sequence[float], spec: SelectionSpec) -> list[tuple[int, int]]:
    """Places of winner and loser among scores that fall: the k-th best over the k-th worst."""
    count = len(scores)
    if count <= spec.small:
        good = not apart(spec.good, scores[0])
        return [(0, count - 1)] if good and apart(scores[0], scores[-1], spec.small_gap) else []
    deviation = statistics.stdev(scores) if count > 1 else 0.0
    least = spec.deviations * max(spec.least_deviation, deviation)
    pairs = []
    for k in range(count // 2):
        if not apart(scores[k] - scores[count - 1 - k], least) or apart(spec.good, scores[k]):
            break
        pairs.append((k, count - 1 - k))
    return pairs[: spec.most]


def _unique(group: Group, members: Iterable[int]) -> list[int]:
    """The first answer of each text."""
    first: dict[str, int] = {}
    for index in members:
        first.setdefault(group.responses[index].text.strip(), index)
    return list(first.values())


def reference_answer(prompt: Prompt, key: str, source: str = "") -> str:
    """
    Raises:
        DataError: the prompt has no such text among its facts.
    """
    found = prompt.facts.get(key)
    if not isinstance(found, str) or not found.strip():
        raise DataError(
            f"prompt {prompt.id!r} has {'no' if found is None else 'no text as'} fact {key!r}, the reference answer "
            f"that relation ovip falls back on; it has {', '.join(map(str, prompt.facts)) or 'none'}",
            source=source,
            remedy="Add it, name another key (reference), or set fallback: relaxed or none",
        )
    return found

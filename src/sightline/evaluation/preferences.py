"""Figures of a model on comparisons of answers: which one it finds likelier, by how much, and why.

A comparison is one row of counts, and every figure a formula over their sums, so that intervals and paired differences
between two models come from the stored result. Accuracies are strict, as in training: a tie is not right.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from sightline.evaluation.bench import Better, Graded, Result
from sightline.evaluation.comparisons import (
    by_category,
    comparison_row,
    correlation,
    length_counts,
    length_formulas,
    margin_counts,
)
from sightline.evaluation.formulas import evaluate
from sightline.relations.scores import only_compared
from sightline.types import Edge, Group, Response

BENCH: Final = "preferences"
PROTOCOL: Final = "logprobs"
PICTURES: Final = ("blank", "other")
"""What the look meter puts in the place of the picture: a white one, and that of another row."""

_FORMULAS: Final[Mapping[str, str]] = {
    "accuracy/sum": "right_sum / answers",
    "accuracy/mean": "right_mean / answers",
    "accuracy/reference": "right_added / referenced",
    "logps/chosen": "chosen / answers",
    "logps/rejected": "rejected / answers",
    "logps/margin": "margin / answers",
    "logps_mean/chosen": "chosen_mean / answers",
    "logps_mean/rejected": "rejected_mean / answers",
    "logps_mean/margin": "margin_mean / answers",
    "sft_loss/token": "-chosen / chosen_tokens",
    "sft_loss/sequence": "-chosen_mean / answers",
    "rewards/chosen": "reward_chosen / referenced",
    "rewards/rejected": "reward_rejected / referenced",
    "rewards/margins": "(reward_chosen - reward_rejected) / referenced",
    "length/chosen": "chosen_tokens / answers",
    "length/rejected": "rejected_tokens / answers",
    **length_formulas("answers"),
    "length_bias/sum": correlation("margin", "answers"),
    "length_bias/mean": correlation("margin_mean", "answers"),
    "length_bias/reference": correlation("added", "referenced"),
    "looking/policy/blank": "blank / looked",
    "looking/policy/other": "other / looked_other",
    "looking/policy/blank_share": "blank / looked_size",
    "looking/policy/other_share": "other / looked_other_size",
    "looking/blank": "added_blank / added_looked",
    "looking/other": "added_other / added_looked_other",
    "looking/blank_share": "added_blank / added_looked_size",
    "looking/other_share": "added_other / added_looked_other_size",
}
"""Figures in the order they are shown. One whose denominator is 0 is left out."""
RANKED_BY: Final[Mapping[str, str]] = {"added": "margin over the reference", "margin_mean": "margin per token"}
_BY_LENGTH: Final = ("accuracy/sum", "accuracy/mean", "accuracy/reference")
"""What is told apart by which answer is the longer one."""
_Ends = tuple[Response, Response]
"""Chosen and rejected."""
_HIGHER: Final = ("accuracy", "looking", "rewards/margins")


def better(metric: str) -> Better:
    """Which way a figure is good. Log-probabilities and lengths are neither good nor bad; a fall of both answers'
    log-probability is what DPO often does."""
    if metric.startswith("sft_loss"):
        return "lower"
    return "higher" if metric.startswith(_HIGHER) or metric.endswith("/margin") else "neither"


def compared_answers(group: Group) -> Group:
    """The group with its comparisons of answers to one prompt, and nothing that takes no part in them."""
    same = [e for e in group.edges if group.responses[e.winner].prompt == group.responses[e.loser].prompt]
    kept = only_compared(replace(group, edges=tuple(edge for edge in same if edge.kind == "text")))
    used = sorted({response.prompt for response in kept.responses})
    answers = tuple(replace(response, prompt=used.index(response.prompt)) for response in kept.responses)
    return replace(kept, prompts=tuple(group.prompts[index] for index in used), responses=answers)


def preference_result(scored: Sequence[Group], reference: Sequence[Group] | None = None, *, beta: float) -> Result:
    """The figures of one model.

    Args:
        scored: groups of :func:`compared_answers` whose answers hold ``logprob`` and ``tokens`` in ``rewards``, and
            those of the look meter ``blank`` and, where there is another picture, ``other``.
        reference: the same, scored by the reference; None: no figures relative to one.
        beta: what implicit rewards are multiplied by, as in DPO.
    """
    others = scored if reference is None else reference
    graded = [
        _graded(group, edge, other if reference is not None else None, beta)
        for group, other in zip(scored, others, strict=True)
        for edge in group.edges
    ]
    values = {name: evaluate(expression, graded) for name, expression in _FORMULAS.items()}
    known = {name: value for name, value in values.items() if not math.isnan(value)}
    return Result(
        bench=BENCH,
        protocol=PROTOCOL,
        metrics=known,
        metrics_printed={name: f"{value:.4f}" for name, value in known.items()},
        by_category=by_category(graded, {name: _FORMULAS[name] for name in _BY_LENGTH if name in known}),
        graded=graded,
        formulas={name: _FORMULAS[name] for name in known},
        better={name: better(name) for name in known},
    )


def with_generations(result: Result, said: Mapping[str, Mapping[str, str]]) -> Result:
    """The result with what models themselves answered in the details: ``said`` is title to prompt id to text."""

    def told(row: Graded) -> Graded:
        prompt = row.details["prompt"]
        texts = {title: answers[prompt] for title, answers in said.items() if prompt in answers}
        return replace(row, details={**row.details, "generated": texts}) if texts else row

    return replace(result, graded=[told(row) for row in result.graded])


def ranking(result: Result) -> str:
    """The column that cases are ranked by: what was gained over a reference, otherwise the margin per token, which
    length does not decide."""
    return "added" if "accuracy/reference" in result.metrics else "margin_mean"


def ranked_rows(result: Result) -> list[Graded]:
    """Comparisons from the worst to the best."""
    column = ranking(result)
    return sorted(result.graded, key=lambda row: row.counts[column])


def _graded(group: Group, edge: Edge, reference: Group | None, beta: float) -> Graded:
    chosen, rejected = group.responses[edge.winner], group.responses[edge.loser]
    counts = _policy_counts(chosen, rejected)
    if reference is not None:
        ends = reference.responses[edge.winner], reference.responses[edge.loser]
        counts |= _added_counts((chosen, rejected), ends, beta)
    return comparison_row(group, edge, counts)


def _policy_counts(chosen: Response, rejected: Response) -> dict[str, float]:
    win, lose = chosen.rewards["logprob"], rejected.rewards["logprob"]
    long, short = chosen.rewards["tokens"], rejected.rewards["tokens"]
    gap, margin, mean = long - short, win - lose, win / long - lose / short
    return {
        "chosen": win,
        "rejected": lose,
        "chosen_tokens": long,
        "rejected_tokens": short,
        "chosen_mean": win / long,
        "rejected_mean": lose / short,
        "right_sum": float(margin > 0),
        "right_mean": float(mean > 0),
        **length_counts(gap, margin > 0),
        **margin_counts("margin", margin, gap),
        **margin_counts("margin_mean", mean, gap),
        **_look("", margin, {name: _margin(chosen, rejected, name) for name in PICTURES if name in chosen.rewards}),
    }


def _added_counts(
    policy: tuple[Response, Response], reference: tuple[Response, Response], beta: float
) -> dict[str, float]:
    """What the policy adds to the reference."""
    win, lose = (new.rewards["logprob"] - old.rewards["logprob"] for new, old in zip(policy, reference, strict=True))
    gap = policy[0].rewards["tokens"] - policy[1].rewards["tokens"]
    seen = [name for name in PICTURES if name in policy[0].rewards]
    under = {name: _margin(*policy, name) - _margin(*reference, name) for name in seen}
    return {
        "referenced": 1.0,
        "right_added": float(win - lose > 0),
        "reward_chosen": beta * win,
        "reward_rejected": beta * lose,
        **margin_counts("added", win - lose, gap),
        **_look("added_", win - lose, under),
    }


def _margin(chosen: Response, rejected: Response, picture: str) -> float:
    return chosen.rewards[picture] - rejected.rewards[picture]


def _look(prefix: str, margin: float, under: Mapping[str, float]) -> dict[str, float]:
    """What the picture takes part in of a margin: the margin minus that under another picture. Shares are of the
    margins' size, as in the meter of training, so that margins of both signs do not cancel."""
    counts: dict[str, float] = {}
    for name, other in under.items():
        place = f"{prefix}looked" if name == "blank" else f"{prefix}looked_{name}"
        counts |= {f"{prefix}{name}": margin - other, place: 1.0, f"{place}_size": abs(margin)}
    return counts

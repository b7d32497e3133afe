"""What figures on comparisons of two answers share: the row of one, and whether longer answers win for their length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from sightline.evaluation.bench import Graded
from sightline.evaluation.formulas import evaluate
from sightline.types import Edge, Group, Prompt

LONGER: Final = "chosen longer"
SHORTER: Final = "chosen shorter"
EQUAL: Final = "equally long"


def comparison_row(group: Group, edge: Edge, counts: Mapping[str, float]) -> Graded:
    """The row of one comparison; answers about one picture are resampled together.

    Args:
        group: holds both answers.
        edge: which of them is preferred.
        counts: with ``gap``, the length of the chosen answer minus that of the rejected one.
    """
    chosen, rejected = group.responses[edge.winner], group.responses[edge.loser]
    prompt, gap = group.prompts[chosen.prompt], counts["gap"]
    return Graded(
        id=group.id if len(group.edges) == 1 else f"{group.id}#{edge.winner}>{edge.loser}",
        cluster=cluster_of(group),
        counts=counts,
        details={
            "prompt": prompt.id,
            "question": _question(prompt),
            "images": list(prompt.images),
            "chosen": chosen.text,
            "rejected": rejected.text,
            "category": LONGER if gap > 0 else SHORTER if gap < 0 else EQUAL,
        },
    )


def cluster_of(group: Group) -> str:
    """What is resampled together: the pictures of the first prompt; a group without any stands for itself."""
    return " ".join(group.prompts[0].images) or group.id


def by_category(graded: Sequence[Graded], formulas: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """The figures of comparisons whose chosen answer is the longer, equally long, and the shorter one."""
    found = {}
    for category in (LONGER, EQUAL, SHORTER):
        rows = [row for row in graded if row.details.get("category") == category]
        if rows:
            found[category] = {name: evaluate(formula, rows) for name, formula in formulas.items()}
    return found


def _question(prompt: Prompt) -> str:
    content = prompt.messages[-1]["content"]
    return content if isinstance(content, str) else "\n".join(p["text"] for p in content if p["type"] == "text")


def length_counts(gap: float, right: bool) -> dict[str, float]:
    """What one comparison adds to the figures of :func:`length_formulas`; ``right``: the chosen answer won."""
    longer, shorter = float(gap > 0), float(gap < 0)
    return {
        "longer": longer,
        "shorter": shorter,
        "right_longer": longer * right,
        "right_shorter": shorter * right,
        "gap": gap,
        "gap_squared": gap * gap,
    }


def margin_counts(name: str, margin: float, gap: float) -> dict[str, float]:
    """A margin, and what its correlation with the length difference is made of."""
    return {name: margin, f"{name}_squared": margin * margin, f"{name}_gap": margin * gap}


def length_formulas(pairs: str) -> dict[str, str]:
    """Accuracy where the chosen answer is longer and where it is shorter, and what always taking the longer gives.

    Args:
        pairs: the column that counts comparisons.
    """
    return {
        "accuracy/longer": "right_longer / longer",
        "accuracy/shorter": "right_shorter / shorter",
        "length/longer": f"longer / {pairs}",
    }


def correlation(margin: str, pairs: str) -> str:
    """Pearson's correlation of a margin with the length difference, as a formula of sums."""
    return (
        f"({pairs} * {margin}_gap - {margin} * gap)"
        f" / (({pairs} * {margin}_squared - {margin} * {margin}) * ({pairs} * gap_squared - gap * gap)) ** 0.5"
    )


def by_length(gaps: Sequence[float], values: Sequence[float], *, bins: int = 8) -> list[tuple[float, float, int]]:
    """(mean length difference, mean value, comparisons) of at most ``bins`` bins that hold about equally many.

    Comparisons of one length difference stand in one bin.

    >>> by_length([-2, -2, 3, 5], [0.0, 1.0, 1.0, 1.0], bins=2)
    [(-2.0, 0.5, 2), (4.0, 1.0, 2)]
    """
    if not gaps:
        return []
    gap, value = np.asarray(gaps, dtype=float), np.asarray(values, dtype=float)
    edges = np.unique(np.quantile(gap, np.arange(1, bins) / bins, method="higher"))
    place = np.digitize(gap, edges)
    found = [place == number for number in np.unique(place)]
    return [(float(gap[own].mean()), float(value[own].mean()), int(own.sum())) for own in found]

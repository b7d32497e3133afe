"""The page of an evaluation on comparisons: figures, curves, and the worst and best cases side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from markupsafe import Markup

from sightline.display import embed
from sightline.evaluation import preferences, reward_figures
from sightline.evaluation.bench import Graded, Result
from sightline.evaluation.comparisons import by_length
from sightline.evaluation.results import Measured
from sightline.evaluation.statistics import Interval
from sightline.files import replace_file
from sightline.report.evaluation import is_picture, result_rows
from sightline.report.page import Answer, GalleryItem, pieces
from sightline.report.svg import Curve, Line, chart, interval_bar
from sightline.report.table import SIGNS, Row, bounds, number
from sightline.report.templates import fill_template

MEANINGS: Final[Mapping[str, str]] = {
    "accuracy/sum": "chosen answer has the larger log-probability",
    "accuracy/mean": "chosen answer has the larger log-probability per token",
    "accuracy/reference": "chosen answer gained more over the reference",
    "logps/chosen": "mean log-probability of the chosen answer, nats",
    "logps/rejected": "mean log-probability of the rejected answer, nats",
    "logps/margin": "chosen minus rejected, nats",
    "logps_mean/chosen": "mean of means per token, nats",
    "logps_mean/rejected": "mean of means per token, nats",
    "logps_mean/margin": "chosen minus rejected, nats per token",
    "sft_loss/token": "of chosen answers, every token counts alike",
    "sft_loss/sequence": "of chosen answers, every answer counts alike",
    "rewards/chosen": "implicit reward, beta times the gain over the reference",
    "rewards/rejected": "implicit reward, beta times the gain over the reference",
    "rewards/margins": "implicit reward, chosen minus rejected",
    "length/chosen": "mean length",
    "length/rejected": "mean length",
    "accuracy/longer": "accuracy where the chosen answer is the longer one",
    "accuracy/shorter": "accuracy where the chosen answer is the shorter one",
    "length/longer": "what always taking the longer answer would score",
    "length_bias/sum": "of margin and length difference",
    "length_bias/mean": "of margin per token and length difference",
    "length_bias/reference": "of implicit margin and length difference",
    "length_bias": "of margin and length difference",
    "looking/policy/blank": "margin that a white picture takes away, nats",
    "looking/policy/other": "margin that another picture takes away, nats",
    "looking/policy/blank_share": "the same as a share of the margins' size",
    "looking/policy/other_share": "the same as a share of the margins' size",
    "looking/blank": "gain over the reference that a white picture takes away, nats",
    "looking/other": "gain over the reference that another picture takes away, nats",
    "looking/blank_share": "the same as a share of the gains' size",
    "looking/other_share": "the same as a share of the gains' size",
    "accuracy": "chosen answer has the larger score",
    "ties": "equal scores",
    "loss": "mean of -log sigmoid(margin)",
    "calibration/brier": "mean square of 1 - sigmoid(margin)",
    "calibration/ece": "distance of confidence from accuracy, in 10 bins",
    "margin": "score of chosen minus rejected",
    "score/chosen": "mean score",
    "score/rejected": "mean score",
}
"""Figure to what it counts, in one line."""
_SHOWN: Final = 8
"""Cases of each kind, unless more were generated for."""


def write_preferences_page(
    path: Path, measured: Measured, before: Measured | None = None, *, title: str, notes: Sequence[str] = ()
) -> Path:
    """Writes a self-contained HTML page.

    Args:
        path: The file; its folder is made.
        measured: Of ``eval preferences`` or ``eval reward``.
        before: Another model on the same comparisons.
        title: Heading.
        notes: Paragraphs under the heading.

    Returns:
        The path written.

    Raises:
        DataError: The two are not of the same comparisons.
    """
    rows = [_named(row, before) for row in result_rows(measured, before)]
    galleries = cases(measured.result, None if before is None else before.result)
    page = fill_template(
        "preferences.html.j2",
        {"number": number, "bounds": bounds, "embed": embed},
        title=title,
        notes=[*notes, *measured.result.notes],
        rows=[(row, Markup(interval_bar(row))) for row in rows],
        compared=before is not None,
        signs=SIGNS,
        charts=[(curve, Markup(svg)) for curve in curves(measured.result) if (svg := chart(curve))],
        galleries=list(galleries.items()),
        pieces=pieces,
    )
    replace_file(path, page, errors="replace")
    return path


def cases(result: Result, before: Result | None = None) -> dict[str, list[GalleryItem]]:
    """The worst and the best comparisons, no comparison twice; all that models answered themselves."""
    rows = _ranked(result)
    said = sum("generated" in row.details for row in rows)
    most = min(max(_SHOWN, (said + 1) // 2), (len(rows) + 1) // 2)
    old = {} if before is None else {row.id: row for row in before.graded}
    worst, best = rows[:most], rows[most:][::-1][:most]
    by = "score" if result.bench == reward_figures.BENCH else preferences.RANKED_BY[preferences.ranking(result)]
    return {
        f"Worst cases, by {by}": [_item(row, old.get(row.id)) for row in worst],
        f"Best cases, by {by}": [_item(row, old.get(row.id)) for row in best],
    }


def curves(result: Result) -> list[Curve]:
    """Accuracy and margin by length difference; for a reward model also reliability and best of n."""
    rows = [row for row in result.graded if "margin" in row.counts]
    gaps, margin = [row.counts["gap"] for row in rows], [row.counts["margin"] for row in rows]
    unit = "tokens" if result.bench == preferences.BENCH else "words"
    label = f"chosen minus rejected, {unit}"
    right = by_length(gaps, [float(value > 0) for value in margin])
    found = [
        Curve(title="Accuracy by length difference", lines=[_binned("accuracy", right)], x_label=label),
        Curve(title="Margin by length difference", lines=[_binned("margin", by_length(gaps, margin))], x_label=label),
    ]
    return found if result.bench == preferences.BENCH else [*_reward_curves(result), *found]


def _reward_curves(result: Result) -> list[Curve]:
    found = []
    if bins := reward_figures.reliability(reward_figures.margins(result.graded)):
        model = Line(name="model", x=[one.confidence for one in bins], y=[one.accuracy for one in bins])
        found.append(
            Curve(
                title="Reliability",
                lines=[model, Line(name="calibrated", x=[0.5, 1.0], y=[0.5, 1.0])],
                x_label="confidence: sigmoid of the margin's size",
                y_label="accuracy",
                note=f"Comparisons in each point: {', '.join(str(one.pairs) for one in bins)}.",
            )
        )
    if best := reward_figures.curve(result, "best"):
        n = [float(number) for number in range(1, len(best) + 1)]
        lines = [
            Line(name="chosen by the model", x=n, y=best),
            Line(name="chosen by gold", x=n, y=reward_figures.curve(result, "oracle")),
            Line(name="any", x=n, y=[best[0]] * len(n)),
        ]
        groups = sum("groups" in row.counts for row in result.graded)
        note = f"Expected over all draws of n answers; {groups} prompts."
        found.append(Curve(title="Best of n", lines=lines, x_label="n", y_label="gold reward", note=note))
        bound = [reward_figures.kl_bound(number) for number in range(1, len(best) + 1)]
        moved = [replace(line, x=bound) for line in lines]
        found.append(
            Curve(
                title="Best of n by distance",
                lines=moved,
                x_label="bound on KL from the sampling model: log n - (n - 1) / n, nats",
                y_label="gold reward",
                note="A curve that falls while the model's own score of its choice (score_of_best) rises is "
                "over-optimised.",
            )
        )
    return found


def _binned(name: str, bins: Sequence[tuple[float, float, int]]) -> Line:
    return Line(name=name, x=[gap for gap, _, _ in bins], y=[value for _, value, _ in bins])


def _ranked(result: Result) -> list[Graded]:
    if result.bench == preferences.BENCH:
        return preferences.ranked_rows(result)
    return sorted((row for row in result.graded if "pairs" in row.counts), key=lambda row: row.counts["margin"])


def _named(row: Row, before: Measured | None) -> Row:
    """The row with its meaning; a figure that only the second model has stands in its column."""
    meaning = MEANINGS.get(row.key, "")
    chosen = {"best_of_n": "gold reward", "score_of_best": "the model's own score"}
    figure, _, number_of = row.key.partition("/")
    if figure in chosen:
        meaning = f"{chosen[figure]} of the best of {number_of} by the model's score"
    if before is not None and row.after is None:
        there = before.result.metrics.get(row.key, math.nan)
        row = replace(row, before=Interval(value=there, low=math.nan, high=math.nan), after=row.before)
    return replace(row, meaning=meaning)


def _item(row: Graded, old: Graded | None) -> GalleryItem:
    counts, details = row.counts, row.details
    readable = [image for image in details["images"] if is_picture(image)]
    sides = [Answer(title=name, text=details[name], note=_side(name, row, old)) for name in ("chosen", "rejected")]
    said = {**({} if old is None else _earlier(old)), **details.get("generated", {})}
    order = sorted(said, key=lambda title: title != "before")
    sides += [Answer(title=f"{title}: its own answer", text=said[title]) for title in order]
    caption = f"margin {_signed(counts['margin'])}"
    if old is not None:
        caption += f" (before {_signed(old.counts['margin'])})"
    if "referenced" in counts:
        caption += f"; over the reference {_signed(counts['added'])}"
    for name, words in (("blank", "white"), ("other", "other")):
        if name in counts:
            caption += f"; {words} picture {_signed(counts['margin'] - counts[name])}"
    missing = [image for image in details["images"] if image not in readable]
    caption += "".join(f"; {Path(image).name} is not there, or no picture" for image in missing)
    return GalleryItem(images=readable, question=str(details["question"]), answers=sides, caption=caption)


def _side(name: str, row: Graded, old: Graded | None) -> str:
    """``−12.3 nats, 7 tokens (before −14.1)``, or the score of a reward model."""
    value, before = row.counts[name], "" if old is None else f" (before {_signed(old.counts[name], plus=False)})"
    if f"{name}_tokens" not in row.counts:
        return f"score {_signed(value, plus=False)}{before}"
    return f"{_signed(value, plus=False)} nats, {row.counts[f'{name}_tokens']:.0f} tokens{before}"


def _earlier(old: Graded) -> Mapping[str, str]:
    """What the model of an earlier result said itself."""
    said = old.details.get("generated", {})
    return {"before": said["after"]} if "after" in said else {}


def _signed(value: float, *, plus: bool = True) -> str:
    return f"{value:{'+' if plus else ''}.2f}".replace("-", "−")

"""All that a check of data found, and what of it is a problem."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sightline.data.inspect.answers import AnswerFigures
from sightline.data.inspect.leaks import Leak
from sightline.data.inspect.pictures import PictureFigures
from sightline.data.inspect.tokens import TokenFigures
from sightline.data.shown import ShownRow, stretches
from sightline.data.validate import BadRow, Part
from sightline.errors import RecipeError
from sightline.models.forecast import Forecast
from sightline.types import Group

THRESHOLDS: Final[Mapping[str, float]] = {
    "bad": 0.0,
    "leak": 0.0,
    "bias": 0.6,
    "similar": 0.0,
    "split": 0.0,
    "same": 0.0,
    "scores": 0.0,
    "copies": 0.0,
    "columns": 0.0,
    "memory": 1.0,
}
"""What may be a problem, and the share above which it is one unless ``--fail-on`` says another."""
USUAL: Final = "bad,leak,bias"
"""What is one unless ``--fail-on`` names others."""


@dataclass(frozen=True, kw_only=True)
class BadRows:
    """Rows of one source that cannot be used for one reason."""

    reason: str
    count: int
    first: BadRow


@dataclass(frozen=True, kw_only=True)
class SourceFigures:
    """How the rows of one source fared."""

    part: Part
    path: str
    read: int
    kept: int
    with_pictures: int
    bad: tuple[BadRows, ...] = ()
    """The most frequent reason first."""
    columns: Mapping[str, int] = field(default_factory=dict)
    """Columns that nothing reads, and how many rows have them."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something above its threshold."""

    kind: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What was found."""

    title: str
    """The recipe, or the source."""
    sources: tuple[SourceFigures, ...]
    held_out: int = 0
    """Rows of ``train`` that ``data.validation`` holds out."""
    pictures: PictureFigures
    tokens: TokenFigures | None
    answers: AnswerFigures
    split: Leak | None
    """What of the held-out rows is trained on; None: none are held out."""
    leaks: tuple[Leak, ...]
    first: tuple[ShownRow, ...]
    forecast: Forecast | None
    notes: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """Rows that are kept to train on."""
        return sum(source.kept for source in self.sources if source.part == "train") - self.held_out


def bad_rows(rows: Iterable[BadRow]) -> tuple[BadRows, ...]:
    """By reason, each with its first row."""
    first: dict[str, BadRow] = {}
    counts = Counter[str]()
    for row in rows:
        first.setdefault(row.reason, row)
        counts[row.reason] += 1
    return tuple(BadRows(reason=name, count=count, first=first[name]) for name, count in counts.most_common())


def unread_columns(groups: Iterable[Group], read: Iterable[str]) -> dict[str, int]:
    """Columns of rows that went to the facts of their prompts.

    Args:
        groups: of one source of rows.
        read: names that something reads.
    """
    counts = Counter(name for group in groups for name in group.prompts[0].facts)
    return {name: count for name, count in counts.most_common() if name not in set(read)}


# --- problems -----------------------------------------------------------------------------------


def thresholds(given: str) -> dict[str, float]:
    """What ``--fail-on`` names: ``bad,leak=0.01,bias=0.65``; ``none``: nothing.

    Raises:
        RecipeError: an unknown word, or a threshold that is no share.
    """
    found: dict[str, float] = {}
    for word in given.split(",") if given.strip() != "none" else ():
        name, equals, value = word.strip().partition("=")
        if name not in THRESHOLDS:
            raise RecipeError(
                f"--fail-on names '{name}', expected none, or some of {', '.join(THRESHOLDS)}. Choose among these."
            )
        try:
            share = float(value) if equals else THRESHOLDS[name]
        except ValueError:
            share = math.nan
        if not 0 <= share <= 1:
            raise RecipeError(f"--fail-on {word.strip()}: expected a share from 0 to 1. Write for example {name}=0.01.")
        found[name] = share
    return found


def problems(checked: Checked, limits: Mapping[str, float]) -> list[Problem]:
    """What is above its threshold."""
    return [
        Problem(kind=kind, text=text)
        for kind, share, text in _shares(checked)
        if kind in limits and share > limits[kind]
    ]


def _shares(checked: Checked) -> Iterator[tuple[str, float, str]]:
    """What may be a problem: its kind, its share, and how it is told."""
    read = sum(source.read for source in checked.sources)
    bad = read - sum(source.kept for source in checked.sources) + checked.pictures.broken.count
    rows, bias = checked.rows, checked.answers.bias
    pairs = bias.pairs if bias is not None else 0

    def of(kind: str, count: int, total: int, what: str) -> tuple[str, float, str]:
        return kind, count / max(1, total), f"{count} of {total} {what}"

    yield of("bad", bad, read, "rows cannot be used")
    if bias is not None and bias.certain:
        side = "longer" if bias.share.value > 0.5 else "shorter"
        yield "bias", bias.rule, f"preferring the {side} answer gets {bias.rule:.1%} of {bias.pairs} pairs right"
    same, scores = checked.answers.same.count, checked.answers.against_scores.count
    yield of("same", same, pairs, "comparisons are of the same answer but for white space and case")
    yield of("scores", scores, pairs, "comparisons prefer the answer with the lower score")
    files, copied = checked.pictures.files, checked.pictures.copied
    yield of("copies", copied, files, "picture files have the pixels of another")
    columns = sum(len(source.columns) for source in checked.sources)
    yield "columns", float(columns > 0), f"{columns} columns are read by nothing"
    for leak in checked.leaks:
        yield of("leak", leak.same.count, rows, f"rows have a picture of {leak.name}, by its pixels")
        yield of("similar", leak.similar.count, rows, f"rows have a picture that looks like one of {leak.name}")
    if checked.split is not None:
        yield of("split", checked.split.same.count, rows, "rows have a picture that is held out as well")
    plan = checked.forecast
    if plan is not None and plan.speed.memory is not None:
        needed, there = plan.memory.total / 1e9, plan.speed.memory / 1e9
        yield "memory", needed / there, f"about {needed:.1f} GB are needed, {plan.speed.device} has {there:.0f}"


# --- JSON ---------------------------------------------------------------------------------------


def as_json(checked: Checked, found: Sequence[Problem]) -> str:
    """Everything as JSON; tokens of shown rows that are alike and follow each other stand together."""
    values = dataclasses.asdict(
        dataclasses.replace(
            checked,
            first=tuple(
                dataclasses.replace(
                    row,
                    parts=tuple(dataclasses.replace(part, pieces=tuple(stretches(part))) for part in row.parts),
                )
                for row in checked.first
            ),
        )
    )
    if checked.answers.bias is not None:
        values["answers"]["bias"] |= {"rule": checked.answers.bias.rule, "certain": checked.answers.bias.certain}
    if (plan := checked.forecast) is not None:
        values["forecast"]["memory"]["total"] = plan.memory.total
        values["forecast"] |= {"seconds_per_step": plan.seconds_per_step, "seconds": plan.seconds}
    values["problems"] = [vars(problem) for problem in found]
    return json.dumps(_plain(values), ensure_ascii=False, indent=2, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    """What is not finite as null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value

"""The page of a loop: its rounds side by side, what they cost, and what one question was answered over the rounds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from markupsafe import Markup

from sightline.data.schema import read_groups
from sightline.display import embed
from sightline.evaluation.bench import Graded, direction
from sightline.evaluation.benches import load_bench
from sightline.evaluation.results import changes
from sightline.files import replace_file
from sightline.loops.exam import results_of
from sightline.loops.figures import pairs_of, read_figures
from sightline.loops.state import Entry, State
from sightline.loops.status import clock
from sightline.recipes.load_loop import dump_loop
from sightline.recipes.loop import LoopRecipe
from sightline.report.evaluation import change_rows, graded_item
from sightline.report.gallery import gallery_of
from sightline.report.page import Detail, GalleryItem, pieces
from sightline.report.run_page import is_flat
from sightline.report.svg import Curve, Line, chart, interval_bar
from sightline.report.table import SIGNS, Row, bounds, number
from sightline.report.templates import fill_template

_SCENES = ("hal", "chair", "cover", "accuracy", "length")
"""Figures of ``scenes`` that are shown, where the recipe names none."""
_MOST_METRICS = 6
_MOST_ITEMS = 8
_MOST_ROUNDS = 5
"""Answers to one question side by side."""
_BANDS = 8
"""Stages whose time is drawn apart; the rest is one band."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of the table of rounds."""

    title: str
    meaning: str
    cells: Sequence[tuple[str, str]]
    """Of each round: the number, and a smaller text below it."""


@dataclass(frozen=True, kw_only=True)
class _Rounds:
    """All that is known of the start and the rounds."""

    loop: LoopRecipe
    root: Path
    figures: Sequence[Mapping[str, Any]]
    """Of the start and each round."""
    entries: Sequence[Mapping[str, Entry]]
    """Of each of them, by the name of the stage."""

    def names(self) -> list[str]:
        return ["start", *(f"round {number}" for number in range(1, len(self.figures)))]

    def metrics(self) -> list[str]:
        """Figures of the exam that are shown: the one that chooses first."""
        exam = self.loop.exam
        if exam is None:
            return []
        there = dict.fromkeys(name for one in self.figures for name in one["exam"])
        asked = [f"{_name(bench.bench)}/{metric}" for bench in exam.benches for metric in bench.metrics]
        for bench in exam.benches:
            own = [name for name in there if name.startswith(f"{_name(bench.bench)}/")]
            known = [f"scenes/{metric}" for metric in _SCENES] if bench.bench == "scenes" else own
            asked += [] if bench.metrics else known
        return [name for name in dict.fromkeys([exam.best, *asked]) if name in there][:_MOST_METRICS]

    def values(self, *path: str) -> list[float]:
        """One figure of every round; not a number where a round has none."""
        return [_at(one, path) for one in self.figures]


def write_page(root: Path, loop: LoopRecipe, state: State, last: int) -> Path:
    """Writes ``report.html``.

    Args:
        root: folder of the loop.
        loop: its recipe.
        state: how far it is.
        last: newest round that is finished; 0: the start is examined.
    """
    numbers = range(last + 1)
    rounds = _Rounds(
        loop=loop,
        root=root,
        figures=[read_figures(root / f"round-{number}") for number in numbers],
        entries=[_entries(state, number) for number in numbers],
    )
    best = last if state.best is None else state.best.round
    rows = _compared(rounds, best)
    page = fill_template(
        "loop.html.j2",
        {"number": number, "bounds": bounds, "embed": embed},
        loop_name=loop.name,
        notes=_notes(rounds, state),
        rows=[(row, Markup(interval_bar(row))) for row in rows],
        signs=SIGNS,
        best=best,
        names=rounds.names(),
        columns=_columns(rounds),
        charts=[(curve, Markup(svg)) for curve in _curves(rounds) if (svg := chart(curve))],
        gallery=_gallery(rounds),
        compared=_pairs_gallery(pairs_of(root / f"round-{last}")),
        last=last,
        pieces=pieces,
        details=[Detail(title="Recipe (loop.yaml)", text=dump_loop(loop))],
    )
    replace_file(root / "report.html", page)
    return root / "report.html"


def _notes(rounds: _Rounds, state: State) -> list[str]:
    loop, done = rounds.loop, len(rounds.figures) - 1
    method, algorithm = loop.method.name, loop.algorithm["name"]
    notes = [
        f"Each round the model of the round before answers, its answers are compared ({method}), and it is trained on "
        f"the comparisons ({algorithm}) with itself as reference. It starts from {loop.model.path}; {done} of "
        f"{loop.rounds} rounds are done. " + (f"Ended: {state.ended}." if state.ended else "It has not ended.")
    ]
    if state.best is not None:
        best = f"round {state.best.round}" if state.best.round else "the start: no round is better than it"
        notes.append(
            f"Best by {state.best.figure} on held-out questions: {best}. These questions chose it, so that its "
            "figure flatters it a little: report the best model on others."
        )
    spent = list(state.entries.values())
    gpu = sum(entry.gpu_seconds for entry in spent)
    tokens = sum(value for value in rounds.values("answers", "tokens") if not math.isnan(value))
    trained = sum(value for value in rounds.values("train", "num_tokens") if not math.isnan(value))
    notes.append(
        f"Cost in all: {clock(sum(entry.seconds for entry in spent))} by the clock, "
        f"{clock(sum(entry.cpu_seconds for entry in spent))} of processors"
        + (f", {clock(gpu)} of GPUs" if gpu else "")
        + f"; {tokens:,.0f} tokens sampled, {trained:,.0f} trained on. What a killed call had spent on a stage when it "
        "died is not in it."
    )
    return notes


def _compared(rounds: _Rounds, best: int) -> list[Row]:
    """The start against the best round, paired on the same questions: the metrics that are shown."""
    if not best:
        return []
    shown, rows = rounds.metrics(), list[Row]()
    sides = [{one.result.bench: one for one in results_of(rounds.root / f"round-{n}/exam")} for n in (0, best)]
    for bench, after in sides[1].items():
        names = [name.partition("/")[2] for name in shown if name.partition("/")[0] == bench]
        found = [change for change in changes([sides[0][bench]], [after]) if change.metric in names]
        rows += change_rows(sorted(found, key=lambda change: names.index(change.metric)), after.result)
    return rows


def _columns(rounds: _Rounds) -> list[Column]:
    columns = []
    for metric in rounds.metrics():
        cells = [_measured(one["exam"].get(metric)) for one in rounds.figures]
        way = {"lower": " ↓", "higher": " ↑"}.get(direction(metric), "")
        columns.append(Column(title=f"{metric.partition('/')[2]}{way}", meaning="held out", cells=cells))
    trained = [f"{value:,.0f} trained" for value in rounds.values("train", "num_tokens")]
    asked = [f"of {value:,.0f} prompts" for value in rounds.values("answers", "prompts")]
    shown: list[tuple[str, str, list[float], str, list[str]]] = [
        ("pairs", "made", rounds.values("pairs", "pairs"), ",.0f", asked),
        ("chosen", "reward", rounds.values("pairs", "chosen_reward"), ".3g", _words(rounds, "chosen")),
        ("rejected", "reward", rounds.values("pairs", "rejected_reward"), ".3g", _words(rounds, "rejected")),
        ("margin", "trained", rounds.values("train", "rewards/margins"), ".3g", _accuracy(rounds)),
        ("KL", "nats a token", rounds.values("kl", "kl"), ".3g", []),
        ("tokens", "sampled", rounds.values("answers", "tokens"), ",.0f", trained),
    ]
    for title, meaning, values, form, below in shown:
        if any(not math.isnan(value) for value in values):
            notes = below or [""] * len(values)
            cells = [_cell(value, form, note) for value, note in zip(values, notes, strict=True)]
            columns.append(Column(title=title, meaning=meaning, cells=cells))
    return [*columns, _time(rounds)]


def _time(rounds: _Rounds) -> Column:
    cells = []
    for entries in rounds.entries:
        gpu = sum(entry.gpu_seconds for entry in entries.values())
        spent = clock(sum(entry.cpu_seconds for entry in entries.values()))
        below = f"GPU {clock(gpu)}" if gpu else f"CPU {spent}"
        cells.append((clock(sum(entry.seconds for entry in entries.values())), below))
    return Column(title="time", meaning="by the clock", cells=cells)


def _curves(rounds: _Rounds) -> list[Curve]:
    """Charts over the rounds; one without two points, or with one value, says nothing that the table does not."""
    curves = [
        _curve(metric.replace("/", ": "), "", {metric: [_at(one["exam"], (metric, "value")) for one in rounds.figures]})
        for metric in rounds.metrics()
    ]
    sides = ("chosen", "rejected")
    curves += [
        _curve("Reward of the pairs", "", {side: rounds.values("pairs", f"{side}_reward") for side in sides}),
        _curve("Length of the pairs", "words", {side: rounds.values("pairs", f"{side}_words") for side in sides}),
        _curve("Margin late in training", "units of reward", {"margin": rounds.values("train", "rewards/margins")}),
        _curve("Pairs ranked right late in training", "share", {"right": rounds.values("train", "rewards/accuracies")}),
        _curve("KL divergence to the start", "nats a token", {"kl": rounds.values("kl", "kl")}),
    ]
    shown = [
        curve
        for curve in curves
        if max(map(_points, curve.lines), default=0) > 1 and not all(map(is_flat, curve.lines))
    ]
    return [*shown, *_stage_times(rounds)]


def _curve(title: str, unit: str, lines: Mapping[str, Sequence[float]]) -> Curve:
    drawn = [Line(name=name, x=range(len(values)), y=values) for name, values in lines.items()]
    return Curve(title=title, lines=drawn, x_label="round", y_label=unit, noisy=False, counted=True)


def _stage_times(rounds: _Rounds) -> list[Curve]:
    """What each stage took in every round, on each other."""
    numbers = range(1, len(rounds.entries))
    names = list(dict.fromkeys(name for entries in rounds.entries[1:] for name in entries))
    if len(numbers) < 2:
        return []
    lines = [
        Line(name=name, x=numbers, y=[_seconds(rounds.entries[number], [name]) for number in numbers])
        for name in names[: _BANDS - 1]
    ]
    if rest := names[_BANDS - 1 :]:
        lines.append(Line(name="rest", x=numbers, y=[_seconds(rounds.entries[n], rest) for n in numbers]))
    curve = Curve(title="Time by stage", lines=lines, x_label="round", y_label="seconds", noisy=False)
    return [replace(curve, stacked=True, counted=True)]


def _gallery(rounds: _Rounds) -> list[GalleryItem]:
    """Questions whose answers got better or worse over the rounds, those of the largest change first."""
    last = len(rounds.figures) - 1
    shown = sorted({0, last, *(round(last * part / (_MOST_ROUNDS - 1)) for part in range(_MOST_ROUNDS))})
    names = rounds.names()
    rows: dict[str, list[tuple[str, Graded]]] = {}
    for place in shown:
        for measured in results_of(rounds.root / f"round-{place}/exam"):
            for row in measured.result.graded:
                rows.setdefault(f"{measured.result.bench}/{row.id}", []).append((names[place], row))
    whole = sorted((sides for sides in rows.values() if len(sides) == len(shown)), key=_interest, reverse=True)
    of_pictures = {sides[0][1].cluster: sides for sides in reversed(whole)}  # of each picture the most interesting
    return [graded_item(sides) for sides in sorted(of_pictures.values(), key=_interest, reverse=True)[:_MOST_ITEMS]]


def _interest(sides: Sequence[tuple[str, Graded]]) -> tuple[float, int]:
    """How much an error changed, and how many words there are to see."""
    errors = [float(row.details.get("error", 0.0)) for _, row in sides]
    said = {str(row.details.get("answer", "")) for _, row in sides}
    return max(errors) - min(errors), sum(len(text.split()) for text in said) if len(said) > 1 else 0


def _pairs_gallery(path: Path | None) -> list[GalleryItem]:
    """The first comparisons of a round."""
    groups = [] if path is None else read_groups(path, growing=True)
    return gallery_of(itertools.islice(groups, _MOST_ITEMS // 2))


def _entries(state: State, number: int) -> dict[str, Entry]:
    start = f"round-{number}/"
    return {name.removeprefix(start): entry for name, entry in state.entries.items() if name.startswith(start)}


def _at(values: Any, path: Sequence[str]) -> float:
    for name in path:
        values = values.get(name) if isinstance(values, dict) else None
    return math.nan if values is None else float(values)


def _measured(found: Mapping[str, Any] | None) -> tuple[str, str]:
    if found is None or found["value"] is None:
        return "–", ""
    below = "" if found["low"] is None else f"[{number(found['low'], 'number')}, {number(found['high'], 'number')}]"
    return number(found["value"], "number"), below


def _cell(value: float, form: str, below: str) -> tuple[str, str]:
    return ("–", "") if math.isnan(value) else (format(value, form).replace("-", "−"), below)


def _words(rounds: _Rounds, side: str) -> list[str]:
    return [f"{value:.1f} words" for value in rounds.values("pairs", f"{side}_words")]


def _accuracy(rounds: _Rounds) -> list[str]:
    return [
        "" if math.isnan(value) else f"{100 * value:.0f} % right"
        for value in rounds.values("train", "rewards/accuracies")
    ]


def _seconds(entries: Mapping[str, Entry], names: Sequence[str]) -> float:
    return sum(entries[name].seconds for name in names if name in entries)


def _points(line: Line) -> int:
    return sum(not math.isnan(value) for value in line.y)


def _name(bench: str) -> str:
    """What the figures of a benchmark stand under."""
    return load_bench(bench).name

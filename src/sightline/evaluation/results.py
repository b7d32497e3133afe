"""Results on disk: figures with intervals in ``results.json``, the rows they are made of in ``graded.jsonl``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from sightline.display import table
from sightline.errors import DataError
from sightline.evaluation.answers import StoredAnswer
from sightline.evaluation.bench import Better, Graded, Result, direction
from sightline.evaluation.formulas import category_intervals, differences, intervals
from sightline.evaluation.json_files import LONE_SURROGATES
from sightline.evaluation.statistics import Interval
from sightline.files import replace_file

RESULTS: Final = "results.json"
_MOST_LENGTHS: Final = 6
"""Categories whose lengths are told apart."""
_MOST_DECIMALS: Final = 4
_Z: Final = 1.959963984540054
"""Half-width of a 95 % interval in standard errors, for tables that want an error instead of an interval."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A result with its intervals, and who was measured how."""

    result: Result
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    category_intervals: Mapping[str, Mapping[str, Interval]] = field(default_factory=dict)
    """Category to metric to interval, where there is one: see ``formulas.category_intervals``."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Plain JSON: model, adapter, decoding, length of the answers, judge and its costs."""

    @property
    def metrics(self) -> Mapping[str, float]:
        """Metric to value."""
        return self.result.metrics

    @property
    def title(self) -> str:
        """Benchmark, protocol and how many answers."""
        failed = f", {self.result.failures} failures" if self.result.failures else ""
        return f"{self.result.bench} ({self.result.protocol}), {len(self.result.graded)} answers{failed}"

    def __repr__(self) -> str:
        cells = figure_cells(self)
        wide = max((len(name) for name, *_ in cells), default=0)
        lines = [f"  {name.ljust(wide)}  {value}  {bounds}".rstrip() for name, value, bounds in cells]
        return "\n".join([self.title, *lines])

    def _repr_html_(self) -> str:
        notes = [*self.result.notes, f"Length of answers: {length_words(self) or 'not known'}"]
        return table(("metric", "value", "95 % interval"), figure_cells(self), title=self.title, notes=notes)


def measure(result: Result, facts: Mapping[str, Any] | None = None, *, seed: int = 0) -> Measured:
    """Adds bootstrap intervals to the figures that are formulas of counts, and the length of answers by category."""
    found = intervals(result.formulas, result.graded, seed=seed)
    return Measured(
        result=result,
        intervals=found,
        category_intervals=category_intervals(result, seed=seed),
        facts={**(facts or {}), "words": _words(result.graded)},
    )


def figure_cells(measured: Measured) -> list[tuple[str, str, str]]:
    """Each figure as its protocol prints it, and its interval as precise; empty where it has none."""
    cells = []
    for name, value in measured.result.metrics.items():
        shown = measured.result.metrics_printed.get(name, f"{value:.4g}")
        decimals = len(shown.partition(".")[2].rstrip("% "))
        if decimals > _MOST_DECIMALS:  # a script that prints a float as it is; the results file has all of it
            shown, decimals = f"{value:.{_MOST_DECIMALS}f}", _MOST_DECIMALS
        found = measured.intervals.get(name)
        defined = found is not None and not math.isnan(found.low)
        bounds = f"[{found.low:.{decimals}f}, {found.high:.{decimals}f}]" if found is not None and defined else ""
        cells.append((name, shown, bounds))
    return cells


def length_facts(answers: Sequence[StoredAnswer]) -> dict[str, float]:
    """How long the answers are: longer text hallucinates more, so this stands beside every figure.

    Words are separated by blanks. Tokens and the share cut at the limit are there if the harness generated.
    """
    count = max(1, len(answers))
    facts = {
        "answers": float(len(answers)),
        "mean_words": sum(len(one.answer.text.split()) for one in answers) / count,
        "empty": sum(not one.answer.text.strip() for one in answers) / count,
    }
    tokens = [one.tokens for one in answers if one.tokens is not None]
    if len(tokens) == len(answers) and answers:
        facts |= {"mean_tokens": sum(tokens) / count, "cut": sum(one.cut for one in answers) / count}
    return facts


def length_words(measured: Measured) -> str:
    """``generative 9.1 words, existence 1.0``, or one mean where there is one category, or too many."""
    words = measured.facts.get("words", {})
    if 1 < len(words) <= _MOST_LENGTHS:
        (first, mean), *others = words.items()
        return ", ".join([f"{first} {mean:.1f} words", *(f"{name} {mean:.1f}" for name, mean in others)])
    length = measured.facts.get("length", {})
    return f"{length['mean_words']:.1f} words" if length else ""


def picture_words(measured: Measured) -> str:
    """How pictures were made ready, and what of it is not as saved with the model: figures depend on it."""
    saved = measured.facts.get("pictures_saved", {})
    parts = []
    for name, value in measured.facts.get("pictures", {}).items():
        other = f" (saved with the model: {_value(saved[name])})" if name in saved else ""
        parts.append(f"{name} {_value(value)}{other}")
    return ", ".join(parts)


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name} {number}" for name, number in value.items())
    return str(value).lower()


def _words(graded: Sequence[Graded]) -> dict[str, float]:
    """Mean number of words by category: a caption and a yes/no answer have no length in common."""
    lengths: dict[str, list[int]] = {}
    for row in graded:
        if "answer" in row.details and row.details.get("category"):
            lengths.setdefault(str(row.details["category"]), []).append(len(str(row.details["answer"]).split()))
    return {category: sum(words) / len(words) for category, words in lengths.items()}


def write_measured(measured: Measured, path: Path) -> Path:
    """Writes ``path`` and, beside it, ``<stem>.graded.jsonl``.

    The file has the layout that tables made for lmms-eval read (``results``, ``configs``, ``n-samples``), and our
    own under ``sightline``. A standard error there is the half-width of the 95 % interval over 1.96.
    """
    result = measured.result
    document = json.dumps(results_document(measured), indent=2, ensure_ascii=False) + "\n"
    rows = (json.dumps(vars(row), ensure_ascii=False, default=_plain) + "\n" for row in result.graded)
    replace_file(graded_path(path), "".join(rows), errors=LONE_SURROGATES)
    replace_file(path, document, errors=LONE_SURROGATES)  # last: where it is, the graded answers are
    return path


def results_document(measured: Measured) -> dict[str, Any]:
    """What stands in a results file."""
    return {**lmms_eval_table([measured]), "sightline": _document(measured)}


def results_path(folder: Path, protocol: str, *, there: bool = False) -> Path:
    """Where the results of a protocol stand: ``results.json``, or where that is of another, ``results.PROTOCOL.json``.

    Args:
        folder: Of the benchmark.
        protocol: Under which it was graded.
        there: Only a file that exists will do; ``results.json`` where none is of this protocol.
    """
    first, own = folder / RESULTS, folder / f"results.{protocol}.json"
    try:
        found = json.loads(first.read_text(encoding="utf-8"))["sightline"]["protocol"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # there is none, or none that can be kept
        return first
    return first if found == protocol or (there and not own.is_file()) else own


def graded_path(path: Path) -> Path:
    """Where the rows of a results file stand."""
    return path.with_name(f"{path.stem}.graded.jsonl")


def read_measured(path: Path) -> Measured:
    """Reads a results file, or the ``results.json`` of a folder.

    Raises:
        DataError: It is no results file of ours, or its rows are missing.
    """
    path = path / RESULTS if path.is_dir() else path
    if not path.is_file():
        remedy = "Give a results file of `sightline eval`, or the folder that holds results.json"
        raise DataError("the file does not exist", source=str(path), remedy=remedy)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))["sightline"]
        with graded_path(path).open(encoding="utf-8") as file:
            graded = [Graded(**json.loads(line)) for line in file]
        return _measured(document, graded)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"is no whole result ({type(error).__name__}: {error!s:.200})",
            source=str(path),
            remedy="Give a file that `sightline eval` wrote, with its .graded.jsonl beside it",
        ) from error


def _measured(document: Mapping[str, Any], graded: Sequence[Graded]) -> Measured:
    figures = document["metrics"]
    result = Result(
        bench=document["bench"],
        protocol=document["protocol"],
        metrics={name: _number(figure["value"]) for name, figure in figures.items()},
        metrics_printed={name: figure["printed"] for name, figure in figures.items()},
        by_category=document["by_category"],
        graded=graded,
        notes=document["notes"],
        failures=document["failures"],
        formulas={name: figure["formula"] for name, figure in figures.items() if figure["formula"]},
        better={name: figure["better"] for name, figure in figures.items()},
    )
    found = {name: Interval(**figure["interval"]) for name, figure in figures.items() if figure["interval"]}
    by_category = {
        category: {name: Interval(**bounds) for name, bounds in values.items()}
        for category, values in document.get("category_intervals", {}).items()
    }
    return Measured(result=result, intervals=found, category_intervals=by_category, facts=document["facts"])


def lmms_eval_table(all_measured: Sequence[Measured]) -> dict[str, Any]:
    """Results of one model in the layout of lmms-eval's ``results.json``: ``results[task]["metric,filter"]``."""
    table: dict[str, Any] = {"results": {}, "configs": {}, "versions": {}, "n-shot": {}, "n-samples": {}}
    table |= {"higher_is_better": {}, "group_subtasks": {}}
    for measured in all_measured:
        result, task = measured.result, f"{measured.result.bench}_{measured.result.protocol.replace('-', '_')}"
        row: dict[str, Any] = {"alias": task}
        for name, value in result.metrics.items():
            row[f"{name},none"] = _json(value)
            found = measured.intervals.get(name)
            row[f"{name}_stderr,none"] = "N/A" if found is None else _json((found.high - found.low) / (2 * _Z))
        ways = {name: direction(name, result.better) for name in result.metrics}
        table["higher_is_better"][task] = {name: way == "higher" for name, way in ways.items() if way != "neither"}
        table["group_subtasks"][task] = []
        table["results"][task] = row
        table["configs"][task] = {"task": task, "metadata": {"protocol": result.protocol}}
        table["versions"][task], table["n-shot"][task] = result.protocol, 0
        table["n-samples"][task] = {"original": len(result.graded), "effective": len(result.graded)}
        table["config"] = {"model": measured.facts.get("model"), "model_args": measured.facts.get("adapter")}
    return table


@dataclass(frozen=True, kw_only=True)
class Change:
    """One figure before and after."""

    metric: str
    before: Interval
    after: Interval
    difference: Interval
    better: Better


def changes(
    before: Sequence[Measured], after: Sequence[Measured], *, seed: int = 0, resamples: int = 2000
) -> list[Change]:
    """Is after better than before, and by how much: every figure that is a formula of counts, paired.

    Several results on a side are several seeds: their answers are pooled, those about one picture stay together.
    Of one result on a side the figure itself is shown, with what its script rounds; intervals are of the formulas.
    Answers that could not be graded on one side are left out of both.

    Raises:
        DataError: Benchmark, protocol, number of seeds or questions differ.
    """
    _check_alike([*before, *after])
    if len(before) != len(after):
        raise DataError(
            f"{len(before)} results stand against {len(after)}", remedy="Give both sides equally many seeds"
        )
    formulas = before[0].result.formulas
    old, new = _without_failures(before, after)
    paired = differences(formulas, old, new, seed=seed, resamples=resamples)
    sides = [intervals(formulas, rows, seed=seed, resamples=resamples) for rows in (old, new)]
    # what the script gives, rounded on its way where it rounds: the figure that stands in the result
    whole = len(before) == 1 and len(old) == len(before[0].result.graded) and len(new) == len(after[0].result.graded)
    given = [one.result.metrics if whole else {} for one in (before[0], after[0])]
    found = []
    for name in formulas:
        left, right = (
            replace(side[name], value=figures.get(name, side[name].value))
            for side, figures in zip(sides, given, strict=True)
        )
        if math.isnan(left.value) or math.isnan(right.value):
            continue
        difference = replace(paired[name], value=right.value - left.value)
        better = direction(name, before[0].result.better)
        found.append(Change(metric=name, before=left, after=right, difference=difference, better=better))
    return found


def _without_failures(before: Sequence[Measured], after: Sequence[Measured]) -> tuple[list[Graded], list[Graded]]:
    """The rows of both sides without what a judge failed on, on either: it is missing, or says ``problem``.

    No more may be missing than failed, or the sides answer different questions and are left as they are.
    """
    old, new = _pooled(before), _pooled(after)
    old_ids, new_ids = {row.id for row in old}, {row.id for row in new}
    failed = [sum(one.result.failures for one in side) for side in (before, after)]
    if len(new_ids - old_ids) > failed[0] or len(old_ids - new_ids) > failed[1]:
        return old, new
    both = (old_ids & new_ids) - {row.id for row in (*old, *new) if "problem" in row.details}
    if (old or new) and not both:
        raise DataError("no answer was graded on both sides", remedy="Check the judge, and grade both again")
    return [row for row in old if row.id in both], [row for row in new if row.id in both]


def _check_alike(results: Sequence[Measured]) -> None:
    kinds = sorted({f"{one.result.bench} ({one.result.protocol})" for one in results})
    if len(kinds) > 1:
        raise DataError(f"the results are of {' and '.join(kinds)}", remedy="Compare one benchmark under one protocol")
    judges = sorted({str(one.facts.get("judge", {}).get("name", "none")) for one in results})
    if len(judges) > 1:
        raise DataError(
            f"the results were graded by the judges {' and '.join(judges)}", remedy="Grade both with the same judge"
        )


def _pooled(results: Sequence[Measured]) -> list[Graded]:
    if len(results) == 1:
        return list(results[0].result.graded)
    return [
        Graded(id=f"{row.id}#{number}", cluster=row.cluster, counts=row.counts, details=row.details)
        for number, one in enumerate(results)
        for row in one.result.graded
    ]


def _document(measured: Measured) -> dict[str, Any]:
    result = measured.result
    figures = {
        name: {
            "value": _json(value),
            "printed": result.metrics_printed.get(name, f"{value:.4g}"),
            "interval": _bounds(measured.intervals.get(name)),
            "formula": result.formulas.get(name, ""),
            "better": direction(name, result.better),
        }
        for name, value in result.metrics.items()
    }
    return {
        "bench": result.bench,
        "protocol": result.protocol,
        "metrics": figures,
        "by_category": {
            category: {name: _json(value) for name, value in values.items()}
            for category, values in result.by_category.items()
        },
        "category_intervals": {
            category: {name: bounds for name, one in values.items() if (bounds := _bounds(one))}
            for category, values in measured.category_intervals.items()
        },
        "failures": result.failures,
        "notes": list(result.notes),
        "facts": dict(measured.facts),
    }


def _bounds(found: Interval | None) -> dict[str, float] | None:
    if found is None or any(math.isnan(value) for value in vars(found).values()):
        return None
    return dict(vars(found))


def _json(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _plain(value: Any) -> Any:
    """Mappings, tuples and numpy numbers of a row as JSON."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (tuple, set, frozenset)):
        return list(value)
    return float(value)

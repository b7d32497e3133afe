"""The report of a training run, from the files of its run directory alone."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from markupsafe import Markup

from sightline.data.shown import ShownRow, read_rows, short_name
from sightline.display import embed
from sightline.errors import CheckpointError
from sightline.files import replace_file
from sightline.report.evaluation import is_picture
from sightline.report.page import Detail, pieces
from sightline.report.run_overview import TIME, facts, samples, where_samples_come_from
from sightline.report.svg import Curve, Line, chart
from sightline.report.table import bounds, number
from sightline.report.templates import fill_template

Records = Sequence[dict[str, Any]]

_CHARTS: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("Loss", "", {"loss": "loss"}),
    ("Negative log-likelihood of a token", "nats", {"nll": "nll"}),
    ("Reward of the samples", "", {"reward": "mean", "reward_std": "deviation within a prompt"}),
    ("Preference accuracy", "share of pairs", {"rewards/accuracies": "accuracy"}),
    ("Reward margin", "units of reward", {"rewards/margins": "margin"}),
    ("Implicit rewards", "units of reward", {"rewards/chosen": "chosen", "rewards/rejected": "rejected"}),
    ("Log-probability of the answers", "nats", {"logps/chosen": "chosen", "logps/rejected": "rejected"}),
    (
        "Does it look? Margin that training added, and what of it another picture takes away",
        "nats",
        {"looking/margin": "margin", "looking/other": "another picture", "looking/blank": "a white one"},
    ),
    (
        "Does it look? The same of the policy as it is",
        "nats",
        {
            "looking/policy/margin": "margin",
            "looking/policy/other": "another picture",
            "looking/policy/blank": "a white one",
        },
    ),
    ("Values and returns", "units of reward", {"val/mean": "value", "returns/mean": "return"}),
    ("Error of the critic", "units of reward, squared", {"val/error": "error"}),
    ("KL divergence", "nats", {"kl": "kl"}),
    ("KL divergence of an answer", "nats", {"objective/kl": "kl"}),
    ("Entropy", "nats", {"entropy": "entropy"}),
    ("Length of the answers", "tokens", {"length/chosen": "chosen", "length/rejected": "rejected"}),
    (
        "Length of the samples",
        "tokens",
        {
            "completions/mean_length": "mean",
            "completions/min_length": "least",
            "completions/max_length": "greatest",
        },
    ),
    (
        "Length of the samples that ended",
        "tokens",
        {
            "completions/mean_terminated_length": "mean",
            "completions/min_terminated_length": "least",
            "completions/max_terminated_length": "greatest",
        },
    ),
    ("Samples cut at the limit", "share", {"completions/clipped_ratio": "cut"}),
    ("Prompts whose answers all have one reward", "share", {"frac_reward_zero_std": "prompts"}),
    (
        "Clipped by the ratio",
        "share",
        {
            "clip_ratio/low_mean": "below",
            "clip_ratio/high_mean": "above",
            "clip_ratio/region_mean": "either",
        },
    ),
    (
        "Sampler and trainer: difference of log-probabilities",
        "nats",
        {"sampling/sampling_logp_difference/mean": "mean", "sampling/sampling_logp_difference/max": "greatest"},
    ),
    ("Gradient norm", "", {"grad_norm": "before clipping"}),
    ("Learning rate", "", {"learning_rate": "learning rate"}),
    ("Speed", "tokens per second", {"tokens_per_second": "tokens"}),
)
"""Charts in the order they are shown: title, unit, and metric to name in the legend. Of each metric, ``eval/`` and the
same name is the one of held-out rows."""
_PARTS: tuple[tuple[str, str, str], ...] = (
    ("loss/", "", "Loss by term"),
    ("rewards/accuracies/", "", "Pairs ranked right, by kind"),
    ("rewards/margins/", "", "Reward margin by kind"),
    ("rewards/", "/mean", "Terms of the reward, mean"),
    ("rewards/", "/std", "Terms of the reward, deviation"),
    ("groups/", "", "Groups taken, by source"),
    ("negatives/", "", "Pairs by what became of their negative picture"),
)
"""Metrics that are parts of another one, by start and end of their names: one chart, if there are two or more."""
_LINES = 4
"""Most lines of a chart."""
_SAME = 1e-6
"""Relative difference that is rounding."""
_HELD_OUT = "eval/"
_INTERVALS = {f"looking/{picture}/{end}" for picture in ("blank", "other") for end in ("low", "high")}
_NOT_CHARTED = frozenset({"step", "epoch", "seconds", "num_tokens", "looking/blind", *_INTERVALS})
_DETAILS = (
    ("First row as the model sees it", "first_row.txt"),
    ("Recipe", "recipe.yaml"),
    ("Environment", "environment.json"),
    ("Bad rows", "bad_rows.jsonl"),
)
"""Files of a run directory that the page shows."""


def report_run(run_dir: str | Path, out: str | Path | None = None) -> Path:
    """Write the report of one training run.

    Args:
        run_dir: Holds ``metrics.jsonl``; ``recipe.yaml``, ``environment.json`` and ``samples.jsonl`` are
            shown where they are there.
        out: The page; None: ``report.html`` in the run directory.

    Raises:
        CheckpointError: The folder is no run directory, or nothing was logged yet.
    """
    run_dir = Path(run_dir)
    metrics = run_dir / "metrics.jsonl"
    if not metrics.is_file():
        below = sorted(one.parent for depth in ("*", "*/*") for one in run_dir.glob(f"{depth}/metrics.jsonl"))
        other = run_dir / "report.html"
        remedy = "Expected the output_dir of a training run; "
        remedy += f"there is one below it: {below[-1]}" if below else "`sightline train` makes one"
        own = f" The page of this folder itself is {other}." if other.is_file() else ""
        raise CheckpointError(f"{run_dir}: found no metrics.jsonl. {remedy}.{own}")
    records = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    if not records:
        raise CheckpointError(f"{metrics}: found no logged step. Train for at least train.log_every steps.")
    galleries = samples(run_dir)
    page = fill_template(
        "run.html.j2",
        {"embed": embed, "number": number, "bounds": bounds},
        title=f"Training run: {run_dir.resolve().name}",
        summary=_summary(records, run_dir),
        facts=facts(records, run_dir),
        rows=_rows(run_dir),
        name_of=short_name,
        galleries=galleries,
        no_samples="" if galleries else where_samples_come_from(run_dir),
        pieces=pieces,
        charts=[(curve, Markup(svg)) for curve in training_curves(records) if (svg := chart(curve))],
        details=[*_flat_figures(records), *_details(run_dir)],
    )
    path = run_dir / "report.html" if out is None else Path(out)
    replace_file(path, page, errors="replace")
    return path


def training_curves(records: Records, *, prefix: str = "") -> list[Curve]:
    """Charts of what a run logged: the well-known metrics first, then all others by name.

    What never changed is left out (:func:`unchanged`), and curves that are the same are one chart with both titles.

    Args:
        records: Lines of ``metrics.jsonl``.
        prefix: Stands before every title (``DPO: ``), where one page shows several runs.
    """
    shown: list[Curve] = []
    for curve, _ in _charts(records):
        if all(map(is_flat, curve.lines)):
            continue
        twin = next((index for index, earlier in enumerate(shown) if _are_same(earlier, curve)), None)
        if twin is None:
            shown.append(replace(curve, title=f"{prefix}{curve.title}"))
        else:
            first = shown[twin]
            unit = first.y_label or curve.y_label
            shown[twin] = replace(first, title=f"{first.title} = {curve.title}", y_label=unit)
    if spent := _time(records):
        title = f"{prefix}Time of a step by part"
        shown.append(Curve(title=title, lines=spent, y_label="seconds", stacked=True, counted=True))
    return shown


def unchanged(records: Records) -> dict[str, float]:
    """Metrics with one value throughout, or that were logged once, and that value: a chart of them says no more."""
    flat = {name for curve, names in _charts(records) if all(map(is_flat, curve.lines)) for name in names}
    return {name: _last(records, name) for name in sorted(flat)}


def _charts(records: Records) -> Iterator[tuple[Curve, Sequence[str]]]:
    """Each chart, and the metrics in it."""
    names = {name for record in records for name, value in record.items() if type(value) in (int, float)}
    names = {name for name in names if not name.startswith(TIME)}
    for title, unit, metrics in _layout({name.removeprefix(_HELD_OUT) for name in names} - _NOT_CHARTED):
        trained = {name: label for name, label in metrics.items() if name in names}
        held_out = {f"{_HELD_OUT}{name}": label for name, label in metrics.items() if f"{_HELD_OUT}{name}" in names}
        if len(metrics) == 1 and held_out:  # side by side
            lines = dict.fromkeys(trained, "training") | dict.fromkeys(held_out, "held out")
            sides = [(title, lines)]
        else:
            sides = [(title, trained), (f"{title}, held out", held_out)]
        for heading, lines in sides:
            if lines:
                drawn = [_line(records, metric, label) for metric, label in lines.items()]
                noisy = "learning_rate" not in lines
                yield Curve(title=heading, lines=drawn, y_label=unit, noisy=noisy, counted=True), list(lines)


def _layout(names: set[str]) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Title, unit, and metric to label of every chart that some of the metrics are for."""
    left = set(names)
    for title, unit, metrics in _CHARTS:
        if found := {name: label for name, label in metrics.items() if name in left}:
            left -= found.keys()
            yield title, unit, found
    for start, end, title in _PARTS:
        members = sorted(name for name in left if name.startswith(start) and name.endswith(end))
        left -= set(members)
        charts = [members[first : first + _LINES] for first in range(0, len(members), _LINES)]
        for place, some in enumerate(charts if len(members) > 1 else (), 1):
            which = f" ({place} of {len(charts)})" if len(charts) > 1 else ""
            yield f"{title}{which}", "", {name: name.removeprefix(start).removesuffix(end) for name in some}
    for name in sorted(left):
        yield name, "", {name: name}


def not_finite(records: Records) -> str:
    """Which curves have gaps, and from where on: a chart shows the finite values alone. Empty: none has."""
    told = []
    for curve, _ in _charts(records):
        for line in curve.lines:
            steps = [step for step, value in zip(line.x, line.y, strict=True) if not math.isfinite(value)]
            name = curve.title if len(curve.lines) == 1 else f"{curve.title} ({line.name})"
            if steps:
                told.append(f"{name} in {len(steps)} of {len(line.y)} records, first at step {steps[0]:g}")
    return f"Not a finite number: {'; '.join(told)}." if told else ""


def is_flat(line: Line) -> bool:
    """Whether it is one value throughout: a chart of it says no more."""
    values = [value for value in line.y if math.isfinite(value)]
    return not values or max(values) - min(values) <= _SAME * max(map(abs, values))


def _are_same(one: Curve, other: Curve) -> bool:
    """Whether two charts show the same numbers."""
    pairs = list(zip(one.lines, other.lines, strict=False))
    return len(one.lines) == len(other.lines) and all(
        list(a.x) == list(b.x) and all(math.isclose(*values, rel_tol=_SAME) for values in zip(a.y, b.y, strict=True))
        for a, b in pairs
    )


def _last(records: Records, name: str) -> float:
    value: float = next(record[name] for record in reversed(records) if type(record.get(name)) in (int, float))
    return value


def _line(records: Records, metric: str, label: str) -> Line:
    logged = [record for record in records if type(record.get(metric)) in (int, float)]
    return Line(name=label, x=[record["step"] for record in logged], y=[record[metric] for record in logged])


def _time(records: Records) -> list[Line]:
    """What each part of a step took, in the order of a step; parts that took nothing are left out."""
    logged = [record for record in records if f"{TIME}rest" in record]
    parts = [name for name in logged[-1] if name.startswith(TIME)] if logged else []
    lines = [_line(logged, name, name.removeprefix(TIME).replace("_", " ")) for name in parts]
    return [line for line in lines if any(line.y)] if len(logged) > 1 else []


def _summary(records: Records, run_dir: Path) -> str:
    logged = {name for record in records for name, value in record.items() if type(value) in (int, float)}
    named = ("loss", "eval/loss", "rewards/accuracies", "reward")
    shown = [f"{name} {_last(records, name):.4g}" for name in named if name in logged]
    steps = records[-1]["step"]
    done = f"{steps} optimizer step{'' if steps == 1 else 's'}"
    gaps = f" {broken}" if (broken := not_finite(records)) else ""
    return f"{done}. Last logged: {', '.join(shown) or 'nothing'}.{gaps} From {run_dir}."


def _flat_figures(records: Records) -> Iterable[Detail]:
    if flat := unchanged(records):
        width = max(map(len, flat))
        text = "\n".join(f"{name.ljust(width)}  {value:.6g}" for name, value in flat.items())
        yield Detail(title=f"Figures with one value throughout ({len(flat)})", text=text)


def _rows(run_dir: Path) -> list[ShownRow]:
    path = run_dir / "first_rows.json"
    rows = read_rows(path) if path.is_file() else []
    return [replace(row, pictures=tuple(one for one in row.pictures if is_picture(one.path))) for row in rows]


def _details(run_dir: Path) -> Iterable[Detail]:
    for title, name in _DETAILS:
        path = run_dir / name
        if path.is_file() and (text := path.read_text(encoding="utf-8")):
            yield Detail(title=f"{title} ({name})", text=text)

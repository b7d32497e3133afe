"""The figures of one round, from the files that its stages left: ``figures.json`` beside them."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sightline.data.schema import read_groups
from sightline.data.trees import read_trees
from sightline.files import read_settings, replace_file
from sightline.loops.common import KL
from sightline.loops.csr import TREES
from sightline.loops.exam import results_of
from sightline.relations.tree import SentenceTree
from sightline.train.metrics import read_metrics
from sightline.types import Group, Response

FIGURES = "figures.json"
_TRAINED = ("loss", "rewards/accuracies", "rewards/margins")
"""Of a training's metrics, as means over the last fifth of the lines."""


def write_figures(folder: Path) -> dict[str, Any]:
    """Counts and means of one round; what it has no file for is left out."""
    found: dict[str, Any] = {"exam": _exam(folder / "exam")}
    if (samples := _made(folder, "samples.jsonl")) is not None:
        found["answers"] = _of_answers(read_groups(samples, growing=True))
    elif (folder / TREES).is_file():
        found["answers"] = _of_trees(read_trees(folder / TREES))
    if (pairs := pairs_of(folder)) is not None:
        found["pairs"] = _of_pairs(list(read_groups(pairs, growing=True)))
    if (folder / "train/metrics.jsonl").is_file():
        records = read_metrics(folder / "train/metrics.jsonl")
        late = records[-math.ceil(len(records) / 5) :]
        found["train"] = {name: _mean(late, name) for name in _TRAINED if name in records[-1]}
        found["train"]["num_tokens"] = records[-1]["num_tokens"]
    if (folder / "kl" / KL).is_file():
        found["kl"] = read_settings(folder / "kl" / KL)
    replace_file(folder / FIGURES, json.dumps(found, indent=1) + "\n")
    return found


def read_figures(folder: Path) -> dict[str, Any]:
    """The figures of a round; made where they are missing."""
    path = folder / FIGURES
    found: dict[str, Any] = read_settings(path) if path.exists() else write_figures(folder)
    return found


def pairs_of(folder: Path) -> Path | None:
    """The comparisons of a round, which its training may have made itself; None: there are none."""
    return _made(folder, "pairs.jsonl")


def _made(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / "train" / name) if path.is_file()), None)


def _mean(records: Sequence[Mapping[str, Any]], name: str) -> float:
    return statistics.fmean(record[name] for record in records if name in record)


def _exam(folder: Path) -> dict[str, Any]:
    """``BENCH/METRIC`` to value and interval; null where there is none."""
    found = {}
    for measured in results_of(folder):
        for name, value in measured.result.metrics.items():
            interval = measured.intervals.get(name)
            bounds = [math.nan] * 2 if interval is None else [interval.low, interval.high]
            low, high = (None if math.isnan(bound) else bound for bound in bounds)
            shown = None if math.isnan(value) else value
            found[f"{measured.result.bench}/{name}"] = {"value": shown, "low": low, "high": high}
    return found


def _of_answers(groups: Iterable[Group]) -> dict[str, Any]:
    prompts = answers = tokens = cut = 0
    for group in groups:
        prompts += 1
        answers += len(group.responses)
        tokens += sum(len(one.tokens or ()) for one in group.responses)
        cut += sum(one.finish_reason == "length" for one in group.responses)
    return {"prompts": prompts, "answers": answers, "tokens": tokens, "cut": cut / max(answers, 1)}


def _of_trees(trees: Iterable[SentenceTree]) -> dict[str, Any]:
    """The same of trees: every sentence was sampled once, however many answers begin with it."""
    prompts = answers = tokens = cut = 0
    for tree in trees:
        ends = [path[-1].final for path in tree.answers()]
        prompts += 1
        answers += len(ends)
        tokens += sum(len(node.tokens) for node in tree.nodes)
        cut += ends.count("length")
    return {"prompts": prompts, "answers": answers, "tokens": tokens, "cut": cut / max(answers, 1)}


def _of_pairs(groups: Sequence[Group]) -> dict[str, Any]:
    """Means over pairs of answers (not of pictures); of groups without comparisons over their answers, as the chosen
    ones."""
    compared = [(group, edge) for group in groups for edge in group.edges]
    pairs = [(g.responses[edge.winner], g.responses[edge.loser]) for g, edge in compared if edge.kind == "text"]
    chosen = [pair[0] for pair in pairs] if compared else [one for group in groups for one in group.responses]
    sides: Mapping[str, Sequence[Response]] = {"chosen": chosen, "rejected": [pair[1] for pair in pairs]}
    found: dict[str, Any] = {"prompts": len(groups), "pairs": len(pairs)}
    for name, answers in sides.items():
        rewards = [one.reward for one in answers if one.reward is not None]
        if answers:
            found[f"{name}_words"] = statistics.fmean(len(one.text.split()) for one in answers)
        if rewards:
            found[f"{name}_reward"] = statistics.fmean(rewards)
    return found

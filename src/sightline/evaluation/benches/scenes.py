"""The benchmark ``scenes``: held-out drawings, one caption and some yes/no questions about each.

Nothing is downloaded: a folder with ``scenes.json`` (``{"seed": 0, "scenes": 300, "questions": 4}``, every key
optional) is the data; the pictures are drawn into its ``images``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sightline.errors import DataError
from sightline.evaluation.bench import (
    Answer,
    Graded,
    Judge,
    Question,
    Result,
    check_options,
    check_protocol,
    match_answers,
)
from sightline.evaluation.json_files import read_json
from sightline.evaluation.submissions import read_answers
from sightline.evaluation.tables import object_of
from sightline.files import replace_file
from sightline.recipes.schema import SamplingSpec
from sightline.rollouts.engine import Progress, RolloutEngine
from sightline.scenes.benchmark import RATIOS, Record, grade_response
from sightline.scenes.world import Scenes
from sightline.types import Group, Prompt, Response

SETTINGS: Final = "scenes.json"
_MOST: Final = 1_000_000
"""Largest number of a setting that can be meant."""
_KINDS: Final = {"caption": "captions", "presence": "presence questions"}


@dataclass(frozen=True, kw_only=True)
class ScenesBench:
    """Drawn scenes of which every fact is known: CHAIR, Hal, Cover and Cog of captions, yes/no accuracy."""

    name: str = "scenes"
    protocols: tuple[str, ...] = ("official",)
    needs: str = "nothing: pictures are drawn into the folder (scenes.json there may set seed, scenes, questions)"
    max_new_tokens: int = 64

    def questions(self, data: Path) -> list[Question]:
        """Captions first, then the presence questions. Draws the pictures that are not there yet."""
        settings = _settings(data)
        groups = held_out_prompts(
            Scenes(seed=settings["seed"]), settings["scenes"], data / "images", questions=settings["questions"]
        )
        prompts = [group.prompts[0] for group in groups]
        meta = {"max_new_tokens": self.max_new_tokens}
        return [Question(id=prompt.id, prompt=prompt, meta=meta) for prompt in prompts]

    def grade(
        self, data: Path, answers: Sequence[Answer], protocol: str, options: Mapping[str, Any], judge: Judge | None
    ) -> Result:
        """Percentages of sums over answers (``scenes.benchmark.RATIOS``); length in words."""
        check_protocol(self, protocol)
        check_options(self.name, options, ())
        questions = self.questions(data)
        matched = match_answers(questions, answers)
        records = [
            grade_response(question.prompt, Response(text=answer.text))
            for question, answer in zip(questions, matched, strict=True)
        ]
        graded = [_graded(q.prompt, record) for q, record in zip(questions, records, strict=True)]
        metrics = _metrics(graded)
        kinds = {name: [row for row in graded if row.details["category"] == name] for name in _KINDS.values()}
        return Result(
            bench=self.name,
            protocol=protocol,
            metrics=metrics,
            metrics_printed={name: f"{value:.1f}" for name, value in metrics.items()},
            by_category={name: _metrics(rows) for name, rows in kinds.items() if rows},
            graded=graded,
            formulas={name: _formula(name) for name in metrics},
            better={"miscoloured": "lower"},
        )

    def export(self, data: Path, answers: Sequence[Answer], path: Path) -> None:
        """A JSON list of ``{"id", "response"}``."""
        matched = match_answers(self.questions(data), answers)
        rows = [{"id": answer.id, "response": answer.text} for answer in matched]
        replace_file(path, json.dumps(rows, indent=1))

    def read_export(self, path: Path) -> list[Answer]:
        """What ``export`` writes."""
        return read_answers(path, "id", ("response",))


BENCH = ScenesBench()


def held_out_prompts(world: Scenes, scenes: int, directory: str | Path, *, questions: int = 4) -> list[Group]:
    """One caption prompt and up to ``questions`` presence questions for each of ``scenes`` held-out drawings.

    Args:
        world: Draws them; the same seed draws the same.
        scenes: How many drawings.
        directory: Where the pictures are written.
        questions: Most presence questions about each.
    """
    captions = list(world.prompts("held_out", scenes, directory, kind="caption"))
    presence = world.prompts("held_out", scenes, directory, kind="presence", per_scene=questions, drawn=True)
    return [*captions, *(presence if questions else ())]


def answer_greedily(
    engine: RolloutEngine,
    prompts: list[Group],
    *,
    max_new_tokens: int = 64,
    batch_size: int = 32,
    on_progress: Progress | None = None,
) -> list[Group]:
    """One answer to each prompt by greedy decoding: no randomness enters the figures."""
    greedy = SamplingSpec(n=1, temperature=0.0, max_new_tokens=max_new_tokens, batch_size=batch_size)
    return engine.generate(prompts, greedy, seed=0, on_progress=on_progress)


def _settings(data: Path) -> dict[str, int]:
    settings, path = {"seed": 0, "scenes": 300, "questions": 4}, data / SETTINGS
    if not path.exists():
        return settings
    given = object_of(read_json(path), str(path))
    check_options(str(path), given, settings)
    for name, value in given.items():
        least = 1 if name == "scenes" else 0
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _MOST:
            remedy = f"Give a whole number from {least} to {_MOST:,}"
            raise DataError(f"'{name}' is {value!r:.100}", source=str(path), remedy=remedy)
    return settings | given


def _graded(prompt: Prompt, record: Record) -> Graded:
    facts = prompt.facts
    things = ", ".join(f"{item['colour']} {item['shape']}" for item in facts["scene"]["objects"])
    details = {
        "question": prompt.messages[-1]["content"][-1]["text"],
        "answer": record.text,
        "truth": things if record.kind == "caption" else facts["truth"],
        "category": _KINDS.get(record.kind, record.kind),
        "wrong": [list(span) for span in record.wrong],
        "missed": list(record.missed),
        "error": float(len(record.wrong)) if record.kind == "caption" else 1.0 - record.counts["right"],
    }
    counts = {name: float(value) for name, value in record.counts.items() if value}
    return Graded(id=record.prompt, cluster=record.scene, counts=counts, details=details)


def _formula(metric: str) -> str:
    top, bottom = RATIOS[metric]
    return f"{top} / {bottom}" if metric == "length" else f"100 * {top} / {bottom}"


def _metrics(graded: Sequence[Graded]) -> dict[str, float]:
    """Those that have something to divide by."""
    sums = {column: sum(row.counts.get(column, 0) for row in graded) for pair in RATIOS.values() for column in pair}
    return {
        name: (1 if name == "length" else 100) * sums[top] / sums[bottom]
        for name, (top, bottom) in RATIOS.items()
        if sums[bottom]
    }

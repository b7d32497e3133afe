"""From a run to a folder in few bits, with every figure before and after; or to no folder at all."""

from __future__ import annotations

import gc
import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from sightline.data.template import ChatTemplate
from sightline.errors import RecipeError, UnsupportedError, VerificationError
from sightline.evaluation.answers import AnswerFile
from sightline.evaluation.bench import Result
from sightline.evaluation.results import changes, measure
from sightline.evaluation.stages import AnswerSpec, answer_questions
from sightline.files import check_free, cleared, replace_file, replace_folder, working_folder
from sightline.models.compress import CALIBRATED, Plan, check_quantiser, check_untouched, compress, model_inputs
from sightline.models.export import Verified
from sightline.models.reload import ProbeRow, Reading, inputs_of, read_fresh, read_model
from sightline.recipes.evaluation import BenchSpec
from sightline.recipes.load import load_recipe
from sightline.recipes.schema import ModelSpec
from sightline.rollouts.hf import HFEngine, load_engine
from sightline.train.card import Card
from sightline.train.export import (
    Dtype,
    Trained,
    check_apart,
    drawn_groups,
    export,
    open_trained,
    own_groups,
)
from sightline.train.periodic_eval import Task, grade_empty, grade_task, open_task
from sightline.train.quantised import Answers, Moved, Quantised, QuantiseSpec
from sightline.train.run_folder import RunDirectory
from sightline.types import Group

_log = logging.getLogger(__name__)
FIGURES = "quantised.json"
"""What was measured, beside the model."""
_LEARN = "Take int8, or more rows to learn from (--calibration), or tolerate more (--tolerance)"
_REMEDIES = {
    "gptq": _LEARN,
    "awq": _LEARN,
    "nf4": "Take int8, or tolerate more (--tolerance)",
    "int8": "Tolerate more (--tolerance), or leave --quantize out",
}
_COMPARED = 16
"""Rows that log-probabilities are compared on."""
_SLICE = {"seed": 0, "scenes": 32, "questions": 2}
"""Of the benchmark ``scenes``, where no other is named."""


def quantise(
    source: Path,
    out: Path,
    spec: QuantiseSpec,
    *,
    step: int | None = None,
    dtype: Dtype | None = None,
    overwrite: bool = False,
) -> Quantised:
    """Writes what a run trained as one model in few bits, and keeps it only if it still is that model.

    Args:
        source: run directory.
        out: new folder.
        spec: how.
        step: checkpoint of the run; None: the newest.
        dtype: of what is not quantised; None: as in training.
        overwrite: replace what is at ``out``.

    Raises:
        VerificationError: what was written says other things, or looks less. Nothing is left at ``out``.
        RecipeError: no quantiser, or no rows to learn from.
        UnsupportedError: a reward model, or a model that is not quantised.
        CheckpointError: ``out`` is there already or cannot be written, or there is no such checkpoint.
    """
    check_free(out, overwrite=overwrite)
    python = check_quantiser(spec.kind, spec.python)
    with cleared(out), working_folder(out) as scratch:
        task = _task(spec, scratch)
        if _starts_on_quantised(source):  # what it started from is compared as it was read
            open_trained(source, step=step, dtype=dtype)
        trained = open_trained(source, step=step, dtype=dtype, on_quantised=False)
        check_apart(trained, out)
        if trained.policy.score_head is not None:
            raise UnsupportedError(
                f"{source} is a reward model, and few bits are checked on what answers. Leave --quantize out"
            )
        plan = Plan.of_config(trained.policy.config, trained.policy.family, spec.kind)
        rows = _rows(trained, spec, scratch)
        whole = export(trained, scratch / "whole", merged=trained.policy.has_adapter)
        # used up: the memory is for the next
        trained = replace(trained, policy=None)  # type: ignore[arg-type]
        maker = _Maker(
            spec=spec, plan=plan, scratch=scratch, task=task, python=python, trained=trained, rows=rows, whole=whole
        )
        found: list[Quantised] = []

        def write(folder: Path) -> None:
            found.append(maker.make(folder, name=out.name))

        replace_folder(out, write)
    return found[0]


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """Conversations with pictures."""

    compared: list[ProbeRow]
    prompts: list[ProbeRow]
    """Those that are compared, without the answer."""
    learnt: list[ProbeRow]
    whose: str


@dataclass(frozen=True, kw_only=True)
class _Read:
    """A model, as it was read."""

    reading: Reading
    lengths: list[int]
    """Tokens of the answers."""
    result: Result


def _starts_on_quantised(source: Path) -> bool:
    """Whether a run laid an adapter over quantised weights, and went on from it."""
    model = load_recipe(RunDirectory(path=source).recipe).model
    return model.adapter is not None and model.quantization != "none"


@dataclass(frozen=True, kw_only=True)
class _Maker:
    """One quantised folder."""

    spec: QuantiseSpec
    plan: Plan
    scratch: Path
    task: Task
    python: str
    trained: Trained
    rows: _Rows
    whole: Verified

    def make(self, folder: Path, *, name: str) -> Quantised:
        """Fills the folder."""
        source, plan, dtype = self.scratch / "whole", self.plan, self.trained.spec.dtype
        engine = load_engine(ModelSpec(path=str(source), dtype=dtype))
        family, processor = engine.policy.family, engine.policy.processor
        white = [_white(row, self.scratch) for row in self.rows.compared]
        asked = [*self.rows.compared, *white]
        before = self._read(engine, asked)
        inputs = [model_inputs(processor, row) for row in self.rows.learnt]
        del engine
        gc.collect()
        learns = f", learning from {len(inputs)} rows: this takes long, and says nothing meanwhile" if inputs else ""
        _log.info("quantising %s layers to %s%s", len(plan.layers), self.spec.kind, learns)
        compress(plan, source, folder, dtype, rows=inputs, python=self.python, scratch=self.scratch)
        processor.save_pretrained(folder)
        reading = read_fresh(folder, asked, self.scratch, base=None, dtype=dtype, exact=True)
        untouched = check_untouched(plan, family, before.reading.weights, reading.weights)
        old, new = (Answers.of(one.logprobs, before.lengths) for one in (before.reading, reading))
        moved = Moved.of(old, new, self.rows.whose)
        if faults := moved.faults(self.spec):
            raise VerificationError(
                f"in {self.spec.kind} the model is another: {', and '.join(faults)}. Nothing was kept. "
                f"{_REMEDIES[self.spec.kind]}"
            )
        after = self._graded(load_engine(ModelSpec(path=str(folder), dtype=dtype)), "after")
        quantised = Quantised(
            spec=self.spec,
            step=self.trained.step,
            whole=self.whole,
            moved=moved,
            calibration=len(inputs),
            layers=len(plan.layers),
            untouched=untouched,
            bytes=(_size(source), _size(folder)),
            result=after,
            bench=changes([measure(before.result)], [measure(after)]),
        )
        self._describe(quantised, folder, name)
        return quantised

    def _read(self, engine: HFEngine, asked: list[ProbeRow]) -> _Read:
        policy = engine.policy
        lengths = [
            _answer_length(policy.processor, row, prompt)
            for row, prompt in zip(self.rows.compared, self.rows.prompts, strict=True)
        ]
        with policy.autocast():
            reading = read_model(policy.base, policy.processor, asked, exact=True)
        return _Read(reading=reading, lengths=lengths, result=self._graded(engine, "before"))

    def _graded(self, engine: HFEngine, side: str) -> Result:
        file = AnswerFile(path=self.scratch / side / "answers.jsonl")
        return grade_task(self.task, answer_questions(engine, self.task.questions, file, AnswerSpec()))

    def _describe(self, quantised: Quantised, folder: Path, name: str) -> None:
        trained = self.trained
        card = Card(recipe=trained.recipe, run=trained.run, step=trained.step, base=trained.spec.path, adapter=False)
        text = card.text(self.whole, "before it was quantised", name=name)
        told = (
            f"## Quantised\n\n{quantised.sentence()}.\n\n`logprob`: mean log-probability of a token of an answer; "
            f"`picture`: how far it is from that under a white picture, in nats. Brackets: bootstrap 95 % intervals; "
            f"all figures are in `{FIGURES}`.\n\n{quantised.table()}\n"
        )
        replace_file(folder / "README.md", f"{text}\n{told}")
        replace_file(folder / FIGURES, json.dumps(quantised.document(), indent=2) + "\n")


def _task(spec: QuantiseSpec, scratch: Path) -> Task:
    """The benchmark, with what is missing of it said before any model is loaded."""
    bench = spec.bench
    if bench is None:
        replace_file(scratch / "scenes" / "scenes.json", json.dumps(_SLICE))
        bench = BenchSpec(bench="scenes", data=str(scratch / "scenes"))
    task = open_task(bench)
    grade_empty(task, "--bench")
    return task


def _rows(trained: Trained, spec: QuantiseSpec, scratch: Path) -> _Rows:
    learns = spec.kind in CALIBRATED
    wanted = _COMPARED + (spec.calibration if learns else 0)
    own = [] if trained.recipe is None else own_groups(trained.recipe, scratch, wanted)
    if learns and len(own) < 2:
        raise RecipeError(
            f"{spec.kind} learns from answered rows with pictures of the run's own data (data.train), and {len(own)} "
            "were found, where 2 are the least: one to learn from, one to compare. Put the data back where the recipe "
            "names them, or take nf4 or int8, which learn from nothing"
        )
    template = ChatTemplate(trained.policy.processor)
    compared, learnt = _parted(own, spec.calibration) if learns else (own, [])
    whose = "rows of the run" if own else "drawn pictures"
    compared = compared or drawn_groups(scratch)
    answered = [_answered(template, group) for group in compared]
    return _Rows(
        compared=[row for row, _ in answered],
        prompts=[prompt for _, prompt in answered],
        learnt=[_answered(template, group)[0] for group in learnt],
        whose=whose,
    )


def _parted(groups: list[Group], most: int) -> tuple[list[Group], list[Group]]:
    """Rows to compare, evenly from all, and up to ``most`` others to learn from."""
    count = min(_COMPARED, len(groups) // 2)
    places = {number * len(groups) // count for number in range(count)}
    others = [group for place, group in enumerate(groups) if place not in places]
    return [groups[place] for place in sorted(places)], others[:most]


def _answered(template: ChatTemplate, group: Group) -> tuple[ProbeRow, ProbeRow]:
    """A row up to the end of its answer, as it is trained, and its prompt alone."""
    response = group.responses[0]
    prompt = group.prompts[response.prompt]
    before = template.text(prompt.messages, generation=True)
    answer = {"role": "assistant", "content": [{"type": "text", "text": response.text}]}
    turn = template.turn(prompt.messages, answer, before)
    whole = before + turn.answer + turn.end
    return ProbeRow(text=whole, images=prompt.images), ProbeRow(text=before, images=prompt.images)


def _answer_length(processor: Any, row: ProbeRow, prompt: ProbeRow) -> int:
    """Tokens of a row from the first on that its prompt does not begin with."""
    whole, start = (inputs_of(processor, one)["input_ids"][0] for one in (row, prompt))
    short = min(len(whole), len(start))
    same = int(torch.cumprod((whole[:short] == start[:short]).long(), 0).sum())
    return max(1, len(whole) - same)


def _white(row: ProbeRow, scratch: Path) -> ProbeRow:
    """The row under white pictures of the same sizes."""
    paths = []
    for image in row.images:
        with Image.open(image) as picture:
            size = picture.size
        path = scratch / f"white-{size[0]}x{size[1]}.png"
        if not path.is_file():
            Image.new("RGB", size, (255, 255, 255)).save(path)
        paths.append(str(path))
    return replace(row, images=tuple(paths))


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))

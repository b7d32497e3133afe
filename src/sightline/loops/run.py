"""Runs a loop: round by round, stage by stage, each once.

A stage is done if the state says so and what it reads, and its settings, are what they were; otherwise what it left is
removed and it is done again, and so is what reads what it makes. The state is written before and after every stage, so
that a kill at any moment leaves either a finished stage or one that goes on item by item.
"""

from __future__ import annotations

import gc
import logging
import math
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from sightline.algorithms.registry import build_algorithm
from sightline.errors import CheckpointError, NothingToLearn, RecipeError
from sightline.files import replace_file
from sightline.loops.common import exam_stage, kl_stage, merge_stage, train_stage
from sightline.loops.contents import Contents
from sightline.loops.exam import Exam, open_exam, standing
from sightline.loops.figures import FIGURES
from sightline.loops.folder import RECIPE, claimed
from sightline.loops.methods import build_method
from sightline.loops.page import write_page
from sightline.loops.prompts import asked_in, read_prompts, round_prompts
from sightline.loops.stages import LoopResult, Method, Round, Stage
from sightline.loops.state import Best, Entry, State, changes, settled
from sightline.loops.status import plan_lines
from sightline.models.locate import located
from sightline.recipes.load import check_algorithm
from sightline.recipes.load_loop import dump_loop
from sightline.recipes.loop import LoopRecipe, training_recipe
from sightline.recipes.schema import ModelSpec
from sightline.types import Group

_log = logging.getLogger(__name__)


def run_loop(loop: LoopRecipe, *, overwrite: bool = False, quiet: bool = False) -> LoopResult:
    """Runs the rounds that are left, and leaves the models, ``state.json`` and ``report.html``.

    Args:
        loop: what to run.
        overwrite: remove the loop that is in its folder.
        quiet: no progress bar of trainings.

    Raises:
        SightlineError: before the first stage where the recipe, the prompts or the exam cannot be right; later from a
            stage, after whose mending the same call goes on.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RecipeError("found several processes, expected one: start sightline loop without a launcher.")
    root = Path(loop.output_dir)
    with claimed(root, overwrite=overwrite), _only_new_garbage():
        return _Running.open(loop, root, quiet=quiet).rounds()


@dataclass(kw_only=True)
class _Running:
    """A loop that is under way."""

    loop: LoopRecipe
    root: Path
    state: State
    contents: Contents
    method: Method
    prompts: Sequence[Group]
    exam: Exam | None
    quiet: bool
    did: int = 0

    @classmethod
    def open(cls, loop: LoopRecipe, root: Path, *, quiet: bool) -> _Running:
        """Reads and checks all that can be before the first stage, and says the plan."""
        loop = replace(loop, model=_start(loop.model))
        state = State.read(root)
        method = build_method(loop.method)
        replace_file(root / RECIPE, dump_loop(loop))
        prompts = read_prompts(loop, root)
        running = cls(
            loop=loop,
            root=root,
            state=state,
            contents=Contents(root, state.released),
            method=method,
            prompts=prompts,
            exam=None if loop.exam is None else open_exam(loop.exam),
            quiet=quiet,
        )
        method.check(prompts)
        first = running.round(1)
        recipe = method.training(first, training_recipe(loop, 1, first.spec, str(first.folder)))
        algorithm = build_algorithm(recipe.algorithm)
        check_algorithm(recipe, algorithm)
        if "labels" in algorithm.needs:
            raise RecipeError(
                f"algorithm.name is {loop.algorithm['name']}, which learns from labels, and a round gives comparisons "
                "without. Set algorithm.name: dpo, or another that compares."
            )
        names = [stage.name for stage in running.stages(1)]
        for line in plan_lines(loop, state, names, len(prompts)):
            _log.info(line)
        return running

    def rounds(self) -> LoopResult:
        """All rounds, or as many as the exam allows and as find something to learn from."""
        ended, last, values = "", 0, list[float]()
        for number in range(self.loop.rounds + 1):
            before = self.did
            if ended := self._round(number):
                self.state.ended = ended
                self.state.write()
            else:
                last, ended = number, self._judge(number, values)
            if self.did > before or ended:
                write_page(self.root, self.loop, self.state, last)
            if ended:
                break
        best, value = (last, None) if self.state.best is None else (self.state.best.round, self.state.best.value)
        model = Path(self.model(best).path)
        if self.contents.is_released(model):
            raise CheckpointError(
                f"round {best} is the best as the recipe stands now, and its model was removed to save room "
                f"(merge.keep: {self.loop.merge.keep}). Set back rounds, exam or stop, or run with another output_dir."
            )
        return LoopResult(
            folder=self.root,
            best=best,
            model=model,
            value=value,
            ended=ended,
            stages=self.did,
        )

    def model(self, number: int) -> ModelSpec:
        """Model t; 0 is the start."""
        if number == 0:
            return self.loop.model
        return replace(self.loop.model, path=str(self.root / f"round-{number}/model"))

    def round(self, number: int) -> Round:
        return Round(
            number=number,
            folder=self.root / f"round-{number}",
            spec=self.model(number - 1),
            prompts=round_prompts(self.loop, self.root, number),
            seed=self.loop.seed + number,
        )

    def stages(self, number: int) -> list[Stage]:
        """Of a round; of round 0 the exam of the start alone."""
        exam = [] if self.exam is None else [self._exam(self.exam, number)]
        if number == 0:
            return exam
        round = self.round(number)
        plain = training_recipe(self.loop, number, round.spec, str(round.folder))
        made = [
            *self.method.stages(round),
            train_stage(round, self.method.training(round, plain), quiet=self.quiet),
            merge_stage(round, self.loop),
        ]
        spec = self.loop.exam
        if spec is not None and spec.kl_prompts:
            made.append(kl_stage(round, self.loop.model, self.model(number), spec))
        return [*made, *exam]

    def _exam(self, exam: Exam, number: int) -> Stage:
        title = "the start" if number == 0 else f"round {number}"
        return exam_stage(exam, self.model(number), self.root / f"round-{number}/exam", f"exam of {title}")

    def _round(self, number: int) -> str:
        """Does what is left of a round; says why the loop ends with the round before, if it finds no pair."""
        if number:
            asked = asked_in(self.loop, self.root, number, self.prompts)
            self.contents.add_prompts(round_prompts(self.loop, self.root, number), asked)
        stages = self.stages(number)
        self._forget(number, [stage.name for stage in stages])
        for stage in stages:
            self._do(number, stage)
            entry = self.state.entries[f"round-{number}/{stage.name}"]
            if entry.status == "no pair":
                _remove(self.root / f"round-{number}/train/checkpoints")
                return f"converged: round {number} found no pair ({entry.why})"
        return ""

    def _do(self, number: int, stage: Stage) -> None:
        """Does a stage, unless it is done."""
        name = f"round-{number}/{stage.name}"
        reads = {self.contents.place(path): self.contents.of(path) for path in stage.reads}
        entry = self.state.entries.get(name)
        changed = [] if entry is None else changes(entry, stage, reads)
        there = stage.out.exists() or self.contents.is_released(stage.out)
        if entry is not None and entry.status == "no pair" and not changed:
            return
        if entry is not None and entry.status == "done" and not changed and there:
            self._tell_edited(entry, stage)
            return
        self._check_reads(name, stage, changed)
        if entry is not None and (changed or entry.status == "done"):
            _log.info("%s is done again: %s", name, "; ".join(changed) or f"{stage.out} is gone")
        if entry is None or entry.status != "running" or changed:
            entry = self._clear(name, stage, reads)
        else:
            entry.starts, entry.settings = entry.starts + 1, settled(stage.settings)
            _log.info("%s goes on where it was", name)
        self.state.write()
        self._run(number, entry, stage)
        self.did += 1
        if entry.status == "done":
            _log.info("%s: done in %.1f s: %s", name, entry.seconds, stage.out)

    def _forget(self, number: int, names: Sequence[str]) -> None:
        """Removes what stages left that a round no longer has, and what the state says of them."""
        assert len(set(names)) == len(names), f"two stages of one name among {', '.join(names)}"
        gone = [
            name
            for name in self.state.entries
            if name.startswith(f"round-{number}/") and name.partition("/")[2] not in names
        ]
        for name in gone:
            self._remove_made(name, self.state.entries[name].out)
            del self.state.entries[name]

    def _clear(self, name: str, stage: Stage, reads: dict[str, str | None]) -> Entry:
        """Removes what an earlier run of a stage left, and notes that it begins."""
        place = self.contents.place(stage.out)
        old = self.state.entries.get(name)
        if old is not None and old.out != place:
            self._remove_made(name, old.out)
        entry = Entry(status="clearing", settings=settled(stage.settings), reads=reads, out=place)
        self.state.entries[name] = entry
        for thing in [one for one in self.state.released if one == place or one.startswith(f"{place}/")]:
            del self.state.released[thing]
        self.state.write()
        self._remove_made(name, place)
        entry.status = "running"
        return entry

    def _remove_made(self, name: str, place: str) -> None:
        """Removes what a stage left, and the figures of its round."""
        (self.root / name.partition("/")[0] / FIGURES).unlink(missing_ok=True)
        if not place:  # noted by an earlier version
            return
        made = self.root / place
        if made.is_dir():
            shutil.rmtree(made)
        made.unlink(missing_ok=True)

    def _run(self, number: int, entry: Entry, stage: Stage) -> None:
        wall, cpu = time.monotonic(), _cpu_seconds()
        try:
            stage.run()
        except NothingToLearn as error:
            if number == 1:
                raise
            entry.status, entry.why = "no pair", error.why
        finally:
            entry.seconds += time.monotonic() - wall
            entry.cpu_seconds += _cpu_seconds() - cpu
            if torch.cuda.is_available():
                entry.gpu_seconds = entry.seconds
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self.state.write()
        if entry.status == "no pair":
            return
        assert stage.out.exists(), f"{stage.name} left no {stage.out}"
        entry.made, entry.status = self.contents.of(stage.out), "done"
        self.state.write()

    def _tell_edited(self, entry: Entry, stage: Stage) -> None:
        if not self.contents.is_thinned(stage.out) and self.contents.of(stage.out) != entry.made:
            _log.info("%s is not as it was made; it is taken as it is", stage.out)

    def _check_reads(self, name: str, stage: Stage, changed: Sequence[str]) -> None:
        why = f" ({'; '.join(changed)})" if changed else ""
        for path in stage.reads:
            if self.contents.is_released(path):
                raise CheckpointError(
                    f"{name} has to be done again{why} and reads {path}, which was removed to save room (merge.keep: "
                    f"{self.loop.merge.keep}). Set back what changed, choose another output_dir, or "
                    "pass --overwrite (in Python overwrite=True)."
                )
            if self.contents.of(path) is None:
                raise CheckpointError(
                    f"{name} reads {path}, and there is no such file. Bring it back, or remove what the stage before "
                    "it left, so that it is made again."
                )

    def _judge(self, number: int, values: list[float]) -> str:
        """Notes the best round so far, and removes models that nothing needs; says why the loop ends here, if so."""
        self.state.best = None
        best, ended = number, "all rounds are done" if number == self.loop.rounds else ""
        if self.exam is not None:
            values.append(self.exam.value(self.root / f"round-{number}/exam"))
            found = standing(values, self.exam.better, self.loop.stop)
            best, patience = found.best, self.loop.stop.patience
            if patience is not None and found.since >= patience:
                ended = f"no gain of exam.best in {found.since} round{'s' if found.since > 1 else ''} (stop.patience)"
            value = None if math.isnan(found.value) else found.value
            self.state.best = Best(round=best, figure=self.exam.spec.best, value=value)
        self.state.ended = ended or None
        self.state.write()
        self._release(number, best)
        return ended

    def _release(self, number: int, best: int) -> None:
        """Removes what only this round's training would read, and models that are neither new nor the best."""
        if number:
            _remove(self.root / f"round-{number}/train/checkpoints")
        kept = {best, *range(number - self.loop.merge.keep + 1, number + 1)}
        for old in set(range(1, number)) - kept:
            folder = self.root / f"round-{old}"
            there = [path for path in (folder / "model", folder / "train/model") if path.exists()]
            self.state.released |= {self.contents.place(path): self.contents.of(path) or "" for path in there}
            self.state.write()
            for path in there:
                _remove(path)


def _start(spec: ModelSpec) -> ModelSpec:
    """The model that a loop starts from, by its folder or its name on the hub."""
    found = located(spec)
    if found.adapter is not None:
        raise RecipeError(
            f"model.path {spec.path} is an adapter, but a loop starts from a whole model. Merge it first: sightline "
            f"merge {spec.path} -o MERGED, and set model.path to MERGED."
        )
    return found


def _remove(folder: Path) -> None:
    """Removes a folder that may be half removed at no moment under its own name."""
    if folder.exists():
        aside = folder.with_name(f"{folder.name}.released.tmp")
        folder.rename(aside)
        shutil.rmtree(aside)


def _cpu_seconds() -> float:
    """Of this process and of those that it started and that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


@contextmanager
def _only_new_garbage() -> Iterator[None]:
    """What is there already, modules above all, is not looked through after every stage for models to give back."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()

"""Recipes and runs: ``load_recipe``, ``explain``, ``train``, ``open_run``, ``report``, ``loop``."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from sightline.api.given import check_recipe, path_of, path_to_write
from sightline.api.rows import with_rows
from sightline.api.run import Run
from sightline.data.memory import Rows
from sightline.errors import CheckpointError, EngineError, RecipeError
from sightline.loops.run import run_loop
from sightline.loops.stages import LoopResult
from sightline.models.load import hide_loading_bars
from sightline.recipes.load import load_recipe as read_recipe
from sightline.recipes.load_loop import is_loop, load_loop
from sightline.recipes.loop import LoopRecipe
from sightline.recipes.schema import Recipe
from sightline.report.run_page import report_run
from sightline.train.callback import Callback
from sightline.train.loop import train as run_recipe
from sightline.train.run_folder import RunDirectory
from sightline.train.shown import how_it_goes_on, shown

_log = logging.getLogger(__name__)
_OVERRIDDEN = "found overrides beside a recipe that was read. Give them where it is read."


def load_recipe(path: str | Path, *overrides: str) -> Recipe:
    """Reads a recipe, lays overrides over it and checks it.

    Args:
        path: a YAML file.
        overrides: dotted keys with values in YAML, as on the command line: ``"train.learning_rate=1e-4"``.

    Raises:
        RecipeError: all that is wrong, each with its line or override, and the nearest valid key.

    >>> load_recipe("recipes/dpo_llava_lora.yaml", "model.path=my/model", "train.max_steps=100")  # doctest: +SKIP
    """
    if not isinstance(path, str | Path):
        raise RecipeError(f"found {path!r:.60}, expected the path of a YAML file.")
    if wrong := [one for one in overrides if not isinstance(one, str)]:
        raise RecipeError(
            f'override {wrong[0]!r:.60}: expected texts. Write each by itself: "train.learning_rate=1e-4".'
        )
    return read_recipe(path, overrides)


def explain(recipe: Recipe | LoopRecipe | str | Path, *overrides: str) -> str:
    """The recipe as YAML as it will run, every default filled in, and above each key what it means.

    Args:
        recipe: of a training or of a loop; or its file.
        overrides: of a file, as of :func:`load_recipe`.

    Raises:
        RecipeError: fields of the algorithm that it does not have, or that do not agree with the recipe.
    """
    if isinstance(recipe, str | Path):
        recipe = (load_loop if is_loop(recipe) else read_recipe)(Path(recipe), overrides)
    elif overrides:
        raise RecipeError(_OVERRIDDEN)
    if not isinstance(recipe, LoopRecipe):
        check_recipe(recipe)
    return shown(recipe, explain=True)


def train(
    recipe: Recipe | str | Path,
    rows: Rows | None = None,
    *,
    held_out: Rows | None = None,
    callbacks: Sequence[Callback] = (),
    resume: bool | None = None,
    overwrite: bool = False,
    quiet: bool = False,
) -> Run:
    """Trains as a recipe says, and writes its report. The same call goes on with a run that was stopped.

    Args:
        recipe: what to run, in its ``output_dir``; or its file.
        rows: in the place of the recipe's rows: a list of dictionaries in any layout that files may have, Groups, or a
            ``datasets.Dataset``; pictures are paths, bytes or PIL pictures, and relative paths start from the working
            directory. They take the place of ``path`` of the one source under ``data.train`` (of ``online.prompts`` in
            an online recipe), whose other keys hold. They are written to ``rows`` in the run directory, pictures by
            their content, and the run's own ``recipe.yaml`` names these files: the run goes on without the objects
            that it was given, on the command line as well. None: the recipe's own rows.
        held_out: the same for ``data.eval``.
        callbacks: told how the run goes, and may end it.
        resume: None: go on where the run directory holds the same run; True: go on or fail; False: start or fail.
        overwrite: remove the run that is in the run directory.
        quiet: no progress bar.

    Returns:
        The run, with its model in ``model_dir``.

    Raises:
        RecipeError, DataError, CheckpointError, UnsupportedError: before the first step. A bad row is named by its
            number, counted from 1.
        DivergenceError: the loss or a gradient is not finite.
    """
    hide_loading_bars()
    if isinstance(recipe, str | Path):
        recipe = load_recipe(recipe)
    check_recipe(recipe)
    told = _listed(callbacks)
    placed, run_dir = recipe, RunDirectory(path=Path(recipe.output_dir))
    if not (resume and overwrite):  # which the run refuses
        fixed = run_dir.recipe.exists() and not overwrite
        placed = with_rows(recipe, run_dir.rows, rows=rows, held_out=held_out, fixed=fixed)
    try:
        result = run_recipe(placed, resume=resume, overwrite=overwrite, quiet=quiet, callbacks=told)
    except (KeyboardInterrupt, EngineError):
        _log.warning("%s", how_it_goes_on(placed, "The same call without overwrite" if overwrite else "The same call"))
        raise
    run = Run(path=result.run_dir, stopped=result.stopped)
    if run.metrics and int(os.environ.get("RANK", "0")) == 0:
        report_run(run.path)
    return run


def _listed(callbacks: Sequence[Callback]) -> list[Callback]:
    """
    Raises:
        RecipeError: they are none.
    """
    listed = list(callbacks) if isinstance(callbacks, Iterable) else [callbacks]
    if wrong := [one for one in listed if not isinstance(one, Callback)]:
        raise RecipeError(
            f"callbacks holds {wrong[0]!r:.60}, expected objects of classes that inherit sl.Callback. Give these in a "
            "list: callbacks=[Watch()]."
        )
    return listed


def open_run(path: str | Path) -> Run:
    """A run that is there, under way or ended.

    Raises:
        CheckpointError: the folder holds no run.
    """
    folder = path_of(path, "path")
    if not RunDirectory(path=folder).recipe.is_file():
        raise CheckpointError(f"{folder} holds no run (no recipe.yaml in it), expected the output_dir of one.")
    return Run(path=folder)


def report(run: Run | str | Path, out: str | Path | None = None) -> Path:
    """Writes the page of a run: curves, samples, recipe and versions, in one HTML file.

    Args:
        run: the run, or its folder.
        out: the page; None: ``report.html`` in the run's folder.

    Raises:
        CheckpointError: the folder is no run directory, or nothing was logged yet.
        RecipeError: ``out`` is a folder.
    """
    folder = run.path if isinstance(run, Run) else path_of(run, "run")
    return report_run(folder, None if out is None else path_to_write(out, "out"))


def loop(recipe: LoopRecipe | str | Path, *overrides: str, overwrite: bool = False, quiet: bool = False) -> LoopResult:
    """Runs the rounds of a loop that are left; the same call goes on with one that was stopped.

    Args:
        recipe: the YAML file of a loop, or what was read of it.
        overrides: of a file, as of :func:`load_recipe`.
        overwrite: remove the loop that is in its folder.
        quiet: no progress bar of trainings.

    Raises:
        SightlineError: before the first stage where the recipe, the prompts or the exam cannot be right; later from a
            stage, after whose mending the same call goes on.
    """
    if isinstance(recipe, str | Path):
        recipe = load_loop(Path(recipe), overrides)
    elif overrides:
        raise RecipeError(_OVERRIDDEN)
    if not isinstance(recipe, LoopRecipe):
        raise RecipeError(f"found {recipe!r:.60}, expected the recipe of a loop. Give its file.")
    hide_loading_bars()
    return run_loop(recipe, overwrite=overwrite, quiet=quiet)

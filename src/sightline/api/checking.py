"""Looks at rows before a run: ``check`` and ``preferences``."""

from __future__ import annotations

import functools
import io
import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from rich.console import Console

from sightline.algorithms.registry import build_algorithm, build_mixed
from sightline.api.given import check_kind, check_path, check_recipe, path_of, path_to_write
from sightline.api.model import Model
from sightline.api.preferences_run import Asked, evaluate_preferences, sides_of
from sightline.api.rows import with_rows
from sightline.api.run import Run
from sightline.data.inspect.checked import USUAL, Problem, as_json, problems, thresholds
from sightline.data.memory import Rows, write_rows
from sightline.errors import RecipeError
from sightline.evaluation.preferences import BENCH
from sightline.evaluation.results import Measured
from sightline.evaluation.run import default_out
from sightline.models.forecast import check_device
from sightline.recipes.load import check_spec, load_recipe, with_reference
from sightline.recipes.mix import mixed_options
from sightline.recipes.pictures import model_fields
from sightline.recipes.schema import DatasetSpec, Recipe
from sightline.report.check import print_check, write_check_page
from sightline.train.check_run import Asks, asked_by, card_of, check_measured, speed_of
from sightline.train.check_run import check as look

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class DataCheck:
    """What rows hold, and what a run on them would take."""

    text: str
    """The report."""
    problems: tuple[Problem, ...]
    """What should keep the run from starting: ``kind`` and ``text``; empty: nothing."""
    figures: dict[str, Any]
    """All of it as plain JSON."""

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return f'<pre style="overflow-x:auto">{escape(self.text)}</pre>'


def check(
    recipe: Recipe | str | Path,
    rows: Rows | None = None,
    *,
    against: Sequence[str] = (),
    fail_on: str | None = None,
    device: str | None = None,
    processes: int = 1,
    html: str | Path | None = None,
) -> DataCheck:
    """Looks at the rows and pictures of a recipe as its training would read them, and forecasts memory and time. Loads
    no weights.

    Args:
        recipe: whose rows; or its file.
        rows: in their place, as of ``train``.
        against: what must not be trained on: ``BENCH=FOLDER``, a folder of pictures, a picture, or rows.
        fail_on: kinds of problems, with a share above which they are one: ``bad=0.01,leak,bias=0.65``, or ``none``;
            None: ``bad,leak,bias``.
        device: forecast for ``h100``, ``a100``, ...; None: for this machine.
        processes: devices that share a step.
        html: a page with all of it; None: none.

    Raises:
        RecipeError: the recipe does not agree with its algorithm, there is no such device or kind of problem,
            nothing of that kind is looked at, or ``html`` is a folder.
        DataError: there are no rows.
    """
    limits = thresholds(USUAL if fail_on is None else fail_on)
    if processes < 1:
        raise RecipeError(f"processes is {processes}, expected 1 or more. Give how many devices share a step.")
    if isinstance(recipe, str | Path):
        recipe = load_recipe(recipe)
    check_recipe(recipe)
    page = None if html is None else path_to_write(html, "html")
    if device is not None:
        check_device(device)
    with tempfile.TemporaryDirectory(prefix="sightline-check-") as scratch:
        folder = Path(scratch)
        recipe = with_rows(recipe, folder / "rows", rows=rows)
        whole = with_reference(recipe, build_algorithm(recipe.algorithm), build_mixed(mixed_options(recipe)))
        asks = Asks(
            title=recipe.name,
            against=tuple((name, asked_by(name)) for name in against),
            shown=False,
            speed=functools.partial(speed_of, whole, device, None),
            processes=processes,
        )
        dataset = whole.data or DatasetSpec(max_length=10**9)
        if fail_on is not None:
            check_measured(limits, whole, dataset, against=bool(against), pixels=True, device=device)
        checked = look(dataset, asks, folder, card=card_of(whole, None), recipe=whole)
        found = problems(checked, limits)
        told = Console(file=io.StringIO(), width=120, color_system=None)
        with told.capture() as text:
            print_check(told, checked, found)
        if page is not None:
            write_check_page(page, checked, found)
        figures = json.loads(as_json(checked, found))
    return DataCheck(text=text.get().strip(), problems=tuple(found), figures=figures)


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """How :func:`preferences` asks: the options of ``sightline eval preferences``."""

    beta: Annotated[float, Field(ge=1e-9)] = 0.1
    """Multiplies implicit rewards."""
    looking: Annotated[int, Field(ge=0)] = 200
    """Rows that are scored under other pictures as well; 0: none."""
    generate: Annotated[int, Field(ge=0)] = 0
    """Lets the models answer so many of the worst and of the best cases, for the page."""
    max_tokens: Annotated[int, Field(ge=1)] = 256
    """Most tokens of such an answer."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """First rows only; None: all."""
    image_dir: str | None = None
    """Where relative paths of pictures start; None: of a file beside it, of rows in memory the working directory."""
    on_bad_row: Literal["error", "skip"] = "error"
    batch_tokens: Annotated[int, Field(ge=1)] = 8192
    """Most tokens of one forward pass. Changes no figure."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    layout: Literal["tree", "packed", "rows"] = "tree"
    """``tree``: picture and question once for both answers."""
    quantization: Literal["none", "nf4", "int8"] = "none"
    pictures: Mapping[str, Any] | None = None
    """Other pictures than those saved with the model, as of ``load``."""
    device: str | None = None
    """``cpu``, ``cuda``, ``cuda:1``, ...; None: the GPU where there is one."""

    def model_options(self) -> dict[str, Any]:
        """How the models are held."""
        held = {"dtype": self.dtype, "layout": self.layout, "quantization": self.quantization}
        return held | model_fields(self.pictures or {})


def preferences(
    model: str | Path | Run,
    rows: Rows | str | Path,
    *,
    against: str | Path | Run | None = None,
    reference: str | Path | Run | None = None,
    out: str | Path | None = None,
    scoring: Scoring | None = None,
    overwrite: bool = False,
) -> Measured:
    """Does a model prefer the answers that people prefer, by how much, and because of the picture? Scores are kept in
    ``out``, so that a stopped call goes on, with a page of the worst and best cases.

    Args:
        model: a model, an adapter or a run, by name: it is loaded here.
        rows: with chosen and rejected answers: a file, or rows in memory.
        against: another model, or the folder of an earlier evaluation; its figures stand beside on the page.
        reference: model that implicit rewards are relative to, or ``none``; None: what adapter or run started from.
        out: folder; everything goes below it, into ``preferences``. None: ``eval/NAME``, after the model.
        scoring: how they are asked: ``beta``, ``looking``, ``limit`` and more; None: the defaults.
        overwrite: start anew where there are scores.

    Raises:
        RecipeError: a name that stands for no model, or an option out of its range.
        DataError: a bad row, or none that compares two answers.
        CheckpointError: ``out`` holds scores of other rows or of another model.
    """
    if isinstance(model, Model):
        raise RecipeError(
            f"found {model}, which is loaded, and models are loaded here one after the other. Give its folder or run."
        )
    for name, one in (("model", model), ("against", against), ("reference", reference)):
        if not isinstance(one, Run) and (one is not None or name == "model"):
            check_path(one, name)
    check_kind(scoring, "scoring", Scoring)
    how = check_spec(Scoring, "scoring", **vars(scoring or Scoring()))
    named, rival, start = (
        None if one is None else str(one.path if isinstance(one, Run) else one) for one in (model, against, reference)
    )
    sides = sides_of(str(named), None, how.model_options(), reference=start, against=rival)
    folder = default_out(sides.model.spec.path, sides.model.spec.adapter) if out is None else path_of(out, "out")
    data, image_dir = _readable(rows, folder / BENCH, how.image_dir)
    asked = Asked(
        out=folder,
        data=data,
        image_dir=image_dir,
        limit=how.limit,
        on_bad_row=how.on_bad_row,
        batch_tokens=how.batch_tokens,
        overwrite=overwrite,
        tell=lambda text: _log.info("%s", text),
    )
    shown = {name: vars(how)[name] for name in ("beta", "looking", "generate", "max_tokens", "device")}
    return evaluate_preferences(asked, sides, **shown).measured


def _readable(rows: Rows | str | Path, folder: Path, image_dir: str | None) -> tuple[str, str | None]:
    """The file of rows and where its pictures start; rows in memory are written there."""
    if isinstance(rows, str | Path):
        return str(rows), image_dir
    file = folder / "rows.jsonl"
    write_rows(rows, file, pictures=folder / "images")
    return str(file), image_dir or "."

"""``sightline data check``: what rows hold and what a run on them would take, before any compute."""

from __future__ import annotations

import functools
import json
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sightline.cli.console import out as console_out
from sightline.cli.console import say
from sightline.cli.json_result import Document, Ended, JsonFile
from sightline.errors import RecipeError
from sightline.files import replace_file
from sightline.recipes.load import check_spec, load_recipe, with_reference
from sightline.recipes.mix import mixed_options
from sightline.recipes.schema import DatasetSpec, DataSpec, Recipe

if TYPE_CHECKING:
    from sightline.data.inspect.checked import Checked, Problem

Recipe_ = Annotated[
    list[str] | None,
    typer.Argument(metavar="RECIPE.yaml key=value", help="A recipe, with overrides; or --data.", show_default=False),
]
Data = Annotated[str | None, typer.Option(help="Rows without a recipe.", show_default=False)]
Model = Annotated[
    str | None, typer.Option(help="With --data: whose tokens are counted, a folder or hub name.", show_default=False)
]
Format = Annotated[str, typer.Option("--format", help="With --data: layout of the rows.")]
Split = Annotated[str, typer.Option(help="With --data: split of a folder or datasets name.")]
ImageDir = Annotated[str | None, typer.Option(help="With --data: where image paths start.", show_default=False)]
Rename = Annotated[list[str] | None, typer.Option(help="With --data: old=new, of a column.", show_default=False)]
Limit = Annotated[int | None, typer.Option(min=1, help="With --data: first rows only.", show_default=False)]
MaxLength = Annotated[
    int | None, typer.Option(min=8, help="With --data and --model: most tokens of a row.", show_default=False)
]
Against = Annotated[
    list[str] | None,
    typer.Option(
        help="What must not be trained on: BENCH=FOLDER, a folder of pictures, a picture, or rows. May be repeated.",
        show_default=False,
    ),
]
RowsShown = Annotated[
    int | None,
    typer.Option(
        "--rows",
        min=0,
        help="Rows of each source that are shown as the model sees them. Default: 2.",
        show_default=False,
    ),
]
FailOn = Annotated[
    str | None,
    typer.Option(
        help="What makes the exit code 1: kinds with a share above which they do (bad=0.01, bias=0.65), or none. Kinds "
        "are bad, leak, bias (these by default), similar, split, same, scores, copies, columns, memory.",
        show_default=False,
    ),
]
DeviceName = Annotated[
    str | None,
    typer.Option("--device", help="Forecast for h100, a100, ... instead of this machine.", show_default=False),
]
Mfu = Annotated[
    float | None,
    typer.Option(min=0.01, max=1.0, help="Share of the device's speed that a step reaches.", show_default=False),
]
Processes = Annotated[int, typer.Option(min=1, help="Devices that share a step.")]
HtmlFile = Annotated[Path | None, typer.Option("--html", help="Write a page.", show_default=False)]


def check(
    recipe: Recipe_ = None,
    data: Data = None,
    model: Model = None,
    format: Format = "auto",
    split: Split = "train",
    image_dir: ImageDir = None,
    rename: Rename = None,
    limit: Limit = None,
    max_length: MaxLength = None,
    against: Against = None,
    rows: RowsShown = None,
    pixels: Annotated[bool, typer.Option(help="Decode pictures; without, only their sizes are read.")] = True,
    fail_on: FailOn = None,
    device: DeviceName = None,
    mfu: Mfu = None,
    processes: Processes = 1,
    json_file: JsonFile = None,
    html: HtmlFile = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> Document:
    """Look at rows and pictures before a run: what is bad, doubled, leaked or biased, and what the run would take.

    Reads everything as training would, and loads no weights. Prints rows kept and bad, pictures, tokens, length bias,
    leakage, the first rows as the model sees them, and a forecast of memory and time. Exit code 0: clean; 1: a problem
    that --fail-on names; 2: wrong use.

    Example: `sightline data check recipes/dpo_llava_lora.yaml --against pope=eval_data/pope --html check.html`
    """
    options = locals()
    from sightline.data.inspect.checked import USUAL, problems, thresholds
    from sightline.train.check_run import Asks, asked_by, card_of, check_measured, speed_of
    from sightline.train.check_run import check as run

    limits = thresholds(USUAL if fail_on is None else fail_on)
    bare = {"format": format, "split": split, "image_dir": image_dir, "rename": rename, "limit": limit}
    resolved, dataset = _asked(recipe, data, bare | {"model": model, "max_length": max_length})
    _check_options(resolved, dataset, options)
    if fail_on is not None:
        check_measured(limits, resolved, dataset, against=bool(against), pixels=pixels, device=device)
    card = card_of(resolved, model)
    asks = Asks(
        title=str(recipe[0]) if recipe else str(data),
        rows=2 if rows is None else rows,
        decode=pixels,
        against=tuple((name, asked_by(name)) for name in against or ()),
        shown=not quiet,
        speed=None if resolved is None else functools.partial(speed_of, resolved, device, mfu),
        processes=processes,
    )
    with tempfile.TemporaryDirectory(prefix="sightline-check-") as folder:
        checked = run(dataset, asks, Path(folder), card=card, recipe=resolved)
        found = problems(checked, limits)
        document = _publish(checked, found, json_file, html)
    if found:
        raise Ended(document, code=1)
    return document


def _publish(checked: Checked, found: Sequence[Problem], json_file: Path | None, html: Path | None) -> Document:
    """Prints and writes what was found, while the pictures that shown rows name are there."""
    from sightline.data.inspect.checked import as_json
    from sightline.report.check import print_check, write_check_page

    print_check(console_out, checked, found)
    text = as_json(checked, found)
    if json_file is not None:
        replace_file(json_file, text, errors="replace")
        say(f"JSON: {json_file}")
    if html is not None:
        say(f"Page: {write_check_page(html, checked, found)}")
    document: Document = json.loads(text)
    return document


def _asked(recipe: Sequence[str] | None, data: str | None, bare: dict[str, Any]) -> tuple[Recipe | None, DatasetSpec]:
    """The recipe and its rows, or the rows that options name.

    Raises:
        RecipeError: both, or neither.
    """
    if (data is None) == (not recipe):
        raise RecipeError("expected a recipe, or --data with rows: found both or neither. Name one of them.")
    if recipe:
        given = [name for name, value in bare.items() if value not in (None, "auto", "train")]
        if given:
            option = f"--{given[0].replace('_', '-')}"
            places = {"model": "model.path", "max_length": "data.max_length"}
            place = places.get(given[0], f"data.train.0.{given[0]}")
            raise RecipeError(f"{option} goes with --data; of a recipe write an override ({place}=...).")
        from sightline.algorithms.registry import build_algorithm, build_mixed

        found = load_recipe(recipe[0], recipe[1:])
        found = with_reference(found, build_algorithm(found.algorithm), build_mixed(mixed_options(found)))
        return found, found.data or DatasetSpec(max_length=sys.maxsize)
    if bare["max_length"] is not None and bare["model"] is None:
        raise RecipeError("--max-length counts tokens, and there is no --model whose they are. Name one.")
    from sightline.cli.data import pairs

    values = {name: bare[name] for name in ("format", "split", "image_dir", "limit")}
    renamed = dict(pairs(bare["rename"], "--rename"))
    spec = check_spec(DataSpec, "data options", path=data, rename=renamed, **values)
    return None, DatasetSpec(train=(spec,), max_length=bare["max_length"] or sys.maxsize)


def _check_options(recipe: Recipe | None, dataset: DatasetSpec, options: Mapping[str, Any]) -> None:
    """
    Raises:
        RecipeError: options that contradict each other, or that nothing here could honour.
    """
    if options["against"] and not options["pixels"]:
        raise RecipeError("--against compares pixels, and --no-pixels decodes none. Leave one of them out.")
    if recipe is None and (options["device"] or options["mfu"] or options["processes"] > 1):
        raise RecipeError("--device, --mfu and --processes are for the forecast of a recipe. Name a recipe.")
    if options["rows"] and recipe is None and options["model"] is None:
        raise RecipeError("--rows shows rows as a model sees them. Name it with --model.")
    if options["device"] is not None:
        from sightline.models.forecast import check_device

        check_device(options["device"])
    online = [] if recipe is None or recipe.online is None else [recipe.online.prompts]
    read = [spec.path for spec in (*dataset.train, *dataset.eval, *online)] + (options["recipe"] or [])[:1]
    for option, path in (("--json", options["json_file"]), ("--html", options["html"])):
        _check_output(option, path, read)
    if options["json_file"] and options["html"] and options["json_file"].absolute() == options["html"].absolute():
        raise RecipeError(f"--json and --html are both {options['json_file']}. Give each a file of its own.")


def _check_output(option: str, path: Path | None, read: Iterable[str]) -> None:
    if path is None:
        return
    if path.absolute() in {Path(one).absolute() for one in read}:
        raise RecipeError(f"{option} is {path}, which is read here. Choose another file, so that nothing is lost.")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if path.is_dir() or not above.is_dir():
        raise RecipeError(f"{option} is {path}, where no file can be written. Name a file in a folder.")

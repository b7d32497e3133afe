"""``sightline train`` and ``sightline show``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from sightline.cli import complete
from sightline.cli.console import out, say, show_messages
from sightline.cli.json_result import Document, asked
from sightline.errors import EngineError
from sightline.recipes.load import load_recipe
from sightline.recipes.load_loop import is_loop, load_loop

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="The recipe.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="key=value",
        help="Overrides, dotted: train.learning_rate=1e-4",
        show_default=False,
        autocompletion=complete.override,
    ),
]


def train(
    recipe: RecipeFile,
    overrides: Overrides = None,
    resume: Annotated[
        bool | None,
        typer.Option(
            "--resume/--no-resume",
            help="Go on with the run in output_dir, or refuse to. Neither: go on if it is the same run.",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Remove the run in output_dir and start.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar, and of the messages only warnings.")] = False,
) -> Document:
    """Train as a recipe says.

    The run directory gets the resolved recipe, versions, metrics, checkpoints, the model and a
    report. A run that was stopped goes on where its last checkpoint was, with the same numbers.

    Example: `sightline train recipes/dpo_llava_lora.yaml train.learning_rate=5e-6 data.train.0.limit=100`
    """
    resolved = load_recipe(recipe, overrides or ())
    from sightline.models.load import hide_loading_bars
    from sightline.report.run_page import report_run
    from sightline.train.loop import train as run
    from sightline.train.shown import how_it_goes_on

    show_messages(quiet=quiet)
    hide_loading_bars()
    logged: list[Mapping[str, Any]] = []  # filled on the main process only
    try:
        result = run(resolved, resume=resume, overwrite=overwrite, quiet=quiet, on_log=logged.append)
    except (KeyboardInterrupt, EngineError):
        command = "The same command without --overwrite" if overwrite else "The same command"
        say(how_it_goes_on(resolved, command))
        raise
    if result.steps == result.resumed_from:
        say(f"{result.run_dir} has all its {result.steps} steps. Choose another output_dir, or pass --overwrite.")
    elif logged:
        say(f"{result.steps} steps done. Model: {result.model_dir}")
    else:
        return {}  # another process than the main one
    page = report_run(result.run_dir)  # also of a run that is whole: a kill may have come right before it
    if logged:
        say(f"Report: {page}")
    return {**vars(result), "report": page}


def show(
    recipe: RecipeFile,
    overrides: Overrides = None,
    explain: Annotated[bool, typer.Option("--explain", help="Above each key: what it means, its choices.")] = False,
) -> Document:
    """Print a recipe, of a training or of a loop, as it will run: checked, overrides applied, every default filled in.

    Example: `sightline show recipes/sft_llava.yaml train.epochs=2 --explain`
    """
    from sightline.train.shown import shown

    load = load_loop if is_loop(recipe) else load_recipe
    text = shown(load(recipe, overrides or ()), explain=explain)
    if out.is_terminal:
        from rich.syntax import Syntax

        out.print(Syntax(text, "yaml", background_color="default"))
    elif not asked():
        typer.echo(text, nl=False)
    values = yaml.safe_load(text)
    return {"recipe": values, "explained": text} if explain else {"recipe": values}

"""``sightline loop``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sightline.cli.console import out, say, show_messages
from sightline.cli.json_result import Document
from sightline.cli.train import Overrides
from sightline.errors import CheckpointError, RecipeError


def loop(
    recipe: Annotated[
        Path, typer.Argument(metavar="RECIPE.yaml", help="The recipe; with --status also a folder.", show_default=False)
    ],
    overrides: Overrides = None,
    status: Annotated[bool, typer.Option("--status", help="Show what is done, with times, and end.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Remove the loop in output_dir and start.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress of trainings, and only warnings.")] = False,
) -> Document:
    """Run rounds in which a model learns from what it said itself.

    Each round samples answers, scores and compares them, trains, merges, and is examined on held-out questions. Every
    stage leaves plain files. A loop that was stopped goes on where it was; what is done is done again only where what
    it reads, or its settings, changed. The page report.html shows the rounds.

    Example: `sightline loop recipes/self_rewarding_scenes.yaml rounds=2 method.sampling.n=4`

    Example: `sightline loop runs/self_rewarding_scenes --status`
    """
    if status:
        return _show_status(recipe, overrides or [])
    if recipe.is_dir():
        raise RecipeError(f"{recipe} is a folder, where the recipe of a loop was expected. --status shows a folder.")
    from sightline.recipes.load_loop import load_loop

    resolved = load_loop(recipe, overrides or ())
    from sightline.loops.run import run_loop
    from sightline.models.load import hide_loading_bars

    show_messages(quiet=quiet)
    hide_loading_bars()
    try:
        result = run_loop(resolved, overwrite=overwrite, quiet=quiet)
    except KeyboardInterrupt:
        say(f"Stopped. The same command{' without --overwrite' if overwrite else ''} goes on where it was.")
        raise
    say(f"The loop has ended: {result.ended}.")
    if result.value is not None:
        figure = f"{resolved.exam.best if resolved.exam else ''} {result.value:.4g}"
        told = f"round {result.best} ({figure})" if result.best else f"the start ({figure}): no round is better"
        say(f"Best: {told}")
    say(f"Model: {result.model}")
    page = result.folder / "report.html"
    say(f"Report: {page}")
    return {**vars(result), "report": page}


def _show_status(path: Path, overrides: list[str]) -> Document:
    from sightline.loops.state import STATE, State
    from sightline.loops.status import status_lines, status_table

    folder = path
    if not path.is_dir():
        from sightline.recipes.load_loop import load_loop

        folder = Path(load_loop(path, overrides).output_dir)
    if not (folder / STATE).is_file():
        raise CheckpointError(
            f"{folder} holds no loop (no {STATE} in it), expected the output_dir of one. Run its recipe first."
        )
    state = State.read(folder)
    out.print(status_table(state))
    for line in status_lines(state):
        out.print(line, highlight=False, markup=False, soft_wrap=True)
    return {"folder": folder, "stages": state.entries, "best": state.best, "ended": state.ended}

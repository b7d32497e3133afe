"""``sightline compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sightline.cli.train import Overrides
from sightline.errors import RecipeError


def compare(
    overrides: Overrides = None,
    methods: Annotated[
        str, typer.Option(help="Names, separated by commas, as --names shows them. Default: all.", show_default=False)
    ] = "",
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas.")] = "0,1,2",
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps of each method.")] = 150,
    out: Annotated[Path, typer.Option(help="Folder for everything.")] = Path("runs/compare"),
    base: Annotated[
        list[Path] | None,
        typer.Option(
            help="Model to start from in the place of an SFT: once for each seed, in their order.", show_default=False
        ),
    ] = None,
    names: Annotated[bool, typer.Option("--names", help="List the methods and end.")] = False,
) -> None:
    """Compare offline methods: one model to start from, one set of answers, one budget.

    For each seed a tiny LLaVA learns to describe drawn scenes, and to hallucinate. It answers prompts, its answers
    are scored, and every method learns from them. Prints the league table and writes report.html. What is finished
    is not done again.

    Overrides are laid over every method's recipe.

    Example: `sightline compare --methods dpo,orpo,kto --seeds 0,1 --out runs/compare`
    """
    from sightline.cli.console import out as console
    from sightline.cli.console import say
    from sightline.demo.league import LeagueSize, all_methods, run_league
    from sightline.report.league import terminal_table

    if names:
        console.print("\n".join(all_methods()))
        return
    size = LeagueSize(steps=steps, overrides=tuple(overrides or ()))
    try:
        league = run_league(seeds=_numbers(seeds), methods=_listed(methods), out=out, bases=base or (), size=size)
    except KeyboardInterrupt:
        say(f"Stopped. The same command does again what was not finished in {out}.")
        raise
    console.print(terminal_table(league.standings))
    console.print(f"Report: {out / 'report.html'}", soft_wrap=True)
    if league.failed:
        console.print("Not finished: " + "; ".join(f"{name} ({why})" for name, why in league.failed.items()))
        raise typer.Exit(1)


def _listed(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _numbers(text: str) -> list[int]:
    if not (found := _listed(text)) or not all(number.isdecimal() for number in found):
        raise RecipeError(f"--seeds is {text!r}, expected whole numbers separated by commas. Write --seeds 0,1,2.")
    return [int(number) for number in found]

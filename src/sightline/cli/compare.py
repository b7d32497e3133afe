"""``sightline compare``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sightline.cli.json_result import Document, Ended
from sightline.cli.train import Overrides
from sightline.errors import RecipeError

if TYPE_CHECKING:
    from sightline.report.league import League

Steps = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Optimizer steps of each method, of loops in each round. Default: 150, online 80, loops 10.",
        show_default=False,
    ),
]
Folder = Annotated[
    Path | None,
    typer.Option(
        help="Folder for everything. Default: runs/compare, runs/compare_online, runs/compare_loops.",
        show_default=False,
    ),
]
Bases = Annotated[
    list[Path] | None,
    typer.Option(
        help="Model to start from in the place of an SFT: once for each seed, in their order.", show_default=False
    ),
]


def compare(
    overrides: Overrides = None,
    methods: Annotated[
        str | None,
        typer.Option(help="Names, separated by commas, as --names shows them.", show_default="all"),
    ] = None,
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas.")] = "0,1,2",
    online: Annotated[
        bool, typer.Option("--online", help="Compare methods that learn from answers they sample themselves.")
    ] = False,
    loops: Annotated[
        bool, typer.Option("--loops", help="Compare loops: rounds of answers, pairs and training.")
    ] = False,
    steps: Steps = None,
    out: Folder = None,
    base: Bases = None,
    names: Annotated[bool, typer.Option("--names", help="List the methods and end.")] = False,
) -> Document:
    """Compare methods: one model to start from, one set of answers, one budget.

    For each seed a tiny LLaVA learns to describe drawn scenes, and to hallucinate. It answers prompts, its answers
    are scored, and every method learns from them; with --online every method samples answers of its own to the same
    prompts; with --loops every method is a loop of several rounds. Prints the league table and writes report.html.
    What is finished is not done again.

    Overrides are laid over every method's recipe.

    Example: `sightline compare --methods dpo,orpo,kto --seeds 0,1 --out runs/compare`

    Example: `sightline compare --online --methods ppo,grpo --seeds 0`

    Example: `sightline compare --loops --methods csr,csr_own_score,csr_relevance`
    """
    from sightline.cli.console import out as console
    from sightline.cli.console import say
    from sightline.demo.league import all_methods, run_league
    from sightline.demo.sizes import LeagueSize, LoopSize, OnlineSize, folder_of

    if online and loops:
        raise RecipeError("found --online and --loops, which are two comparisons. Leave out one.")
    if names:
        known = list(all_methods(online=online, loops=loops))
        console.print("\n".join(known))
        return {"methods": known}
    kind = LoopSize if loops else OnlineSize if online else LeagueSize
    size = kind(steps=kind.steps if steps is None else steps, overrides=tuple(overrides or ()))
    out = out or folder_of(size)
    chosen = [] if methods is None else _listed(methods)
    if methods is not None and not chosen:
        raise RecipeError(f"--methods is {methods!r}, expected names, separated by commas. Leave it out for all.")
    try:
        league = run_league(seeds=_numbers(seeds), methods=chosen, out=out, bases=base or (), size=size)
    except KeyboardInterrupt:
        say(f"Stopped. The same command does again what was not finished in {out}.")
        raise
    return _shown(league, out)


def _shown(league: League, out: Path) -> Document:
    from sightline.cli.console import out as console
    from sightline.report.league import terminal_table

    console.print(terminal_table(league.standings))
    page = out / "report.html"
    console.print(f"Report: {page}", soft_wrap=True, markup=False)
    document = {"folder": out, "report": page, "league": league}
    if league.failed:
        failed = "; ".join(f"{name} ({why})" for name, why in league.failed.items())
        console.print(f"Not finished: {failed}", soft_wrap=True, markup=False)
        raise Ended(document, code=1)
    return document


def _listed(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _numbers(text: str) -> list[int]:
    if not (found := _listed(text)) or not all(number.isdecimal() for number in found):
        raise RecipeError(f"--seeds is {text!r}, expected whole numbers separated by commas. Write --seeds 0,1,2.")
    return [int(number) for number in found]

"""``sightline demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sightline.cli.console import say
from sightline.cli.json_result import Document


def demo(
    seed: Annotated[int, typer.Option(help="Another seed is another world, model and run.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for everything. Default: runs/demo, with the seed behind it.", show_default=False),
    ] = None,
    quick: Annotated[bool, typer.Option(help="A shorter run that shows less.")] = False,
) -> Document:
    """Align a tiny model on this machine, and show that it hallucinates less.

    Trains a tiny LLaVA on drawn scenes until it hallucinates as real models do, lets it answer,
    prefers what is really in the picture, and aligns it with DPO. Writes report.html and results.json.

    Example: `sightline demo --seed 1 --out runs/demo-1`
    """
    from sightline.demo.launch import default_folder, run_demo

    try:
        results = run_demo(seed=seed, out=out, quick=quick)
    except KeyboardInterrupt:
        say("Stopped. The same command goes on from what is whole.")
        raise
    folder = out or default_folder(seed)
    return {"folder": folder, "report": folder / "report.html", **results}

"""What the notebooks run on where no model and no data are named: a tiny LLaVA, and pairs about drawn shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sightline.models.assemble import TinyLlava
from sightline.models.load import hide_loading_bars
from sightline.scenes.world import Scenes

WORLD = Scenes(seed=0, objects=(1, 2), shapes=("star", "circle"), companions={}, colours=("red", "blue"), grid=2)
"""One or two shapes in red or blue: little enough to be learnt in seconds."""
_OTHER = {"red": "blue", "blue": "red"}


def small_model(folder: str | Path) -> str:
    """A LLaVA with random weights that learns the colours of drawn shapes within a few steps; its folder."""
    place = Path(folder)
    if not (place / "config.json").is_file():
        hide_loading_bars()
        TinyLlava().build(place, Scenes().vocabulary(), seed=0)
    return str(place)


def preference_rows(folder: str | Path, number: int, *, start: int = 0) -> list[dict[str, Any]]:
    """Questions for the colour of a shape: the right colour is chosen over the other one. Every seventh answer that is
    rejected is long-winded, as answers in real data are.

    Args:
        folder: where the pictures are drawn.
        number: of rows.
        start: number of the first scene; other scenes are other rows.
    """
    rows = []
    for index, group in enumerate(WORLD.prompts("train", number, Path(folder).resolve(), kind="colour", start=start)):
        prompt = group.prompts[0]
        right = prompt.facts["truth"]
        wrong = _OTHER[right]
        question = next(part["text"] for part in prompt.messages[-1]["content"] if part["type"] == "text")
        rejected = f"a {wrong} and a {wrong}" if index % 7 == 6 else wrong
        rows.append({"prompt": question, "chosen": right, "rejected": rejected, "images": list(prompt.images)})
    return rows

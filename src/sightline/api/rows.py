"""Rows in memory in the place of those that a recipe names."""

from __future__ import annotations

import os
import re
from collections.abc import Set
from dataclasses import replace
from pathlib import Path
from typing import Literal

from sightline.data.memory import Rows, write_rows
from sightline.errors import CheckpointError, RecipeError
from sightline.recipes.load import conflicts
from sightline.recipes.schema import DatasetSpec, DataSpec, Recipe

Part = Literal["train", "eval"]
_NAMES: dict[Part, str] = {"train": "rows", "eval": "held_out"}
"""What they are called in messages."""
_KEPT = re.compile(r"[0-9a-f]{32}\.\w+")
"""Names of pictures that were given in memory."""


def with_rows(
    recipe: Recipe, folder: Path, *, rows: Rows | None = None, held_out: Rows | None = None, fixed: bool = False
) -> Recipe:
    """The recipe with rows that lie in a folder, where they are written with their pictures.

    Args:
        recipe: whose one source they replace: ``data.train`` (of an online recipe ``online.prompts``), ``data.eval``.
        folder: of ``train.jsonl``, ``eval.jsonl`` and ``images``.
        rows: to train on; None: the recipe's own.
        held_out: None: the recipe's own.
        fixed: what lies there already must be the same.

    Raises:
        RecipeError: several processes, or a recipe with several sources where one can be replaced.
        CheckpointError: other rows lie there.
        DataError: a row that cannot be written.
    """
    given: dict[Part, Rows] = {}
    if rows is not None:
        given["train"] = rows
    if held_out is not None:
        given["eval"] = held_out
    if given and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RecipeError(
            "found rows in memory and several processes, each with rows of its own. Write them to one file "
            "(sightline.write_groups), and name it under data.train."
        )
    made = recipe
    for part in given:
        made = _named(made, part, folder / f"{part}.jsonl")
    if given and (faults := [text for _, text in conflicts(made)]):
        raise RecipeError("\n".join(f"{recipe.name}: {text}" for text in faults))
    for part, some in given.items():
        _place(some, folder / f"{part}.jsonl", _NAMES[part], fixed=fixed)
    if given and not fixed:
        _tidy(folder, read={folder / f"{part}.jsonl" for part in given} | _sources(made))
    return made


def _tidy(folder: Path, read: Set[Path]) -> None:
    """Removes rows of an earlier run that this one does not read, and pictures that no rows name any more."""
    wanted = {path.resolve() for path in read}
    files = [folder / f"{part}.jsonl" for part in _NAMES]
    for file in files:
        if file.resolve() not in wanted:
            file.unlink(missing_ok=True)
    named: set[str] = set()
    for file in filter(Path.is_file, files):
        with file.open(encoding="utf-8") as lines:
            named.update(name for line in lines for name in _KEPT.findall(line))
    for picture in (folder / "images").glob("*"):
        if _KEPT.fullmatch(picture.name) and picture.name not in named:
            picture.unlink()


def _sources(recipe: Recipe) -> set[Path]:
    """Files that a recipe reads rows from."""
    data, online = recipe.data, recipe.online
    specs = [*(data.train if data else ()), *(data.eval if data else ()), *([online.prompts] if online else ())]
    return {Path(spec.path) for spec in specs}


def _place(rows: Rows, file: Path, name: str, *, fixed: bool) -> None:
    new, images = file.with_suffix(".new.jsonl"), file.parent / "images"
    before = set(images.glob("*"))
    try:
        count = write_rows(rows, new, name=name, pictures=images)
        named = f'"{images.absolute()}/'.encode()  # as earlier versions named pictures
        same = file.is_file() and file.read_bytes().replace(named, b'"file:images/') == new.read_bytes()
        if fixed and not same:
            raise CheckpointError(
                f"{file.parent.parent} holds a run with other {name} than these {count}. Give those that it began "
                "with, choose another output_dir, or pass overwrite=True."
            )
        new.replace(file)
    except BaseException:  # its pictures would stay in a run that does not read them
        for picture in set(images.glob("*")) - before:
            picture.unlink()
        raise
    finally:
        new.unlink(missing_ok=True)


def _named(recipe: Recipe, part: Part, file: Path) -> Recipe:
    """The recipe with ``file`` as the rows of a part.

    Raises:
        RecipeError: the part has several sources.
    """
    if part == "train" and recipe.online is not None:
        return replace(recipe, online=replace(recipe.online, prompts=_source(recipe.online.prompts, file)))
    data = recipe.data or DatasetSpec()
    specs = data.train if part == "train" else data.eval
    if len(specs) > 1:
        raise RecipeError(
            f"{recipe.name}: {_NAMES[part]} in memory are one source, and data.{part} has {len(specs)}. Leave one "
            f"under data.{part}, whose keys then hold for them."
        )
    like = replace(data.train[0], limit=None) if data.train else DataSpec(path="")  # held-out rows are laid out alike
    source = (_source(specs[0] if specs else like, file),)
    return replace(recipe, data=replace(data, train=source) if part == "train" else replace(data, eval=source))


def _source(spec: DataSpec, file: Path) -> DataSpec:
    """``file`` read as a source of the recipe; relative paths of pictures start from the working directory."""
    return replace(spec, path=str(file), entry=None, image_dir="." if spec.image_dir is None else spec.image_dir)

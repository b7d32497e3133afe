"""``sightline pairs``: from scored answers to preferences, or to the best of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from sightline.cli.console import say
from sightline.cli.json_result import Document
from sightline.cli.samples import ImageDir, Limit, Out, tell
from sightline.cli.stage import check_apart
from sightline.data.schema import write_groups
from sightline.errors import DataError, RecipeError
from sightline.recipes.load import check_spec
from sightline.recipes.preferences import SelectionSpec
from sightline.recipes.rewards import pairs_of
from sightline.recipes.schema import DataSpec
from sightline.relations.scores import only_compared
from sightline.relations.selection import check_pairing, check_scored, relation_of
from sightline.types import Group


def pairs(
    groups: Annotated[str, typer.Argument(help="Scored Group file; for --relation options, rows with a right option.")],
    out: Out,
    relation: Annotated[
        Literal["best_worst", "ranked", "length_balanced", "ovip", "options"],
        typer.Option(
            help="Best over worst; every higher reward over every lower (with --min-gap the margin rule); as often a "
            "longer over a shorter answer as the other way round; OViP's rule; the right option over a wrong one."
        ),
    ] = "best_worst",
    best: Annotated[
        bool, typer.Option("--best", help="No pairs: the best answer of each group alone, to train by SFT (best of n).")
    ] = False,
    min_gap: Annotated[
        float, typer.Option(min=0, help="Least difference of reward for a pair; of --best, between best and worst.")
    ] = 0.0,
    selection: Annotated[
        str | None,
        typer.Option(help="Of ovip: values by name (small=4,good=6), as online.selection.", show_default="published"),
    ] = None,
    fallback: Annotated[
        Literal["reference", "relaxed", "none"] | None,
        typer.Option(help="Of ovip: what stands in where no pair is found.", show_default="reference"),
    ] = None,
    keep_all: Annotated[bool, typer.Option("--keep-all", help="Keep answers that are in no pair.")] = False,
    image_dir: ImageDir = None,
    limit: Limit = None,
) -> Document:
    """Say which answers are preferred over which, or keep the best ones.

    Groups without a pair (all rewards equal, or closer than --min-gap) are left out and counted.

    Example: `sightline pairs scored.jsonl --relation best_worst --min-gap 0.1 -o pairs.jsonl`

    Example: `sightline pairs scored.jsonl --best -o best.jsonl`

    Example: `sightline pairs scored.jsonl --relation ovip --fallback relaxed -o pairs.jsonl`

    Example: `sightline pairs scienceqa.json --relation options --image-dir images -o pairs.jsonl`
    """
    check_apart(out, groups)
    name = "best" if best else relation
    own = [key for key, value in (("selection", selection), ("fallback", fallback)) if value is not None]
    check_pairing(relation, best=best, min_gap=min_gap, keep_all=keep_all, of_ovip=own)
    rule = _selection(selection, fallback)
    rows = _rows(groups, out, name, image_dir=image_dir, limit=limit)
    if name != "options":
        rows = [relation_of(name, min_gap, rule)(group) for group in rows]
    kept = [group for group in rows if (group.responses if best else group.edges)]
    if not kept:
        found = f"no {'answer' if best else 'pair'} among {len(rows)} groups"
        raise DataError(found, source=groups, remedy=_remedy(name, min_gap))
    write_groups(out, [group if keep_all or best else only_compared(group) for group in kept])
    compared = sum(len(group.edges) for group in kept)
    left = f"{len(rows) - len(kept)} groups without a pair"
    if best:
        say(f"the best answer of {len(kept)} groups, {len(rows) - len(kept)} groups left out: {out}")
    else:
        say(f"{compared} pairs in {len(kept)} groups, {left}: {out}")
    return {"groups": out, "kept": len(kept), "left_out": len(rows) - len(kept), "pairs": 0 if best else compared}


def _remedy(name: str, min_gap: float) -> str:
    """What to do where nothing is left, by the options that the relation reads."""
    if name == "ovip":
        return "Bring --selection to the scale of the rewards, or sample more answers"
    return "Lower --min-gap, or sample more answers" if min_gap else "Sample more answers"


def _rows(path: str, out: Path, name: str, *, image_dir: str | None, limit: int | None) -> list[Group]:
    """The groups, each answer with its reward; for ``options`` compared as they are read."""
    from sightline.data.load import Account, load_groups

    made_by_reader: Literal["options", "none"] = "options" if name == "options" else "none"
    account = Account(cache_dir=out.parent / "images")
    rows = load_groups(DataSpec(path=path, image_dir=image_dir, limit=limit, relation=made_by_reader), account)
    tell(account)
    if name != "options" and (failed := check_scored(rows, path)):
        say(f"{len(failed)} answers got no reward and are left out (first: {failed[0]})")
    return rows


def _selection(text: str | None, fallback: str | None) -> SelectionSpec:
    """What ovip selects by.

    Raises:
        RecipeError: wrong values.
    """
    numbers = {} if text is None else pairs_of(text)
    if numbers is None:
        raise RecipeError(f"found --selection {text!r}, expected numbers by name, such as good=0.6,small_gap=0.4.")
    values: dict[str, Any] = {key: pair["weight"] for key, pair in numbers.items()}
    values |= {} if fallback is None else {"fallback": fallback}
    return check_spec(SelectionSpec, "--selection", **values)

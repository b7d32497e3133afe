"""``sightline data``: rows of any layout as Group files, with their pictures fetched where they lie on the web."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sightline.cli.console import say
from sightline.cli.json_result import Document
from sightline.cli.stage import check_apart
from sightline.errors import RecipeError
from sightline.progress import Progress
from sightline.recipes.schema import DataSpec

if TYPE_CHECKING:
    from sightline.data.load import Account

app = typer.Typer(no_args_is_help=True, help="Check, convert and fetch rows.")

Rows = Annotated[str, typer.Argument(help="File, glob, folder or datasets name.", show_default=False)]
Out = Annotated[Path, typer.Option("--out", "-o", help="Group file to write.", show_default=False)]
Format = Annotated[str, typer.Option("--format", help="Layout of the rows.")]
Entry = Annotated[str | None, typer.Option(help="Entry of the dataset_info.json that ROWS names.", show_default=False)]
Split = Annotated[str, typer.Option(help="Split of a folder or datasets name.")]
ImageDir = Annotated[str | None, typer.Option(help="Folder that relative image paths start from.", show_default=False)]
Rename = Annotated[list[str] | None, typer.Option(help="old=new, of a column; may be repeated.", show_default=False)]
Where = Annotated[
    list[str] | None, typer.Option(help="column=value: rows of a subset only; may be repeated.", show_default=False)
]
Relation = Annotated[Literal["text", "best_worst", "none"], typer.Option(help="Which answers are compared.")]
Limit = Annotated[int | None, typer.Option(min=1, help="First rows only.", show_default=False)]
OnBadRow = Annotated[Literal["error", "skip"], typer.Option(help="Stop at a bad row, or list it beside OUT and go on.")]


@app.command()
def convert(
    rows: Rows,
    out: Out,
    format: Format = "auto",
    entry: Entry = None,
    split: Split = "train",
    image_dir: ImageDir = None,
    rename: Rename = None,
    where: Where = None,
    relation: Relation = "text",
    limit: Limit = None,
    on_bad_row: OnBadRow = "error",
) -> Document:
    """Write rows of any layout as a Group file. Pictures inside rows go to `OUT.images`; others stay where they are.

    Example: `sightline data convert "RLHF-V/*.parquet" -o pairs.jsonl`
    """
    spec = _spec(locals())
    return _write(spec, out, _account(out, on_bad_row))


@app.command()
def fetch(
    rows: Rows,
    out: Out,
    format: Format = "auto",
    entry: Entry = None,
    split: Split = "train",
    image_dir: ImageDir = None,
    rename: Rename = None,
    where: Where = None,
    relation: Relation = "text",
    limit: Limit = None,
    on_bad_row: OnBadRow = "error",
    max_megabytes: Annotated[float, typer.Option(min=0.001, help="Largest picture file.")] = 20.0,
    timeout: Annotated[float, typer.Option(min=0.1, help="Most seconds for one picture.")] = 30.0,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Downloads at a time.")] = 8,
) -> Document:
    """Convert rows, and fetch their pictures at http and https addresses into `OUT.images`.

    This is the only command that loads pictures from the web. What is there is not fetched again: a stopped command
    goes on where it was.

    Example: `sightline data fetch rows.jsonl -o groups.jsonl --on-bad-row skip`
    """
    from sightline.data.fetch import Cache, Limits
    from sightline.data.load import load_groups
    from sightline.data.validate import Checks

    spec = _spec(locals())
    cache = Cache(folder=_images(out))
    looking = replace(_account(out, "skip"), fetched=cache.path, checks=Checks(images=False))
    load_groups(spec, looking)
    missing = sum(not path.is_file() for path in cache.wanted.values())
    limits = Limits(most_bytes=int(max_megabytes * 1e6), seconds=timeout, workers=workers)
    with Progress("pictures", missing) as bar:
        faults = cache.fetch(limits, bar.update)
    say(f"{missing - len(faults)} of {missing} pictures fetched, {len(cache.wanted) - missing} were there")
    pictures = {"wanted": len(cache.wanted), "fetched": missing - len(faults), "failed": len(faults)}
    written = _write(spec, out, replace(_account(out, on_bad_row), fetched=cache.path, unfetched=faults))
    return {**written, "pictures": pictures}


def _images(out: Path) -> Path:
    return out.with_name(f"{out.name}.images")


def _account(out: Path, on_bad_row: Literal["error", "skip"]) -> Account:
    from sightline.data.load import Account

    return Account(on_bad_row=on_bad_row, cache_dir=_images(out))


def _spec(options: dict[str, Any]) -> DataSpec:
    """The source that the options of a command name."""
    where: dict[str, tuple[str, ...]] = {}
    for name, value in pairs(options["where"], "--where"):
        where[name] = (*where.get(name, ()), value)
    names = ("format", "entry", "split", "image_dir", "relation", "limit")
    chosen = {name: options[name] for name in names}
    formats = _formats()
    if chosen["format"] not in formats:
        raise RecipeError(f"--format is '{chosen['format']}', expected one of {', '.join(formats)}. Choose one.")
    check_apart(options["out"], options["rows"])
    return DataSpec(path=options["rows"], rename=dict(pairs(options["rename"], "--rename")), where=where, **chosen)


def _formats() -> list[str]:
    from sightline.data.readers.layouts import LAYOUTS

    return ["auto", *LAYOUTS]


def pairs(given: list[str] | None, option: str) -> list[tuple[str, str]]:
    """``name=value`` options."""
    found = []
    for text in given or ():
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise RecipeError(f"{option} is '{text}', expected name=value. Write for example {option} question=prompt.")
        found.append((name, value))
    return found


def _write(spec: DataSpec, out: Path, account: Account) -> Document:
    from sightline.data.load import load_groups
    from sightline.data.schema import write_groups
    from sightline.data.validate import list_bad_rows

    listed = out.with_name(f"{out.name}.bad_rows.jsonl")
    try:
        groups = load_groups(spec, account)
    finally:
        if account.on_bad_row == "skip":
            list_bad_rows(listed, account.report)
    write_groups(out, groups)
    for note in account.report.notes:
        say(note)
    told = f" (bad rows: {listed})" if account.report.bad else ""
    say(f"{account.report.summary()}: {out}{told}")
    report = account.report
    counts = {
        "read": report.read,
        "kept": report.kept,
        "with_pictures": report.with_pictures,
        "bad": report.by_reason(),
    }
    return {"rows": out, **counts, "bad_rows": listed if report.bad else None, "notes": report.notes}

"""What the benchmark commands make of their options: folders, ``key=value`` lines, judges, tables."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml
from rich import box
from rich.table import Table
from rich.text import Text

from sightline.cli.console import out, say
from sightline.errors import DataError
from sightline.evaluation.bench import Benchmark
from sightline.evaluation.benches import check_name, load_bench
from sightline.evaluation.json_files import LONE_SURROGATES
from sightline.evaluation.results import RESULTS, Measured, figure_cells, length_words, picture_words
from sightline.evaluation.run import only_one
from sightline.files import replace_file
from sightline.report.table import number_column, words_column

_SIDE: Final = 15
"""Columns for one of several models: a number, the line beside it, and a part of its name."""


def options_of(bench: str, given: Sequence[str]) -> dict[str, Any]:
    """``key=value`` for every benchmark, ``bench.key=value`` for one; values are read as YAML.

    Raises:
        DataError: A line without ``=``, a value that is no YAML, or one option twice.
    """
    shared, own = dict[str, Any](), dict[str, Any]()
    for line in given:
        key, equals, value = line.partition("=")
        if not equals:
            raise DataError(f"the option {line!r} has no '='", remedy="Write --option key=value")
        owner, dot, name = key.rpartition(".")
        if not dot or owner == bench:
            options = own if dot else shared
            if name in options:
                raise DataError(f"the option {key} is given twice", source=bench, remedy="Give it once")
            options[name] = _value(line, value)
    return shared | own


def check_owners(benches: Sequence[str], pairs: Sequence[str], options: Sequence[str]) -> None:
    """Refuses what is meant for a benchmark that does not exist; for one that is not asked for now it may stand.

    Args:
        benches: Those that are asked for.
        pairs: ``NAME=value`` lines, and lines for all.
        options: ``NAME.key=value`` lines, and lines for all.

    Raises:
        DataError: A line names no benchmark that there is.
    """
    asked = [load_bench(name).name for name in benches]
    owners = [line.partition("=")[0] for line in pairs if "=" in line]
    owners += [line.partition("=")[0].rpartition(".")[0] for line in options if "." in line.partition("=")[0]]
    for owner in owners:
        if owner not in asked:
            check_name(owner)


def check_kept(read: Sequence[Path], outputs: Iterable[Path | None], *, what: str = "the answers") -> None:
    """
    Raises:
        DataError: A file that is written is one of those that are read, or of the results in a folder of them.
    """
    kept = {path.resolve() for path in read}
    for path in outputs:
        if path is None:
            continue
        place = path.resolve()
        below = (place.parent, place.parent.parent) if path.name == RESULTS else ()
        if kept & {place, *below}:
            raise DataError(f"would be written over {what}", source=str(path), remedy="Choose another name")


def parsed_judge(given: Sequence[str]) -> dict[str, Any]:
    """``key=value`` of the judge; messages do not show a value, for it may be the key.

    Raises:
        DataError: A line without ``=``, or a value that is no YAML.
    """
    options = {}
    for place, line in enumerate(given, start=1):
        name, equals, value = line.partition("=")
        if not equals:
            raise DataError(f"--judge-option number {place} has no '='", remedy="Write --judge-option key=value")
        if name in options:
            raise DataError(f"--judge-option {name} is given twice", remedy="Give it once")
        if name == "key":
            options[name] = value  # as it is: a key is no YAML
            continue
        try:
            options[name] = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            remedy = "Quote what is no YAML"
            raise DataError(f"the value of --judge-option {name} cannot be read", remedy=remedy) from error
    return options


def _value(line: str, value: str) -> Any:
    try:
        return yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        first = str(error).splitlines()[0]
        raise DataError(
            f"the option {line!r:.200} cannot be read ({first:.200})", remedy="Quote what is no YAML"
        ) from error


def protocol_of(bench: Benchmark, given: Sequence[str], option: str = "--protocol") -> str | None:
    """``P`` for every benchmark, ``bench=P`` for one; the latter wins.

    Raises:
        DataError: Several are given, or an empty one.
    """
    own = [value.partition("=")[2] for value in given if value.startswith(f"{bench.name}=")]
    shared = [value for value in given if "=" not in value]
    return only_one(bench, own or shared, option) if own or shared else None


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Writes figures to a file, folders included."""
    text = json.dumps(document, indent=2, ensure_ascii=False)
    replace_file(path, text + "\n", errors=LONE_SURROGATES)


def result_table(measured: Measured) -> Table:
    """One result for the terminal: figures as the protocol prints them, and their intervals."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    words_column(table, "metric")
    number_column(table, "value")
    words_column(table, "95 % interval", justify="right")
    for cells in figure_cells(measured):
        table.add_row(*map(Text, cells))
    return table


def category_table(measured: Measured) -> Table | None:
    """The first figure that categories share, category by category; None where none do."""
    categories = measured.result.by_category
    names = [name for name in measured.result.metrics if sum(name in values for values in categories.values()) > 1]
    if not names:
        return None
    decimals = 3 if all(abs(values.get(names[0], 0.0)) <= 1 for values in categories.values()) else 1
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    words_column(table, "category")
    words_column(table, names[0], justify="right")
    words_column(table, "95 % interval", justify="right")
    for category, values in categories.items():
        if names[0] in values:
            found = measured.category_intervals.get(category, {}).get(names[0])
            cell = (
                ""
                if found is None or math.isnan(found.low)
                else f"[{found.low:.{decimals}f}, {found.high:.{decimals}f}]"
            )
            table.add_row(Text(category), Text(f"{values[names[0]]:.{decimals}f}"), Text(cell))
    return table


def side_by_side(rows: Mapping[str, Mapping[str, float]], width: int) -> Iterator[Table]:
    """Figures of several models, each in a column, as many in a table as have room for their numbers.

    Args:
        rows: figures by the name of the model.
        width: columns of the terminal.
    """
    titles, figures = list(rows), dict.fromkeys(name for row in rows.values() for name in row)
    most = max(1, (width - max(map(len, figures), default=0) - 4) // _SIDE)
    for first in range(0, len(titles), most):
        some = titles[first : first + most]
        table = Table()
        words_column(table, "figure")
        for title in some:
            words_column(table, title, justify="right")
        for name in figures:
            cells = (f"{rows[title][name]:.2f}" if name in rows[title] else "" for title in some)
            table.add_row(Text(name), *map(Text, cells))
        yield table


def show_result(measured: Measured, *, counted: str = "") -> None:
    """Prints a result, its notes and how long the answers are: length stands beside every figure.

    ``counted``: what the figures are of, where that is not answers.
    """
    result = measured.result
    counted = counted or f"{len(result.graded)} answers"
    failed = f", {result.failures} failures" if result.failures else ""
    out.print(Text(f"{result.bench} ({result.protocol}), {counted}{failed}", style="bold"))
    out.print(result_table(measured))
    by_category = category_table(measured)
    if by_category is not None:
        out.print(by_category)
    length = measured.facts.get("length", {})
    if length:
        cut = f", {length['cut']:.1%} cut at the limit of tokens" if "cut" in length else ""
        say(f"Length of answers: {length_words(measured)}; {length['empty']:.1%} empty{cut}.")
    if "prompts" in measured.facts:
        say(f"Wording of the questions: {measured.facts['prompts']}.")
    if pictures := picture_words(measured):
        say(f"Pictures: {pictures}.")
    if quantization := measured.facts.get("quantization"):
        say(f"The linear layers of the decoder are held in {quantization}.")
    judge = measured.facts.get("judge")
    if judge:
        cost = f", cost {judge['cost']:.4g}" if "cost" in judge else ""
        tokens = f"{judge['prompt_tokens']} + {judge['completion_tokens']} tokens{cost}"
        asked = f"{judge['requests']} requests, {judge['cached']} from the cache, {judge['failed']} failed"
        asked += f", {judge['cut']} cut at their limit of tokens" if judge["cut"] else ""
        say(f"Judge {judge['name']}: {asked}, {judge['retries']} retries, {tokens}.")
        for error in judge["errors"]:
            say(f"  {error}")
    for note in measured.result.notes:
        say(note)

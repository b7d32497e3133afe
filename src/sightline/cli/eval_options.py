"""What the benchmark commands make of their options: folders, ``key=value`` lines, judges, tables."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from sightline.evaluation.judge import JudgeClient, load_judge
from sightline.evaluation.results import Measured, length_words, picture_words
from sightline.files import replace_file
from sightline.progress import Progress
from sightline.report.table import SIGNS, Row, bounds, legend, number

_MOST_DECIMALS: Final = 4


def data_folder(bench: Benchmark, given: Sequence[str], default: Path) -> Path:
    """The data of a benchmark: ``NAME=DIR``, or the folder of its name in DIR, or DIR itself.

    Args:
        bench: Whose data.
        given: As on the command line.
        default: For the built-in world, which needs no data.

    Raises:
        DataError: No folder is given, it does not exist, or several may be meant.
    """
    own = [value.partition("=")[2] for value in given if value.startswith(f"{bench.name}=")]
    shared = [value for value in given if "=" not in value]
    if len(shared) > 1:  # those that hold a folder of the benchmark's name
        shared = [folder for folder in shared if (Path(folder) / bench.name).is_dir()] or shared
    if bench.name == "scenes" and not own and not any(_has_scenes(Path(folder)) for folder in shared):
        default.mkdir(parents=True, exist_ok=True)  # pictures are not drawn into a folder of other benchmarks
        return default
    if not own and not shared:
        raise DataError("no data folder is given", source=bench.name, remedy=f"Pass --data DIR. Needed: {bench.needs}")
    folder = Path(_only(bench, own or shared, "--data"))
    if not own and (folder / bench.name).is_dir():
        folder = folder / bench.name
    if not folder.exists():
        raise DataError("the data folder does not exist", source=str(folder), remedy=f"Needed: {bench.needs}")
    return folder


def _only(bench: Benchmark, values: Sequence[str], option: str) -> str:
    """The one value that is given.

    Raises:
        DataError: There are several, or it is empty.
    """
    if len(set(values)) > 1:
        remedy = f"Give one, as {option} {bench.name}=..."
        raise DataError(f"{option} is given several times ({', '.join(values)})", source=bench.name, remedy=remedy)
    if not values[0]:
        raise DataError(f"{option} is empty", source=bench.name, remedy="Give a value, or leave it out")
    return values[0]


def _has_scenes(folder: Path) -> bool:
    """Whether it is a folder for drawings, holds one, or does not exist (which is said where it is read)."""
    return (folder / "scenes.json").is_file() or (folder / "scenes").is_dir() or not folder.exists()


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


def check_kept(responses: Path, outputs: Sequence[Path]) -> None:
    """
    Raises:
        DataError: A file that is written is that of the answers.
    """
    for path in outputs:
        if path.resolve() == responses.resolve():
            raise DataError("would be written over the answers", source=str(path), remedy="Choose another name")


def judge_options(given: Sequence[str]) -> dict[str, Any]:
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
    return _only(bench, own or shared, option) if own or shared else None


def check_judge(spec: str | None, options: Sequence[str]) -> None:
    """Says what is wrong with a judge without asking it anything.

    Raises:
        DataError: There is none of that kind, an option is unknown or without a judge, or key or file is missing.
        RecipeError: A local model is not there.
    """
    if spec is not None:
        load_judge(spec, judge_options(options))
    elif options:
        raise DataError("--judge-option is given without --judge", remedy="Pass --judge openai:MODEL")


@contextmanager
def judging(spec: str | None, options: Sequence[str], folder: Path) -> Iterator[JudgeClient | None]:
    """The judge of the command line, with a progress bar while it works.

    Its replies are cached in ``folder``/judge_cache, unless replayed, and recorded in ``folder``/judge.jsonl.
    """
    check_judge(spec, options)
    if spec is None:
        yield None
        return
    record = None if spec.startswith("replay:") else folder / "judge.jsonl"
    with Progress("judging", None) as bar:
        client = load_judge(
            spec,
            judge_options(options),
            cache=folder / "judge_cache",
            record=record,
            on_progress=lambda done, total: bar.update(done, total=total),
        )
        try:
            yield client
        except KeyboardInterrupt:
            say(f"Stopped. The replies so far are in {client.cache}: the same command goes on from there.")
            raise


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Writes figures to a file, folders included."""
    text = json.dumps(document, indent=2, ensure_ascii=False)
    replace_file(path, text + "\n", errors=LONE_SURROGATES)


def result_table(measured: Measured) -> Table:
    """One result for the terminal: figures as the protocol prints them, and their intervals."""
    result = measured.result
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("metric", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("95 % interval", justify="right", no_wrap=True)
    for name, value in result.metrics.items():
        shown = result.metrics_printed.get(name, f"{value:.4g}")
        decimals = len(shown.partition(".")[2].rstrip("% "))
        if decimals > _MOST_DECIMALS:  # a script that prints a float as it is; the results file has all of it
            shown, decimals = f"{value:.{_MOST_DECIMALS}f}", _MOST_DECIMALS
        found = measured.intervals.get(name)
        defined = found is not None and not math.isnan(found.low)
        cell = f"[{found.low:.{decimals}f}, {found.high:.{decimals}f}]" if found is not None and defined else ""
        table.add_row(Text(name), Text(shown), Text(cell))
    return table


def category_table(measured: Measured) -> Table | None:
    """The first figure that categories share, category by category; None where none do."""
    categories = measured.result.by_category
    names = [name for name in measured.result.metrics if sum(name in values for values in categories.values()) > 1]
    if not names:
        return None
    decimals = 3 if all(abs(values.get(names[0], 0.0)) <= 1 for values in categories.values()) else 1
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("category", overflow="fold")
    table.add_column(names[0], justify="right", no_wrap=True)
    table.add_column("95 % interval", justify="right", no_wrap=True)
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


def changes_table(rows: Sequence[Row], *, words: bool = True) -> Table:
    """A against B for the terminal: both values, and the difference with its interval; ``words``: verdicts are spelled
    out, otherwise signs fit beside long names."""
    caption = None if words else legend(rows)
    padding = (0, 1) if words else (0, 0, 0, 1)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=padding, caption=caption, caption_justify="left")
    table.add_column("metric", no_wrap=True)
    for title in ("A", "B", "B - A"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("95 % interval", justify="right", no_wrap=words)  # what gives way where names are long
    table.add_column("", no_wrap=True)
    for row in rows:
        assert row.after is not None and row.difference is not None
        values = [number(side.value, row.unit) for side in (row.before, row.after)]
        change = number(row.difference.value, row.unit, signed=True)
        cells = [row.name, *values, change, bounds(row.difference, row.unit, signed=True)]
        verdict = f"{SIGNS[row.verdict]} {row.verdict}" if words else SIGNS[row.verdict]
        table.add_row(*map(Text, cells), Text(verdict))
    return table


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

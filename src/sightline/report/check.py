"""What a check of data found, for the terminal and as a page: the same lines in both."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from markupsafe import Markup
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sightline.data.inspect.answers import AnswerFigures, LengthBias
from sightline.data.inspect.checked import Checked, Problem, SourceFigures
from sightline.data.inspect.figures import Found, Spread
from sightline.data.inspect.leaks import Leak
from sightline.data.inspect.pictures import PictureFigures
from sightline.data.inspect.tokens import TokenFigures
from sightline.data.shown import as_text, short_name
from sightline.display import embed
from sightline.files import replace_file
from sightline.models.forecast import Forecast
from sightline.report.svg import Curve, Line, chart
from sightline.report.table import bounds, number
from sightline.report.templates import fill_template

_BARS: Final = "▁▂▃▄▅▆▇█"
_GIGA: Final = 1e9
_FEWEST: Final = 4
"""Bins that are worth a chart."""
_NAMED: Final = 2
"""Rows that a line names."""


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One line."""

    name: str
    value: str
    note: str = ""
    """What else there is to know: where it is first, what it means."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """Lines that belong together, and charts of them."""

    title: str
    facts: Sequence[Fact]
    charts: Sequence[Curve] = ()


def sections(checked: Checked) -> list[Section]:
    """Everything but the shown rows, in the order of the report."""
    rows = [fact for source in checked.sources for fact in _source(source)]
    if checked.held_out:
        value = f"{checked.held_out:,} of {checked.rows + checked.held_out:,} rows held out"
        rows.append(Fact(name="data.validation", value=value, note="with all that share a picture with them"))
    found = [
        Section(title="Rows", facts=rows),
        _pictures(checked.pictures),
    ]
    if checked.tokens is not None:
        found.append(_tokens(checked.tokens))
    found.append(_answers(checked.answers))
    leaks = [*([checked.split] if checked.split is not None else []), *checked.leaks]
    if leaks:
        found.append(Section(title="Leakage", facts=[fact for leak in leaks for fact in _leak(leak)]))
    if checked.forecast is not None:
        found.append(_forecast(checked.forecast))
    return [section for section in found if section.facts]


def print_check(console: Console, checked: Checked, problems: Sequence[Problem]) -> None:
    """Prints the report: sections, the first rows as the model sees them, problems."""
    console.print(Text(checked.title, style="bold"))
    for section in sections(checked):
        console.print(Text(f"\n{section.title}", style="bold"))
        _print_facts(console, section.facts)
    if checked.first:
        marks = checked.first[0].marks
        console.print(Text(f"\nThe first rows as the model sees them (« » {marks}, ⏎ line break)", style="bold"))
        for row in checked.first:
            console.print(Text(as_text(row)), soft_wrap=True)
    for note in checked.notes:
        console.print(Text(f"note: {note}"), soft_wrap=True)
    console.print()
    for problem in problems:
        line = Text("problem ", style="bold red") + Text(f"({problem.kind}): {problem.text}")
        console.print(line, soft_wrap=True)
    if not problems:
        console.print(Text("No problem found.", style="green"))


def _print_facts(console: Console, facts: Sequence[Fact]) -> None:
    """Columns: folded to the width of a terminal, a line for each fact in a file or a pipe."""
    if console.is_terminal:
        table = Table.grid(padding=(0, 2, 0, 0))
        for style in ("", "", "dim"):
            table.add_column(overflow="fold", style=style)
        for fact in facts:
            table.add_row(Text(fact.name), Text(fact.value), Text(fact.note))
        console.print(Padding(table, (0, 0, 0, 2)))
        return
    widths = [max(len(fact.name) for fact in facts), max(len(fact.value) for fact in facts)]
    for fact in facts:
        line = f"  {fact.name.ljust(widths[0])}  {fact.value.ljust(widths[1])}  {fact.note}"
        console.print(Text(line.rstrip()), soft_wrap=True)


def write_check_page(path: Path, checked: Checked, problems: Sequence[Problem]) -> Path:
    """Writes a self-contained HTML page; gives its path."""
    parts = [
        (section, [(curve, Markup(svg)) for curve in section.charts if (svg := chart(curve))])
        for section in sections(checked)
    ]
    page = fill_template(
        "check.html.j2",
        {"number": number, "bounds": bounds, "embed": embed},
        title=f"Data check: {checked.title}",
        checked=checked,
        sections=parts,
        problems=problems,
        name_of=short_name,
    )
    replace_file(path, page, errors="replace")
    return path


# --- rows and pictures --------------------------------------------------------------------------


def _source(source: SourceFigures) -> Iterator[Fact]:
    kept = f"{source.kept:,} of {source.read:,} rows kept"
    part = "held out: " if source.part == "eval" else ""
    yield Fact(name=f"{part}{source.path}", value=kept, note=f"{source.with_pictures:,} with pictures")
    for bad in source.bad:
        where = f"first: {bad.first.file}, row {bad.first.row}: {bad.first.error}"
        yield Fact(name=f"  {bad.reason}", value=f"{bad.count:,}", note=where)
    if source.columns:
        names = ", ".join(f"{name} ({count:,})" for name, count in source.columns.items())
        yield Fact(name="  read by nothing", value=_plural(len(source.columns), "column"), note=names)
    for note in source.notes:
        yield Fact(name="  note", value="", note=note)


def _pictures(found: PictureFigures) -> Section:
    if not found.files:
        return Section(title="Pictures", facts=[])
    facts = [Fact(name="files", value=f"{found.files:,}")]
    if found.decoded:
        facts += [
            Fact(name="distinct by pixels", value=f"{found.distinct:,}"),
            _found("rows that share a picture", found.sharing, named=False),
        ]
        copies = "; ".join(" = ".join(family) for family in found.copies)
        facts.append(Fact(name="same pixels, other path", value=f"{found.copied:,} files", note=copies))
    facts += [_found("broken when decoded", found.broken), _found("unused beside them", found.unused)]
    sizes = {"width": found.width, "height": found.height}
    facts += [_spread(name, size) for name, size in sizes.items() if size is not None]
    charts = [_histogram("Size of the pictures", found.megapixels, "megapixels", "pictures")]
    return Section(title="Pictures", facts=facts, charts=[curve for curve in charts if curve is not None])


def _found(name: str, found: Found, *, named: bool = True) -> Fact:
    shown = [*found.rows[:_NAMED], *(["..."] if found.count > _NAMED else [])]
    return Fact(name=name, value=f"{found.count:,}", note="; ".join(shown) if named else "")


def _spread(name: str, found: Spread) -> Fact:
    if found.least == found.most:
        return Fact(name=name, value=f"{_short(found.most)}, all")
    note = f"mean {_short(found.mean)}, 5 to 95 %: {_short(found.low)} to {_short(found.high)}, "
    note += f"least {_short(found.least)}, most {_short(found.most)}  {spark(found.bins)}"
    return Fact(name=name, value=f"median {_short(found.median)}", note=note)


def spark(bins: Sequence[int]) -> str:
    """A histogram as one line of blocks; an empty bin is a dot.

    >>> spark([1, 0, 4])
    '▂·█'
    """
    most = max(bins)
    return "".join("·" if not count else _BARS[(8 * count - 1) // most] for count in bins)


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def _histogram(title: str, found: Spread | None, x: str, y: str) -> Curve | None:
    """Steps, from 0 to 0."""
    if found is None or len(found.bins) < _FEWEST:
        return None
    across, up = [found.edges[0]], [0.0]
    for left, right, count in zip(found.edges, found.edges[1:], found.bins, strict=False):
        across += [left, right]
        up += [float(count)] * 2
    line = Line(name=y, x=[*across, found.edges[-1]], y=[*up, 0.0])
    return Curve(title=title, lines=[line], x_label=x, y_label=y, noisy=False)


# --- tokens and answers -------------------------------------------------------------------------


def _tokens(found: TokenFigures) -> Section:
    spreads = {
        "prompt": found.prompt,
        "  of it pictures": found.pictures,
        "answer": found.answer,
        "prompt with answer": found.total,
    }
    facts = [_spread(name, one) for name, one in spreads.items() if one is not None]
    limit = "the model's context" if found.max_length is None else f"max_length = {found.max_length:,}"
    facts.append(_found(f"more than {limit}", found.too_long))
    charts = [_histogram("Tokens of a row", found.total, "prompt with answer, tokens", "rows")]
    charts.append(_histogram("Tokens of an answer", found.answer, "tokens", "answers"))
    return Section(title="Tokens", facts=facts, charts=[curve for curve in charts if curve is not None])


def _answers(found: AnswerFigures) -> Section:
    facts = [] if found.bias is None else _bias(found.bias)
    if found.bias is not None:
        facts.append(_found("same but for white space, case", found.same))
        shared = f"{found.shared_answers:,} answers are chosen in one row and rejected in another"
        facts.append(Fact(name="answers on both sides", value=f"{found.both_sides.count:,} pairs", note=shared))
    if found.desirable or found.undesirable:
        share = found.desirable / (found.desirable + found.undesirable)
        value = f"{found.desirable:,} desirable, {found.undesirable:,} not"
        facts.append(Fact(name="labels", value=value, note=f"{share:.1%} desirable"))
    if found.scores is not None:
        facts.append(_spread("scores", found.scores))
        if found.bias is not None:
            facts.append(_found("preferred with the lower score", found.against_scores))
    charts = [_histogram("Scores of the answers", found.scores, "score", "answers")]
    return Section(title="Answers", facts=facts, charts=[curve for curve in charts if curve is not None])


def _bias(bias: LengthBias) -> list[Fact]:
    equal = bias.pairs - bias.longer - bias.shorter
    share, gap = bias.share, bias.difference
    verdict = "no sign of it" if not bias.certain else f"a rule on length alone gets {bias.rule:.1%} right"
    return [
        Fact(
            name="chosen is longer",
            value=f"{bias.longer:,} of {bias.pairs:,} pairs",
            note=f"shorter in {bias.shorter:,}, as long in {equal:,}",
        ),
        Fact(
            name="length bias",
            value=f"{share.value:.1%}",
            note=f"[{share.low:.1%}, {share.high:.1%}] of pairs are right by preferring the longer; {verdict}",
        ),
        Fact(
            name="chosen minus rejected",
            value=f"{gap.value:+.1f} {bias.unit}",
            note=f"[{gap.low:+.1f}, {gap.high:+.1f}]" if math.isfinite(gap.high) else "one row: no interval",
        ),
    ]


def _leak(leak: Leak) -> Iterator[Fact]:
    count = f"{_plural(leak.pictures, 'picture')}, {_plural(leak.questions, 'question')}"
    unread = f"{leak.unread:,} of its pictures cannot be read" if leak.unread else ""
    yield Fact(name=leak.name, value=count, note=unread)
    yield _found("  rows with the same pixels", leak.same)
    yield _found("  rows that look alike (about)", leak.similar)
    yield _found("  same pixels, same question", leak.both)
    yield _found("  same question, any picture", leak.question)


# --- forecast -----------------------------------------------------------------------------------


def _forecast(found: Forecast) -> Section:
    facts = []
    for part in found.outline.parts:
        value = f"{_count(part.parameters)} parameters, {part.mode}"
        facts.append(Fact(name=part.part, value=value, note=f"{_count(part.trained)} numbers trained"))
    memory = found.memory
    kinds = ", ".join(f"{name} {value / _GIGA:.2f}" for name, value in vars(memory).items() if value >= 5e6)
    room = "" if found.speed.memory is None else f" of {found.speed.memory / _GIGA:.0f} GB"
    facts.append(Fact(name="memory", value=f"about {memory.total / _GIGA:.2f} GB{room}", note=kinds))
    facts.append(Fact(name="fullest micro-batch", value=f"{found.micro_tokens:,.0f} tokens"))
    for layout, tokens in found.tokens.items():
        mark = " (the recipe's)" if layout == found.layout else ""
        note = f"{_short(found.flops[layout] / 1e12)} TFLOP"
        facts.append(Fact(name=f"a step as {layout}{mark}", value=f"{tokens:,.0f} tokens", note=note))
    time = f"{_duration(found.seconds)}, {found.seconds_per_step:.3g} s a step"
    facts.append(
        Fact(name="time", value=f"{_plural(found.steps, 'step')} on {found.speed.device}", note=f"about {time}")
    )
    facts += [Fact(name="assumed", value="", note=text) for text in found.assumed]
    return Section(title="Forecast", facts=facts)


def _plural(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def _count(value: int) -> str:
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {letter}"
    return str(value)


def _duration(seconds: float) -> str:
    """``40 s``, ``3 min``, ``2.5 h``, ``1.2 days``."""
    for size, unit in ((86400.0, "days"), (3600.0, "h"), (60.0, "min")):
        if seconds >= size:
            return f"{seconds / size:.2g} {unit}"
    return f"{seconds:.2g} s"

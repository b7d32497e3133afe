"""What a loop will do, and what it has done, in lines for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from sightline.loops.state import State
from sightline.recipes.loop import LoopRecipe
from sightline.report.table import number_column, words_column


def plan_lines(loop: LoopRecipe, state: State, stages: Sequence[str], prompts: int) -> list[str]:
    """The plan before the first stage.

    Args:
        loop: the recipe.
        state: what is done.
        stages: names of those of a round.
        prompts: how many there are.
    """
    asked = prompts if loop.prompts_per_round is None else loop.prompts_per_round
    of = "" if asked == prompts else f" of {prompts:,}"
    lines = [
        f"{loop.name}: {loop.rounds} rounds of {' > '.join(stages)}, from {loop.model.path}, in {loop.output_dir}",
        f"each round: {asked:,}{of} prompts, {loop.method.name}, then {loop.algorithm['name']}",
    ]
    if loop.exam is not None:
        names = ", ".join(bench.bench for bench in loop.exam.benches)
        stop = loop.stop.patience
        gain = f" of {loop.stop.least_gain:g} or more" if loop.stop.least_gain else ""
        until = "" if stop is None else f"; ends after {stop} rounds without a gain{gain}"
        lines.append(f"exam: {names}; the best round is that of the best {loop.exam.best}{until}")
    done = [name for name, entry in state.entries.items() if entry.status == "done"]
    if done:
        lines.append(f"{len(done)} stages are there already, the last {done[-1]}; what changed is done again")
    return lines


def status_table(state: State) -> Table:
    """Every stage that was begun, with what it took."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("round", "stage", "", "time", "CPU", "starts"):
        column = words_column if title in ("stage", "") else number_column
        column(table, title)
    before = ""
    for name, entry in state.entries.items():
        number, _, stage = name.removeprefix("round-").partition("/")
        shown = "" if number == before else ("start" if number == "0" else number)
        cells = [clock(entry.seconds), clock(entry.cpu_seconds), str(entry.starts)]
        ended = entry.status if entry.status in ("done", "no pair") else "not finished"
        table.add_row(shown, Text(stage), ended, *cells)
        before = number
    return table


def status_lines(state: State) -> list[str]:
    """The best round so far, and whether there will be more."""
    lines = []
    if state.best is not None:
        number = state.best.round
        value = "undefined" if state.best.value is None else f"{state.best.value:.4g}"
        lines.append(f"best: {f'round {number}' if number else 'the start'} ({state.best.figure} {value})")
    if state.released:
        models = sorted(name for name in state.released if name.endswith("/model") and name.count("/") == 1)
        lines.append(f"removed to save room: {', '.join(models)}")
    lines.append(f"ended: {state.ended}" if state.ended else "not ended: the same command goes on")
    return lines


def clock(seconds: float) -> str:
    """``0.4 s``, ``52 s``, ``12:30``, ``3:05:00``."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"

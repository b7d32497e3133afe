"""The table of a pull request: python grade_summary.py RESULTS.json [DIFF.json] writes Markdown to stdout.

RESULTS.json is what `sightline eval grade --json` writes, DIFF.json what `sightline eval diff --json` does.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

SIGNS = {"better": "✓ better", "worse": "✗ worse", "no clear change": "≈ no clear change", "changed": "• changed"}


def lines(results: Mapping[str, Any], diff: Mapping[str, Any] | None) -> Iterator[str]:
    """Of the table, with what a reader must know below it."""
    graded = results["sightline"]
    compared = {} if diff is None else diff["metrics"]
    yield f"### {graded['bench']} ({graded['protocol']})"
    yield ""
    if diff is None:
        yield "| metric | value | 95 % interval |"
        yield "|---|---:|---:|"
    else:
        yield "| metric | baseline | this | difference | verdict |"
        yield "|---|---:|---:|---:|---|"
    for name, figure in graded["metrics"].items():
        arrow = {"lower": " ↓", "higher": " ↑"}.get(figure["better"], "")
        if diff is None:
            yield f"| {name}{arrow} | {figure['printed']} | {span(figure['interval'])} |"
        elif name in compared:
            row = compared[name]
            change = row["difference"]
            told = "" if change is None or change["value"] is None else f"{change['value']:+.4g} {span(change)}"
            before = row["before"]["value"]
            old = "–" if before is None else f"{before:.4g}"
            yield f"| {name}{arrow} | {old} | {figure['printed']} | {told} | {SIGNS.get(row['verdict'], '')} |"
    yield ""
    if graded["failures"]:
        yield f"{graded['failures']} answers could not be graded."
    yield "↓ lower is better, ↑ higher is better. Brackets: bootstrap 95 % interval" + (
        "." if diff is None else " of the difference on the same questions."
    )
    yield from (f"\n{note}" for note in graded["notes"])


def span(interval: Mapping[str, Any] | None) -> str:
    """``[1.2, 3.4]``."""
    if interval is None or interval["low"] is None:
        return ""
    return f"[{interval['low']:.4g}, {interval['high']:.4g}]"


if __name__ == "__main__":
    given = [json.loads(Path(path).read_text(encoding="utf-8")) for path in sys.argv[1:]]
    print("\n".join(lines(given[0], given[1] if len(given) > 1 else None)))

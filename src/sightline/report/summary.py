"""What a folder of results has beside its benchmarks: one table, and one page that shows them together."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from sightline.errors import DataError
from sightline.evaluation.results import RESULTS, Measured, changes, lmms_eval_table, read_measured, results_path
from sightline.evaluation.run import Evaluation
from sightline.files import replace_file
from sightline.report.evaluation import write_results_page


def write_summary(
    evaluation: Evaluation, graded: Sequence[Measured], against: Path | None, *, tell: Callable[[str], None]
) -> Path:
    """Writes ``results.json`` and ``report.html`` of all that was measured of a model in a folder.

    Args:
        evaluation: the model and the folder.
        graded: what was measured now; what was before is read.
        against: folder of an earlier evaluation, that is shown beside; None: the model alone.
        tell: told what is left out.

    Returns:
        The page.
    """
    every = [*graded, *_of_earlier_commands(evaluation, graded, tell)]
    table = json.dumps(lmms_eval_table(every), indent=2)
    replace_file(evaluation.out / RESULTS, table + "\n")
    pairs = [(_earlier(against, measured, tell), measured) for measured in every]
    title = f"Benchmarks: {evaluation.model.path}"
    notes = [] if against is None else [f"Before: {against}. After: {evaluation.out}."]
    return write_results_page(evaluation.out / "report.html", pairs, title=title, notes=notes)


def _of_earlier_commands(
    evaluation: Evaluation, graded: Sequence[Measured], tell: Callable[[str], None]
) -> list[Measured]:
    """What other commands measured of the same model in the same folder; what cannot be read is left out."""
    here = {(one.result.bench, one.result.protocol) for one in graded}
    found = []
    for path in sorted(evaluation.out.glob("*/results*.json")):
        try:
            measured = read_measured(path)
        except DataError as error:
            tell(f"Not in the summary: {error}")
            continue
        mine = (measured.facts.get("model"), measured.facts.get("adapter")) == (
            evaluation.model.path,
            evaluation.model.adapter,
        )
        if mine and (measured.result.bench, measured.result.protocol) not in here:
            found.append(measured)
    return found


def _earlier(against: Path | None, measured: Measured, tell: Callable[[str], None]) -> Measured | None:
    """What the earlier run measured of the same benchmark, if it did and the two can be compared."""
    bench = measured.result.bench
    if against is None or not (against / bench / RESULTS).exists():
        return None
    earlier = read_measured(results_path(against / bench, measured.result.protocol, there=True))
    try:
        changes([earlier], [measured], resamples=1)
    except DataError as error:  # of another protocol, or of other questions: the page is made all the same
        tell(f"{bench} stands alone, not beside {against}: {error}")
        return None
    return earlier

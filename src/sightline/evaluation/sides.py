"""What is compared: two results, two runs of several benchmarks, or several seeds of either."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from sightline.errors import DataError
from sightline.evaluation.aggregate import read_evaluation
from sightline.evaluation.results import RESULTS, Measured, graded_path, picture_words, read_measured

Sides = tuple[list[Measured], list[Measured]]
"""Results of A and of B on one benchmark, a seed each."""


def comparisons(paths: Sequence[Path], *, seeds: bool, tell: Callable[[str], None]) -> list[Sides]:
    """A and B by benchmark. Benchmarks that are not in every run are named and left out.

    Args:
        paths: A and B; with ``seeds`` the seeds of A, then as many of B. Results files, their folders, or folders
            that hold one for each benchmark.
        seeds: Whether there is more than one of each.
        tell: Told what is left out.

    Raises:
        DataError: The number of paths is odd, a path holds no result, or the runs have no benchmark in common.
    """
    half = len(paths) // 2
    if len(paths) < 2 or len(paths) % 2 or (half > 1 and not seeds):
        raise DataError(f"found {len(paths)} results", remedy="Give A and B; or with --seeds A1 A2 ... B1 B2 ...")
    if not any(_is_run(path) for path in paths):
        results = [read_measured(path) for path in paths]
        return [(results[:half], results[half:])]
    runs = [_results_of(path) for path in paths]
    names = list(dict.fromkeys(name for run in runs for name in run))
    common = [name for name in names if all(name in run for run in runs)]
    if not common:
        raise DataError(
            f"the runs have no benchmark in common ({', '.join(names)})", remedy="Evaluate one benchmark with both"
        )
    if alone := [name for name in names if name not in common]:
        tell(f"Not compared, because not every run has it: {', '.join(alone)}.")
    return [([run[name] for run in runs[:half]], [run[name] for run in runs[half:]]) for name in common]


def other_wording(sides: Sides) -> str:
    """A warning if the questions were not worded alike; empty if they were, or if that is not known."""
    used = {str(one.facts["prompts"]) for side in sides for one in side if "prompts" in one.facts}
    return f"The questions were worded differently: {', '.join(sorted(used))}." if len(used) > 1 else ""


def other_pictures(sides: Sides) -> str:
    """A warning if models with the same options were not shown pictures alike; empty if they were, if that is not
    known, and for models of different families, which cannot be."""
    shown = [one for side in sides for one in side if one.facts.get("pictures")]
    if len({tuple(one.facts["pictures"]) for one in shown}) != 1 or len(set(map(picture_words, shown))) == 1:
        return ""
    return f"The pictures were made ready differently: {'; '.join(dict.fromkeys(map(picture_words, shown)))}."


def _is_run(path: Path) -> bool:
    """Whether it is the folder of a run: its own results.json has no rows, those of its benchmarks do."""
    return path.is_dir() and not graded_path(path / RESULTS).exists() and any(path.glob(f"*/{RESULTS}"))


def _results_of(path: Path) -> dict[str, Measured]:
    if _is_run(path):
        return read_evaluation(path)
    measured = read_measured(path)
    return {measured.result.bench: measured}

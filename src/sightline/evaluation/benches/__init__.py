"""The benchmarks, each in a module with one ``BENCH``; imported where used, so that listing one loads one."""

from __future__ import annotations

import difflib
import importlib
from typing import Final

from sightline.errors import DataError
from sightline.evaluation.bench import Benchmark

MODULES: Final[dict[str, str]] = {
    "amber": "amber",
    "pope": "pope",
    "chair": "chair",
    "object_halbench": "object_halbench",
    "mmhal": "mmhal",
    "hallusionbench": "hallusionbench",
    "mmstar": "mmstar",
    "realworldqa": "realworldqa",
    "textvqa": "textvqa",
    "cvbench": "cvbench",
    "llava_bench": "llava_bench",
    "llava_bench_coco": "llava_bench_coco",
    "reefknot": "reefknot",
    "mm_instruct": "mm_instruct",
    "scienceqa": "scienceqa",
    "mme": "mme",
    "scenes": "scenes",
}
"""Name on the command line to module."""


def check_name(name: str) -> None:
    """Raises:
    DataError: There is no benchmark of that name.
    """
    if ":" not in name and name not in MODULES:
        near = difflib.get_close_matches(name, MODULES, n=1)
        remedy = f"Did you mean {near[0]}?" if near else f"Choose one of {', '.join(MODULES)}"
        raise DataError(f"there is no benchmark {name!r}", remedy=remedy)


def load_bench(name: str) -> Benchmark:
    """The benchmark of that name, or ``package.module:INSTANCE`` of another package.

    Raises:
        DataError: There is none of that name.
    """
    check_name(name)
    if ":" in name:
        return _of_another_package(name)
    bench: Benchmark = importlib.import_module(f"sightline.evaluation.benches.{MODULES[name]}").BENCH
    return bench


def _of_another_package(name: str) -> Benchmark:
    module, _, instance = name.partition(":")
    if not module or not instance:
        raise DataError(f"the benchmark is {name!r}", remedy="Write package.module:INSTANCE")
    try:
        found = vars(importlib.import_module(module))[instance]
    except ModuleNotFoundError as error:
        raise DataError(
            f"{error.name!r} cannot be imported", source=name, remedy="Install it, or set PYTHONPATH"
        ) from error
    except KeyError as error:
        raise DataError(
            f"{module} defines no {instance}", source=name, remedy="Write package.module:INSTANCE"
        ) from error
    if not isinstance(found, Benchmark):
        methods = "name, protocols, needs, questions, grade, export and read_export"
        raise DataError(f"is no benchmark but {type(found).__name__}", source=name, remedy=f"Give it {methods}")
    return found

"""Limits on size, checked on the tails: file, function, nesting, arguments. Exceptions stand in docs/log.md."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted([*(ROOT / "src/sightline").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")])
LINES, FUNCTION, NESTING, ARGUMENTS = 400, 60, 3, 7
BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.Match)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def exceptions():
    """What lines such as ``- budget: `src/sightline/x.py::f` has 70 lines, because ...`` allow: name, number, unit."""
    log = ROOT / "docs/log.md"
    text = log.read_text(encoding="utf-8") if log.exists() else ""
    found = re.findall(r"^- budget: `([^`]+)` has (\d+) (lines|levels|arguments)[:,] .+", text, re.MULTILINE)
    assert len(found) == text.count("\n- budget: "), "a line of docs/log.md cannot be read"
    return {(name, int(number), unit) for name, number, unit in found}


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def functions(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, FUNCTIONS)]


def depth(node):
    """Deepest nesting of blocks below a node; ``elif`` is no deeper than its ``if``, inner functions start anew."""
    deepest = 0
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (*FUNCTIONS, ast.Lambda)):
            continue
        is_elif = isinstance(node, ast.If) and isinstance(child, ast.If) and node.orelse == [child]
        deepest = max(deepest, depth(child) + (isinstance(child, BLOCKS) and not is_elif))
    return deepest


def arguments(function):
    every = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return len([argument for argument in every if argument.arg not in ("self", "cls")])


def over(path):
    """Name, measure and unit of what is over a budget in a file."""
    lines = len(path.read_text(encoding="utf-8").splitlines())
    measured = [(name_of(path), lines, LINES, "lines")]
    for function in functions(path):
        place = f"{name_of(path)}::{function.name}"
        measured.append((place, (function.end_lineno or 0) - function.lineno + 1, FUNCTION, "lines"))
        measured.append((place, depth(function), NESTING, "levels"))
        measured.append((place, arguments(function), ARGUMENTS, "arguments"))
    return {(name, found, unit) for name, found, most, unit in measured if found > most}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_budgets(path):
    assert over(path) <= exceptions()


def test_exceptions_are_needed():
    """An exception that nothing uses any more, or that says another number, is removed."""
    assert exceptions() <= set().union(*map(over, FILES))


def test_the_measures_measure():
    code = "def f(self, a, b, *, c):\n  for x in a:\n    if x:\n      pass\n    elif b:\n      with c:\n        pass\n"
    (function,) = ast.parse(code).body
    assert depth(function) == 3
    assert arguments(function) == 3


@pytest.mark.parametrize("path", [p for p in FILES if "/models/" not in name_of(p)], ids=name_of)
def test_no_attribute_guessing_outside_models(path):
    """``getattr`` and ``hasattr`` mean that a type is wrong; only third-party models have guessable attributes."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    found = [f"{name_of(path)}:{call.lineno}" for call in calls if call.func.id in ("getattr", "hasattr")]
    assert not found

"""Limits on size, checked on the tails: file, function, nesting, arguments. Exceptions stand in docs/log.md."""

import ast
import re
from functools import cache
from pathlib import Path

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


@cache
def measured(path):
    """What is over a budget in a file, as name, measure and unit; and its calls of ``getattr`` and ``hasattr``."""
    text = path.read_text(encoding="utf-8")
    nodes = list(ast.walk(ast.parse(text)))
    found = [(name_of(path), len(text.splitlines()), LINES, "lines")]
    for function in (node for node in nodes if isinstance(node, FUNCTIONS)):
        place = f"{name_of(path)}::{function.name}"
        found.append((place, (function.end_lineno or 0) - function.lineno + 1, FUNCTION, "lines"))
        found.append((place, depth(function), NESTING, "levels"))
        found.append((place, arguments(function), ARGUMENTS, "arguments"))
    calls = [node for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    guesses = [f"{name_of(path)}:{call.lineno}" for call in calls if call.func.id in ("getattr", "hasattr")]
    return {(name, number, unit) for name, number, most, unit in found if number > most}, guesses


def over():
    return set().union(*(measured(path)[0] for path in FILES))


def test_budgets():
    assert len(FILES) > 400
    beyond = sorted(over() - exceptions())
    assert not beyond


def test_exceptions_are_needed():
    """An exception that nothing uses any more, or that says another number, is removed."""
    unused = sorted(exceptions() - over())
    assert not unused


def test_the_measures_measure():
    code = "def f(self, a, b, *, c):\n  for x in a:\n    if x:\n      pass\n    elif b:\n      with c:\n        pass\n"
    (function,) = ast.parse(code).body
    assert depth(function) == 3
    assert arguments(function) == 3


def test_no_attribute_guessing_outside_models():
    """``getattr`` and ``hasattr`` mean that a type is wrong; only third-party models have guessable attributes."""
    found = [guess for path in FILES if "/models/" not in name_of(path) for guess in measured(path)[1]]
    assert not found

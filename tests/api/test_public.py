"""What ``import sightline`` offers: loaded when it is used, called where a package has the name, known to mypy."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import sightline as sl
from sightline.errors import CheckpointError


def fresh(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_is_light_and_every_name_is_there() -> None:
    told = fresh(
        "import sys, sightline as sl\n"
        "heavy = {'torch', 'transformers', 'numpy', 'pydantic', 'PIL'} & set(sys.modules)\n"
        "print(sorted(heavy), sl.__version__, sl.Callback.__name__, 'torch' in sys.modules)\n"
    )
    assert told == f"[] {sl.__version__} Callback False"
    for name in sl.__all__:
        assert vars(sl).get(name, sl.__getattr__(name)) is not None, name
        assert name in dir(sl)


def test_a_name_that_there_is_not_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'sightline' has no attribute 'trian'"):
        sl.trian  # noqa: B018


def test_a_package_of_the_name_of_a_call_is_both() -> None:
    told = fresh(
        "import sightline.train.callback, sightline.report.svg\nimport sightline as sl\n"
        "import sightline.train.callback as callback\n"
        "print(callable(sl.train), callable(sl.report), sl.train.callback is callback)\n"
    )
    assert told == "True True True"
    assert fresh("import sightline as sl; print(callable(sl.train), callable(sl.report))") == "True True"
    assert list(inspect.signature(sl.report).parameters) == ["run", "out"]
    with pytest.raises(CheckpointError, match=r"nowhere: found no metrics\.jsonl"):
        sl.report("nowhere")


def test_what_is_called_says_what_it_does() -> None:
    calls = [vars(sl).get(name, sl.__getattr__(name)) for name in sl.__all__ if name[0].islower()]
    assert all(inspect.signature(call).parameters for call in calls)
    assert list(inspect.signature(sl.train).parameters)[:2] == ["recipe", "rows"]


@pytest.mark.parametrize("name", ["train", "report"])
def test_the_call_of_a_package_is_the_one_that_type_checkers_see(name: str) -> None:
    from sightline.api import training

    source = Path(str(sl.__file__)).read_text(encoding="utf-8")
    assert "from sightline.api.training import explain, load_recipe, loop, open_run, report, train" in source
    assert inspect.signature(vars(sl).get(name, sl.__getattr__(name))) == inspect.signature(vars(training)[name])

"""``sightline app`` on the command line: what it refuses before anything is loaded."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from command_line import sightline


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SIGHTLINE_TOKEN", raising=False)


def test_without_gradio_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    for name in [name for name in sys.modules if name.startswith("sightline.app.")]:
        monkeypatch.delitem(sys.modules, name)
    done = sightline("app")
    assert done.code == 2 and "gradio is not installed. Run: pip install 'sightline[app]'" in done.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--other", "m"], "--other is the second of two models, and there is no --model"),
        (["--host", "0.0.0.0"], "there is no token. Set SIGHTLINE_TOKEN to a secret of your own"),
        (["nowhere"], "nowhere is no folder. Name folders with data, runs or results"),
        (["--port", "1", "--host", "203.0.113.7"], "there is no token"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gradio", reason="the extra app (gradio) is absent")
    monkeypatch.chdir(tmp_path)
    done = sightline("app", *arguments)
    assert done.code == 2 and said in done.err and done.err.count("\n") == 1

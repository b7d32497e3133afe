"""Completion by the shell: commands, options, benchmarks, dotted keys."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from command_line import sightline
from sightline.errors import RecipeError
from sightline.recipes.choices import dotted_keys
from sightline.recipes.load import load_recipe
from sightline.recipes.loop import LoopRecipe
from sightline.recipes.schema import Recipe

RECIPE, LOOP = "recipes/kto.yaml", "recipes/self_rewarding_scenes.yaml"


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch):
    def complete(*words: str) -> list[str]:
        monkeypatch.setenv("_SIGHTLINE_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", "\n".join(["sightline", *words]))
        monkeypatch.setenv("COMP_CWORD", str(len(words)))
        done = sightline()
        assert (done.code, done.err) == (0, "")
        return done.out.split()

    return complete


def test_commands_and_options(offered) -> None:
    assert offered("s") == ["show", "sample", "score", "select", "serve"]
    assert offered("eval", "pre") == ["preferences"]
    assert "--explain" in offered("show", "--") and "--json" in offered("show", "--")


def test_benchmarks_also_in_the_short_form(offered) -> None:
    assert offered("eval", "grade", "p") == ["pope"]
    assert offered("eval", "run", "pope", "am") == ["amber"]


def test_dotted_keys_of_the_recipe_in_front(offered) -> None:
    assert offered("train", RECIPE, "train.learn") == ["train.learning_rate="]
    assert offered("train", RECIPE, "data.train.0.lim") == ["data.train.0.limit="]
    assert offered("train", RECIPE, "train.learning_rate=1", "model.lora.dr") == ["model.lora.dropout="]
    assert "method.sampling.n=" in offered("loop", LOOP, "method.sampling.")
    assert offered("show", RECIPE, "method.") == []
    assert offered("show", "missing.yaml", "se") == ["seed="]


def test_every_key_that_is_offered_exists() -> None:
    """None is refused as unknown; of a wrong value it is said what was expected of that key."""
    assert len(dotted_keys(Recipe)) > 150 and len(dotted_keys(LoopRecipe)) > 100
    for key in (*dotted_keys(Recipe)[::9], "train.nonsense"):
        try:
            load_recipe(RECIPE, [f"{key}=null"])
        except RecipeError as error:
            assert ("unknown key" in str(error)) == (key == "train.nonsense"), key


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_itself(tmp_path: Path) -> None:
    command = tmp_path / "sightline"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m sightline "$@"\n')
    command.chmod(0o755)
    script = (
        'PATH="$1:$PATH"; source <(_SIGHTLINE_COMPLETE=source_bash sightline)\n'
        'COMP_WORDS=(sightline sho); COMP_CWORD=1; _sightline_completion sightline; echo "${COMPREPLY[@]}"\n'
        "complete -p sightline\n"
    )
    done = subprocess.run(["bash", "--norc", "-c", script, "bash", tmp_path], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("show\ncomplete -o default -F _sightline_completion sightline\n", "")

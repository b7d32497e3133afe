"""``--json``: one document on stdout from every command, nothing else there, and errors in parts."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from inspect import signature, unwrap
from pathlib import Path
from typing import Any, get_origin

import pytest
import typer

from command_line import sightline
from sightline.cli import json_result
from sightline.cli.app import app, main
from sightline.cli.console import out
from sightline.errors import DataError, RecipeError, SightlineError
from sightline.scenes.world import Scenes

RECIPE = Path("recipes/kto.yaml")


def commands(group: Any, *names: str) -> Iterator[tuple[str, Any]]:
    """Every command, with the words that call it."""
    for name, command in group.commands.items():
        if "commands" in vars(command):
            yield from commands(command, *names, name)
        else:
            yield " ".join([*names, name]), command


EVERY = dict(commands(typer.main.get_command(app)))


def test_the_walk_sees_the_commands():
    assert {"train", "eval grade", "data check", "serve judge", "check engine"} <= set(EVERY)
    assert len(EVERY) >= 32


@pytest.mark.parametrize("name", EVERY)
def test_every_command_gives_a_document(name):
    given = [option for parameter in EVERY[name].params for option in parameter.opts]
    assert given.count("--json") == 1
    returned = signature(unwrap(EVERY[name].callback), eval_str=True).return_annotation
    told = f"{name} must return its result: `-> Document`, see cli/json_result.py"
    assert returned is not None and issubclass(get_origin(returned) or returned, Mapping), told


def test_wrong_use_of_every_command_is_a_document():
    for name in EVERY:
        done = sightline(*name.split(), "--json", "--no-such-option")
        error = json.loads(done.out)["error"]
        assert (done.code, error["kind"]) == (2, "UsageError"), name
        assert "--no-such-option" in error["message"] and "--no-such-option" in done.err


def test_a_command_gives_its_result_and_no_table():
    done = sightline("show", RECIPE, "seed=7", "--json")
    assert json.loads(done.out)["recipe"]["seed"] == 7
    assert done.err == ""
    assert json.loads(sightline("eval", "list", "--json").out)["benchmarks"]["pope"]["protocols"]
    assert not out.quiet  # as before, for the next command in this process
    assert "pope" in sightline("eval", "list").out


def test_an_error_is_in_parts():
    done = sightline("show", RECIPE, "seed=x", "--json")
    message = "override 'seed=x': seed: found 'x' (string), expected a whole number."
    assert done.code == 2
    assert done.err == f"error: {message}\n"
    assert json.loads(done.out) == {
        "error": {
            "kind": "RecipeError",
            "message": message,
            "found": "override 'seed=x': seed: found 'x' (string)",
            "expected": "a whole number",
        }
    }


def test_the_parts_of_errors():
    def parts(error: SightlineError) -> dict[str, str]:
        told = dict(json_result.error_document(error)["error"])
        return {name: told[name] for name in told if name not in ("kind", "message")}

    bad = DataError("found 3 labels, expected 2", source="rows.jsonl:4", remedy="Drop one. Or add a row")
    assert parts(bad) == {
        "source": "rows.jsonl:4",
        "found": "found 3 labels",
        "expected": "2",
        "remedy": "Drop one. Or add a row",
    }
    assert parts(RecipeError("beta is 0, expected more than 0.0 at least. Write beta: 0.1, or leave it out.")) == {
        "found": "beta is 0",
        "expected": "more than 0.0 at least",
        "remedy": "Write beta: 0.1, or leave it out",
    }
    assert parts(RecipeError("nothing is there")) == {"found": "nothing is there"}


def test_what_is_not_finite_is_null_and_dataclasses_are_objects():
    grouped = json_result.plain({"a": (Path("b"), float("nan")), 1: Scenes(seed=3).scene("train", 0)})
    assert grouped["a"] == ["b", None]
    assert json.dumps(grouped["1"], allow_nan=False)


def test_nothing_else_reaches_stdout_even_from_c():
    code = (
        "import os, sys\n"
        "from sightline.cli import app, json_result\n"
        "def noisy():\n"
        "    print('printed'); os.write(1, b'written\\n'); os.system('echo child')\n"
        "    return {'answer': float('inf')}\n"
        "app.app.command(name='noisy')(json_result._with_json(noisy))\n"
        "sys.argv = ['sightline', 'noisy', '--json']\n"
        "app.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert (done.returncode, json.loads(done.stdout)) == (0, {"answer": None})
    assert sorted(done.stderr.split()) == ["child", "printed", "written"]


def test_a_full_disk_is_a_message() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    code = "import sys; from sightline.cli import main; sys.argv = ['sightline', 'eval', 'list', '--json']; main()"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.startswith("error: output: No space left on device. Make room")


def test_what_nobody_expected_is_a_document_too(monkeypatch):
    def broken() -> json_result.Document:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(app, "registered_commands", [*app.registered_commands])
    app.command(name="broken")(json_result._with_json(broken))
    told = io.StringIO()
    with pytest.raises(RuntimeError), redirect_stdout(told):
        monkeypatch.setattr(sys, "argv", ["sightline", "broken", "--json"])
        main()
    assert json.loads(told.getvalue())["error"] == {
        "kind": "RuntimeError",
        "message": "out of memory",
        "found": "out of memory",
    }


def test_a_result_may_come_with_an_exit_code(monkeypatch):
    def failing() -> json_result.Document:
        raise json_result.Ended({"healthy": False}, code=1)

    monkeypatch.setattr(app, "registered_commands", [*app.registered_commands])
    app.command(name="failing")(json_result._with_json(failing))
    assert sightline("failing", "--json")[:2] == (1, '{\n  "healthy": false\n}\n')
    assert sightline("failing")[:2] == (1, "")

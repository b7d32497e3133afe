"""What is installed: the wheel, the extras, the versions; and the action that grades a pull request."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from slices import Slices

from sightline.evaluation.benches.mmstar import BENCH

ROOT = Path(__file__).parents[1]
TOOLS = {
    "wandb": "accelerate imports it for train.trackers",
    "trackio": "accelerate imports it for train.trackers",
    "num2words": "transformers imports it for SmolVLM",
    "tensorboard": "torch.utils.tensorboard imports it",
    "mkdocs-material": "a command that builds the docs",
    "mkdocstrings": "a plugin of that command",
    "zensical": "a command that builds the docs",
}
"""Packages of extras that no module imports by name, and why they are there all the same."""
IMPORTED_AS = {"pillow": "PIL", "pyyaml": "yaml"}


# --- the wheel ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Built from a copy, because a build leaves folders beside the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", "dist", "."]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if "setuptools" in done.stderr and "No module named" in done.stderr:
        pytest.skip("setuptools is not installed here")
    assert done.returncode == 0, done.stderr
    (made,) = (folder / "dist").glob("*.whl")
    return zipfile.ZipFile(made)


def test_the_wheel_holds_the_package_and_all_that_it_reads(wheel: zipfile.ZipFile) -> None:
    inside = set(wheel.namelist())
    sources = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src/sightline").rglob("*")}
    needed = {name for name in sources if not name.endswith(("/", ".pyc")) and (ROOT / "src" / name).is_file()}
    assert needed - inside == set(), "name these in [tool.setuptools.package-data]"
    assert {name.partition("/")[0] for name in inside if ".dist-info" not in name} == {"sightline"}


def test_the_wheel_installs_the_command_and_the_plugin(wheel: zipfile.ZipFile) -> None:
    (name,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    points = wheel.read(name).decode()
    assert "[console_scripts]\nsightline = sightline.cli:main" in points
    assert "[vllm.general_plugins]\nsightline = sightline.rollouts.vllm_plugin:register" in points


def test_the_wheel_asks_for_what_the_project_does(wheel: zipfile.ZipFile) -> None:
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    about = HeaderParser().parsestr(wheel.read(name).decode())
    assert about["License-Expression"] == "Apache-2.0"
    required = [Requirement(text) for text in about.get_all("Requires-Dist") or ()]
    always = {canonicalize_name(one.name) for one in required if one.marker is None}
    assert {"torch", "transformers", "typer", "packaging"} <= always
    assert not always & {"pytest", "ray", "fastapi", "wandb"}


# --- extras and versions ------------------------------------------------------------------------


def extras() -> dict[str, list[Requirement]]:
    text = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    blocks = re.findall(r"^([a-z_]+) = (\[.*?\])\s*(?=^[a-z_]+ = |\Z)", text, re.MULTILINE | re.DOTALL)
    return {name: [Requirement(one) for one in ast.literal_eval(block)] for name, block in blocks}


def imported(*folders: str) -> set[str]:
    """Top-level names of everything that is imported below some folders."""
    written = re.compile(r"^\s*(?:import|from) (\w+)|(?:import_module|find_spec)\(.(\w+)", re.MULTILINE)
    paths = (path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return {name for path in paths for pair in written.findall(path.read_text(encoding="utf-8")) for name in pair}


def test_an_extra_exists_only_where_code_uses_it() -> None:
    known = extras()
    assert len(known) > 10 and "dev" in known
    used = imported("src", "benchmarks", "examples")
    for name, packages in known.items():
        for one in packages if name != "dev" else ():
            module = IMPORTED_AS.get(one.name.lower(), one.name.lower().replace("-", "_"))
            assert module in used or one.name in TOOLS, f"nothing imports {one.name} of the extra {name}"


def test_the_lock_holds_every_package_at_a_version_that_fits() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    locked: dict[str, list[Requirement]] = {}
    for line in lines:
        if line and not line.startswith("#"):
            one = Requirement(line)
            assert str(one.specifier).startswith("=="), line
            locked.setdefault(canonicalize_name(one.name), []).append(one)
    text = (ROOT / "pyproject.toml").read_text().partition("\ndependencies = ")[2]
    needed = [Requirement(one) for one in ast.literal_eval(text.partition("\n]")[0] + "]")]
    for one in (*needed, *(one for some in extras().values() for one in some)):
        for version in locked.get(canonicalize_name(one.name), []):
            assert one.specifier.contains(str(version.specifier)[2:], prereleases=True), f"{one} against {version}"
    assert {canonicalize_name(one.name) for one in needed} <= set(locked)


# --- the action ---------------------------------------------------------------------------------

ACTION = yaml.safe_load((ROOT / "action.yml").read_text())


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slice of a benchmark, answered right and answered wrong."""
    root = tmp_path_factory.mktemp("action")
    Slices(root).everything()
    questions = BENCH.questions(root / "mmstar")
    for name in ("right", "wrong"):
        said = [one.prompt.facts["answer"] if name == "right" else "none" for one in questions]
        rows = ({"id": one.id, "text": text} for one, text in zip(questions, said, strict=True))
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shim = root / "bin/sightline"
    shim.parent.mkdir()
    shim.write_text(
        f"#!{sys.executable}\nimport atexit, sys\nsys.path.insert(0, {str(ROOT / 'src')!r})\n"
        f"tell = lambda: open({str(root / 'loaded.txt')!r}, 'a').write(chr(10).join(sys.modules) + chr(10))\n"
        "atexit.register(tell)\nfrom sightline.cli import main\nmain()\n"
    )
    shim.chmod(0o755)
    return root


def grade(root: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    given = {
        "BENCH": "mmstar",
        "DATA": "mmstar",
        "PROTOCOL": "",
        "BASELINE": "",
        "FAIL_ON": "never",
        "OUT": str(root / "out"),
        "PATH": f"{root / 'bin'}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        **variables,
    }
    env = {**os.environ, **given}
    return subprocess.run(["bash", ROOT / "deploy/grade.sh"], cwd=root, env=env, capture_output=True, text=True)


def test_the_action_grades_and_compares(answers: Path) -> None:
    step = answers / "step.md"
    done = grade(
        answers, RESPONSES="wrong.jsonl", BASELINE="right.jsonl", FAIL_ON="worse", GITHUB_STEP_SUMMARY=str(step)
    )
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, "A figure is clearly worse than the baseline's.")
    table = step.read_text()
    assert table.startswith("### mmstar (official)\n\n| metric | baseline | this | difference | verdict |")
    assert "| ✗ worse |" in table and "[-" in table
    assert json.loads((answers / "out/results.json").read_text())["sightline"]["bench"] == "mmstar"
    packages = next(one["run"] for one in ACTION["runs"]["steps"] if one.get("name") == "Install").split('txt" ')[1]
    names = {"pillow": "PIL", "pyyaml": "yaml"}
    third = {"torch", "transformers", "datasets", "peft", "accelerate", "nltk", "spacy", "scipy", "pandas", "sklearn"}
    loaded = {line.partition(".")[0] for line in (answers / "loaded.txt").read_text().split()}
    assert {names.get(one, one) for one in packages.split()} - {"jinja2", "PIL"} <= loaded and not loaded & third


def test_the_action_grades_alone(answers: Path) -> None:
    done = grade(answers, RESPONSES="right.jsonl", OUT=str(answers / "alone"))
    assert done.returncode == 0, done.stderr
    assert "| metric | value | 95 % interval |" in (answers / "alone/summary.md").read_text()


def test_what_fails_the_action_is_not_misread(answers: Path) -> None:
    """``fail-on: worst`` failed nothing."""
    done = grade(answers, RESPONSES="right.jsonl", FAIL_ON="worst")
    assert (done.returncode, done.stderr) == (2, "fail-on is 'worst', expected worse or never.\n")


def test_a_step_that_fails_leaves_no_table_of_the_step_before(answers: Path) -> None:
    out = answers / "twice"
    assert grade(answers, RESPONSES="right.jsonl", OUT=str(out)).returncode == 0
    assert grade(answers, RESPONSES="not there.jsonl", OUT=str(out)).returncode == 2
    assert not (out / "summary.md").exists() and not (out / "results.json").exists()


def test_the_action_writes_over_its_own_comment_alone(tmp_path: Path) -> None:
    """The last comment of the same bot may be about another benchmark, or from another workflow."""
    gh = tmp_path / "gh"
    gh.write_text(
        f'#!/usr/bin/env bash\necho "$@" >> {tmp_path}/asked.txt\n'
        f'case "$*" in *--jq*) [ "$MARK" != "$(cat {tmp_path}/mark.txt 2>/dev/null)" ] || echo 77 ;; esac\n'
    )
    gh.chmod(0o755)
    (tmp_path / "summary.md").write_text("### pope (official)\n")
    env = {
        **os.environ,
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "GITHUB_REPOSITORY": "me/mine",
        "PULL_REQUEST": "5",
        "BENCH": "pope",
        "PROTOCOL": "",
        "OUT": str(tmp_path),
    }

    def comment(responses: str) -> str:
        command = ["bash", ROOT / "deploy/grade_comment.sh"]
        subprocess.run(command, env=env | {"RESPONSES": responses}, check=True)
        return (tmp_path / "asked.txt").read_text().splitlines()[-1]

    assert comment("a.jsonl").startswith("api --method POST repos/me/mine/issues/5/comments -F body=@")
    mark, first, *_ = (tmp_path / "comment.md").read_text().splitlines()
    assert (mark, first) == ("<!-- sightline: pope, first protocol, a.jsonl -->", "### pope (official)")
    (tmp_path / "mark.txt").write_text(mark)
    assert comment("a.jsonl").startswith("api --method PATCH repos/me/mine/issues/comments/77 ")
    assert comment("b.jsonl").startswith("api --method POST")


@pytest.mark.parametrize(("name", "script"), [("Grade", "grade.sh"), ("Comment", "grade_comment.sh")])
def test_the_action_passes_all_that_its_scripts_read(name: str, script: str) -> None:
    text = (ROOT / "deploy" / script).read_text()
    (step,) = [one for one in ACTION["runs"]["steps"] if one.get("name") == name]
    read = {one for one in re.findall(r"\$\{?([A-Z_]+)", text) if not one.startswith("GITHUB_")}
    assert read - {"BASH_SOURCE", "MARK"} == set(step["env"]) - {"GH_TOKEN"}
    assert script in step["run"]
    used = set(re.findall(r"inputs\.([a-z-]+)", (ROOT / "action.yml").read_text()))
    assert used == set(ACTION["inputs"])
    assert all(one.get("shell") == "bash" for one in ACTION["runs"]["steps"] if "run" in one)

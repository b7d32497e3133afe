"""The files of ``deploy/``: they can be read, and each command in them is one that Sightline has."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import typer.main
import yaml

from sightline.cli.app import app
from sightline.services.bounds import read_bounds

DEPLOY = Path(__file__).parents[2] / "deploy"
SERVE = typer.main.get_command(app).commands["serve"]


def compose():
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def commands():
    """(file, words behind ``sightline serve``)."""
    for name, service in compose()["services"].items():
        yield f"compose.yaml:{name}", service["command"]
    slurm = (DEPLOY / "services.slurm").read_text()
    for line in re.findall(r"^serve \d (.*)$", slurm, re.MULTILINE):
        yield "services.slurm", shlex.split(line)
    sky = yaml.safe_load((DEPLOY / "services.sky.yaml").read_text())
    for line in re.findall(r"sightline serve (.*) &", sky["run"]):
        yield "services.sky.yaml", shlex.split(line)


@pytest.mark.parametrize(
    ("where", "words"), list(commands()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_command_can_be_given(where, words):
    with SERVE.commands[words[0]].make_context(words[0], list(words[1:]), resilient_parsing=False) as context:
        read_bounds(context.params["limit"] or ())
        assert context.params["model"]


def test_all_of_them_are_looked_at():
    assert len(list(commands())) == 9


def test_compose_binds_this_machine_alone_demands_a_token_and_waits_for_answers():
    for service in compose()["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert service["environment"]["SIGHTLINE_TOKEN"].startswith("${SIGHTLINE_TOKEN:?")
        limits = [word for word in service["command"] if "=" in word]
        assert service["stop_grace_period"] == "11m" and read_bounds(limits).seconds + 5 < 660


def test_the_script_of_slurm_is_one_of_bash():
    script = DEPLOY / "services.slurm"
    done = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "#SBATCH --signal=B:TERM@700" in script.read_text()


def test_the_image_is_built_from_what_is_there():
    text = (DEPLOY / "Dockerfile").read_text()
    for line in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE):
        assert all((DEPLOY.parent / name).exists() for name in line.split())
    extras = set(re.search(r"'\.\[([\w,]+)\]'", text)[1].split(","))
    project = (DEPLOY.parent / "pyproject.toml").read_text()
    assert all(f"\n{extra} = [" in project for extra in extras)

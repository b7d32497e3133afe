"""`sightline doctor`: what it finds, what it calls wrong, and what it keeps to itself."""

from __future__ import annotations

import json
import math
import re
from importlib import metadata
from pathlib import Path

import pytest

from command_line import sightline
from sightline.cli import doctor_checks
from sightline.demo.self_test import SelfTest

ROOT = Path(__file__).parents[1]
WELL = SelfTest(device="cpu", tokens=9, gap=1e-6, losses=(math.log(2), 0.7), seconds=1.0)


def test_this_machine_computes_what_it_should(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    monkeypatch.setattr(doctor_checks, "_HOME", str(Path.cwd()))
    done = sightline("doctor", "--json")
    document = json.loads(done.out)
    assert (done.code, document["healthy"]) == (0, True), document
    tested = [look for look in document["looks"] if look["about"] == "self test"]
    assert "losses of DPO 0.6931, " in tested[0]["found"] and len(tested) == 1
    assert {look["about"] for look in document["looks"]} == {"versions", "GPU", "extras", "places", "hub", "self test"}
    assert "hf_verysecret" not in done.out and "a token is set" in done.out
    assert str(Path.cwd()) not in done.out and "here: ~, " in done.out


def test_the_text_is_the_same_and_wrong_is_exit_code_1(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "a file"
    file.touch()
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(file / "below"))
    done = sightline("doctor", "--no-test")
    assert done.code == 1 and done.err.startswith("1 of ")
    assert f"WRONG temporary files: {file}/below" in done.out and "set TMPDIR to another" in done.out
    assert "self test" not in done.out


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"gap": 0.1}, "tree and rows differ by 1.0e-01 nats, expected at most 0.0001"),
        ({"gap": math.nan}, "tree and rows differ by nan nats"),
        ({"losses": (math.log(2), math.inf)}, "expected 2 finite ones"),
        ({"losses": (0.7,)}, "expected 2 finite ones"),
        ({"losses": (0.8, 0.7)}, "the first loss of DPO is 0.8000, expected log 2 = 0.6931"),
    ],
)
def test_faults_of_the_self_test(changed: dict[str, object], told: str) -> None:
    assert WELL.faults() == []
    (fault,) = SelfTest(**{**vars(WELL), **changed}).faults()  # type: ignore[arg-type]
    assert told in fault


def test_a_self_test_that_stops_is_told_with_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> SelfTest:
        raise RuntimeError("no kernel image\nfor this device")

    monkeypatch.setattr("sightline.demo.self_test.self_test", fail)
    done = sightline("doctor")
    assert done.code == 1
    assert "WRONG stopped by RuntimeError: no kernel image. Report this" in done.out and "in fail" in done.err


def test_versions_that_do_not_fit_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "requires", lambda _: ["torch>=99", "numpy", "nothing-of-that-name; extra == 'x'"])
    found = {look.found: look for look in doctor_checks.versions()}
    wrong = [look for look in found.values() if look.state == "wrong"]
    assert [(look.found.split(":")[0], look.remedy) for look in wrong] == [("torch", "pip install 'torch>=99'")]


def test_every_extra_says_what_it_is_for() -> None:
    text = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    offered = re.findall(r"^([a-z_]+) = \[", text, re.MULTILINE)
    assert len(offered) > 10
    lacking = set(offered) - {"dev"} - set(doctor_checks.EXTRAS)
    assert not lacking, f"say in cli/doctor_checks.py what {lacking} are for"

"""`sightline doctor`: what it finds, what it calls wrong, and what it keeps to itself."""

from __future__ import annotations

import json
import math
import os
import re
import sys
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


def test_a_look_that_stops_ends_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug report is wanted most where torch cannot be imported."""
    monkeypatch.setitem(sys.modules, "torch", None)
    done = sightline("doctor", "--json")
    looks = json.loads(done.out)["looks"]
    wrong = {look["about"]: look["found"] for look in looks if look["state"] == "wrong"}
    assert done.code == 1 and {"GPU", "self test"} <= set(wrong) and "torch" in wrong["GPU"]
    assert {"extras", "places", "hub"} <= {look["about"] for look in looks}
    assert all("Install anew" in look["remedy"] for look in looks if look["about"] == "GPU")


def test_each_place_has_its_own_remedy_also_where_nothing_may_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", refuse)
    access = os.access
    monkeypatch.setattr(doctor_checks.os, "access", lambda path, mode: mode == os.F_OK and access(path, mode))
    told = {look.found.partition(":")[0]: look.remedy for look in doctor_checks.places()}
    assert told == {
        "cache of models": "Give it to this user, or set HF_HOME to another",
        "temporary files": "Give it to this user, or set TMPDIR to another",
        "here": "Give it to this user, or run in another folder",
    }


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

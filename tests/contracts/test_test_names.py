"""Test modules that others import are found by name alone: no two may share one."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]


def test_a_test_module_that_others_import_has_a_name_of_its_own() -> None:
    texts = {path: path.read_text(encoding="utf-8") for path in TESTS.rglob("*.py")}
    imported = {name for text in texts.values() for name in re.findall(r"^from (test_\w+) import", text, re.MULTILINE)}
    assert len(imported) > 10
    places = {name: [path.relative_to(TESTS).as_posix() for path in texts if path.stem == name] for name in imported}
    assert not {name: found for name, found in places.items() if len(found) > 1}

"""Results: the table of what is there, and two of them compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from sightline.app.folders import Folders
from sightline.app.results import compare, sides, table, table_html
from sightline.errors import DataError
from sightline.evaluation.bench import Graded, Result
from sightline.evaluation.results import measure, write_measured


def write(path: Path, hits: list[int], bench: str = "pope", *, model: str = "my/model") -> Path:
    graded = [
        Graded(id=f"q{n}", cluster=f"p{n}", counts={"hit": hit}, details={"error": 1 - hit})
        for n, hit in enumerate(hits)
    ]
    result = Result(
        bench=bench,
        protocol="official",
        metrics={"accuracy": 100 * sum(hits) / len(hits)},
        metrics_printed={"accuracy": ""},
        by_category={},
        graded=graded,
        formulas={"accuracy": "100 * hit / answers"},
        notes=[],
        failures=0,
    )
    return write_measured(measure(result, {"model": model, "adapter": None}), path)


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    write(tmp_path / "base/pope/results.json", [1, 0] * 20)
    write(tmp_path / "base/amber/results.json", [1] * 4, "amber")
    write(tmp_path / "dpo/pope/results.json", [1] * 40, model="runs/<dpo>")
    write(tmp_path / "alone.json".replace("alone", "results.alone"), [0] * 4, "amber")
    (tmp_path / "dpo/results.json").write_text("{}")
    return Folders.of([tmp_path])


def test_the_table_names_what_is_there(folders: Folders) -> None:
    lines = table(folders.look(), folders)
    assert [(line.name, line.bench) for line in lines] == [
        ("base/amber", "amber"),
        ("base/pope", "pope"),
        ("dpo/pope", "pope"),
        ("results.alone.json", "amber"),
    ]
    assert lines[2].figures == [("accuracy", "100.0 [100.0, 100.0]")] and "50.0 [" in lines[1].figures[0][1]
    html = table_html(lines)
    assert "runs/&lt;dpo&gt;" in html and "sightline eval run" in table_html([])
    (folders.roots[0] / "dpo/pope/results.json").write_text("{")
    assert table(folders.look(), folders)[2].figures[0][0] == "cannot be read"


def test_two_models_are_compared_on_what_both_have(folders: Folders, tmp_path: Path) -> None:
    root = folders.roots[0]
    assert {folders.name_of(path) for path in sides(folders.look())} == {"base", "dpo", "results.alone.json"}
    page = compare(root / "base", root / "dpo", tmp_path / "scratch", folders)
    html = page.read_text()
    assert "dpo against base" in html and "+50.0" in html and "better" in html
    assert "Not compared, because not both have it: amber." in html
    when = page.stat().st_mtime_ns
    assert compare(root / "base", root / "dpo", tmp_path / "scratch", folders) == page
    assert page.stat().st_mtime_ns == when
    assert compare(root / "dpo", root / "base", tmp_path / "scratch", folders) != page
    with pytest.raises(DataError, match="no benchmark in common"):
        compare(root / "dpo", root / "results.alone.json", tmp_path / "scratch", folders)
    with pytest.raises(DataError, match="outside of the folders"):
        compare(root / "base", Path("/"), tmp_path / "scratch", folders)

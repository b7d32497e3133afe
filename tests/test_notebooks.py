"""The notebooks run as they are, on a tiny model, and each is the same in both of its files."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

jupytext = pytest.importorskip("jupytext", reason="jupytext is not installed (extra: dev)")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel", reason="ipykernel is not installed (extra: dev)")

from nbclient import NotebookClient  # noqa: E402

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "notebooks").glob("[0-9]_*.py"))


def cells(path: Path) -> list[tuple[str, str]]:
    return [(cell.cell_type, cell.source) for cell in jupytext.read(path).cells]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_both_files_of_a_pair_say_the_same(script: Path) -> None:
    """``jupytext --sync notebooks/*.py`` makes them so."""
    notebook = nbformat.read(script.with_suffix(".ipynb"), as_version=4)
    nbformat.validate(notebook)
    assert cells(script.with_suffix(".ipynb")) == cells(script)
    assert all(cell.execution_count is None and not cell.outputs for cell in notebook.cells if cell.cell_type == "code")
    assert notebook.metadata.jupytext.formats == "ipynb,py:percent"


def test_what_they_name_is_there() -> None:
    for script in SCRIPTS:
        text = script.read_text(encoding="utf-8")
        for recipe in re.findall(r"[\w./]*recipes/[\w/]+\.yaml", text):
            assert (script.parent / recipe).is_file(), (script.name, recipe)
        for notebook in re.findall(r"\]\(([\w.]+)\)", text):
            assert (script.parent / notebook).is_file(), (script.name, notebook)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each notebook shows, by the start of its name; all in one kernel, whose names are removed in between. The
    first and the third start at the root, the others in their own folder."""
    folder = tmp_path_factory.mktemp("clone")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks")
    (folder / "recipes").symlink_to(ROOT / "recipes")
    whole, starts = nbformat.v4.new_notebook(), dict[str, int]()
    for script in SCRIPTS:
        at_root = int(script.stem[0]) % 2 == 1
        whole.cells.append(
            nbformat.v4.new_code_cell(f"%reset -f\n%cd -q {folder if at_root else folder / 'notebooks'}")
        )
        starts[script.stem[0]] = len(whole.cells)
        whole.cells += nbformat.read(script.with_suffix(".ipynb"), as_version=4).cells
    NotebookClient(whole, timeout=1800, kernel_name="python3").execute(cwd=str(folder))
    assert {path.name for path in folder.iterdir()} == {"notebooks", "recipes"}, "nothing is left at the root"
    ends = [*(start - 1 for start in starts.values()), len(whole.cells)][1:]
    return {
        name: "\n".join(map(shown, whole.cells[start:end]))
        for (name, start), end in zip(starts.items(), ends, strict=True)
    }


def shown(cell: Any) -> str:
    texts = []
    for output in cell.get("outputs", ()):
        assert output.output_type != "error", output
        data = output.get("data", {})
        texts += [output.get("text", ""), data.get("text/html", data.get("text/plain", ""))]
        texts += ["[picture]"] if "image/png" in data or "<img" in data.get("text/html", "") else []
    return "\n".join(texts)


def test_every_notebook_runs_and_shows_what_it_says(outputs: dict[str, str]) -> None:
    assert "89 rows, 89 pictures" in outputs["1"] and outputs["1"].count("[picture]") == 3
    assert "the chosen answer is longer in 0% of pairs, shorter in 13%" in outputs["1"]
    assert "No problem found" in outputs["1"]
    assert "accuracy/sum" in outputs["2"] and "looking/policy/other" in outputs["2"]
    assert outputs["2"].count("[picture]") >= 3 and "nats" in outputs["2"]
    assert "accuracy/sum" in outputs["3"] and "Length of answers" in outputs["3"]
    assert all(text in outputs["4"] for text in ("looking/other", "learnt", "chosen shorter", "compare.html"))


def test_what_is_aligned_looks(outputs: dict[str, str]) -> None:
    """The figures that the third notebook prints, before and after."""
    line = next(line for line in outputs["3"].splitlines() if line.startswith("looking/policy/other"))
    before, after = (float(part) for part in line.removeprefix("looking/policy/other").split("->"))
    assert after > before + 1

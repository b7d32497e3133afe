"""The index of papers names what is there, and all of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from website.papers import FOLDER, formula, head, papers

from sightline.algorithms.presets import PRESETS

ROOT = Path(__file__).parents[2]
INDEX = (ROOT / "docs/papers.md").read_text(encoding="utf-8")
RECIPES = sorted(FOLDER.glob("*.yaml"))


def test_every_recipe_that_is_named_exists() -> None:
    named = re.findall(r"\]\(\.\./(recipes/[^)]+)\)", INDEX)
    assert len(named) > 20
    for name in named:
        assert (ROOT / name).is_file(), name


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_of_a_paper_stands_in_the_index(recipe: Path) -> None:
    """With its paper, and all that differs."""
    told = head(recipe)
    assert {"Paper", "Data", "Differs"} <= set(told)
    assert told["Paper"][0].partition(" (")[0] in INDEX
    assert f"(../recipes/papers/{recipe.name})** — {formula(yaml.safe_load(recipe.read_text()))}." in INDEX


def test_every_paper_that_the_pages_of_methods_cite_is_in_the_index() -> None:
    cited = set()
    for folder in ("docs/algorithms", "docs/guides"):
        for page in (ROOT / folder).glob("*.md"):
            cited |= set(re.findall(r"\b[12]\d{3}\.\d{5}\b", page.read_text(encoding="utf-8")))
    assert len(cited) > 40
    assert cited - set(re.findall(r"\b[12]\d{3}\.\d{5}\b", INDEX)) == set()


def test_every_named_policy_gradient_is_in_the_index() -> None:
    names = {name.partition("_baseline")[0].removesuffix("_token").removesuffix("_d") for name in PRESETS}
    methods = INDEX.partition("## Methods by paper")[2]
    missing = [name for name in names if f"name: {name}`" not in methods and f"[{name}_scenes]" not in methods]
    assert set(missing) <= {"max_rl", "ves_rft"}, missing  # they have no number on arXiv that is known to us


def test_the_head_of_a_recipe_is_read(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(
        "# Paper: A Title (arXiv 2401.00001, XY 2024)\n# Data: rows\n#   of two lines\n"
        "# Differs: one.\n# Differs: two.\n"
        "# Run:\n#   sightline train x\n#\n# Text: that is none.\nname: one\n"
    )
    assert head(tmp_path / "one.yaml") == {
        "Paper": ["A Title (arXiv 2401.00001, XY 2024)"],
        "Data": ["rows of two lines"],
        "Differs": ["one.", "two."],
        "Run": [" sightline train x"],
    }


def test_the_index_is_in_sections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "recipes/papers"
    folder.mkdir(parents=True)
    (folder / "one.yaml").write_text(
        "# Paper: A Title (arXiv 2401.00001, XY 2024)\n# Data: rows\n# Differs: one <b> and `<image>`.\n"
        "algorithm: {name: dpo, anchor_weight: 1.0}\ndata: {train: [{path: x, visual: {relation: mdpo}}]}\n"
    )
    monkeypatch.setattr("website.papers.FOLDER", folder)
    made = papers()
    assert made.startswith("### A Title\n\n[arXiv 2401.00001](https://arxiv.org/abs/2401.00001), XY 2024\n")
    assert "**[one](../recipes/papers/one.yaml)** — [dpo](algorithms/dpo.md):" in made
    assert "; an anchor on the chosen answer." in made and "- Differs: one &lt;b> and `<image>`." in made
    two = (folder / "one.yaml").read_text().replace("# Differs", "# Differs: before it.\n# Differs")
    (folder / "one.yaml").write_text(two)
    assert "- Differs:\n    - before it.\n    - one &lt;b> and `<image>`.\n" in papers()

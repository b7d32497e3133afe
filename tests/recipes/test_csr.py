"""The recipes of CSR, and what its fields refuse."""

from __future__ import annotations

from dataclasses import replace

import pytest

from recipe_files import FOLDER
from sightline.algorithms.registry import build_algorithm
from sightline.errors import RecipeError
from sightline.recipes.csr import CalibrationSpec, CsrSpec, SearchSpec
from sightline.recipes.load import check_algorithm
from sightline.recipes.load_loop import dump_loop, load_loop
from sightline.recipes.loop import training_recipe

NAMES = ("papers/csr", "csr_scenes")


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_loads_and_what_it_trains_can_be_built(name, tmp_path):
    loop = load_loop(FOLDER / f"{name}.yaml")
    stem = name.rpartition("/")[2]
    assert loop.name == stem and loop.output_dir == f"runs/{stem}" and isinstance(loop.method, CsrSpec)
    recipe = training_recipe(loop, 1, loop.model, "folder")
    check_algorithm(recipe, build_algorithm(recipe.algorithm))
    (tmp_path / "again.yaml").write_text(dump_loop(loop))
    assert load_loop(tmp_path / "again.yaml") == loop


def test_the_constants_are_the_published_ones():
    search = SearchSpec()
    assert (search.candidates, search.diversity, search.max_new_tokens, search.width) == (5, 3.0, 70, 5)
    assert (search.max_characters, search.prune_by, CalibrationSpec().weight) == (1024, "lm", 0.9)
    loop = load_loop(FOLDER / "papers/csr.yaml")
    assert loop.method.search == SearchSpec() and loop.method.score == CalibrationSpec()
    assert (loop.rounds, loop.algorithm["beta"], loop.train.learning_rate, loop.train.batch_size) == (3, 0.1, 1e-7, 1)
    assert (loop.model.lora.rank, loop.model.lora.alpha, loop.train.warmup, loop.train.schedule) == (
        128, 256, 0.03, "cosine"
    )  # fmt: skip


def test_the_papers_rule_is_a_few_overrides():
    loop = load_loop(
        FOLDER / "papers/csr.yaml",
        [
            "method.score.mode=raw", "method.score.lm_term=prob", "method.score.clip_clamp_zero=true",
            "method.score.path_reduce=sum", "method.search.prune_by=calibrated", "method.search.max_new_tokens=74",
        ],
    )  # fmt: skip
    paper = CalibrationSpec(mode="raw", lm_term="prob", clip_clamp_zero=True, path_reduce="sum")
    assert loop.method.score == paper
    assert loop.method.search == replace(SearchSpec(), prune_by="calibrated", max_new_tokens=74)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("method.serch={}", "Did you mean 'search'"),
        ("method.search.widht=5", "Did you mean 'width'"),
        ("method.search.width=3", "4"),
        ("method.score.weight=1.5", "1"),
        ("method.score.mode=ranks", "rank"),
        ("method.relevance=null", "reward"),
        ("method.relevance.clip.unit=sentence", "long: cut is of unit: answer"),
    ],
)
def test_what_cannot_be_right_is_refused_by_its_key(override, told):
    with pytest.raises(RecipeError) as error:
        load_loop(FOLDER / "papers/csr.yaml", [override])
    assert told in str(error.value) and override.partition("=")[0].split(".")[1] in str(error.value)

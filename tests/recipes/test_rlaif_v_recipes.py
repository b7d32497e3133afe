"""The recipes of RLAIF-V load, name their folder, and have the published values."""

from pathlib import Path

import pytest

from sightline.recipes.load_loop import load_loop

FOLDER = Path(__file__).parents[2] / "recipes"


@pytest.mark.parametrize("name", ["rlaif_v_scenes", "papers/rlaif_v"])
def test_recipe_loads(name):
    loop = load_loop(FOLDER / f"{name}.yaml")
    stem = name.rpartition("/")[2]
    assert loop.name == stem and loop.output_dir == f"runs/{stem}" and loop.method.name == "rlaif_v"


def test_the_published_values():
    """Paper and code: 10 samples at 0.7, two pairs, Llama-3 at 0.2, beta 0.1, 5e-7, batches of 8, 4 x 4 passes."""
    loop = load_loop(FOLDER / "papers/rlaif_v.yaml")
    method, writer = loop.method, loop.method.claims.writer
    assert (method.sampling.n, method.sampling.temperature, method.sampling.max_new_tokens) == (10, 0.7, 512)
    assert (writer.temperature, writer.top_p, writer.max_tokens) == (0.2, 0.9, 256)
    assert (method.score, method.pairs.min_gap, method.pairs.most) == ("rejected", 1, 2)
    assert (loop.rounds, loop.algorithm["beta"]) == (4, 0.1)
    assert (loop.train.epochs, loop.train.batch_size, loop.train.learning_rate) == (4, 8, 5e-7)

"""Selection for the sake of a target set."""

import json

import pytest
import torch

from sightline.data.select import lowest, selection_scores, write_scores
from sightline.errors import RecipeError
from sightline.types import Group, Prompt


def planted(seed=0, near=6, far=14, d=16):
    """Sources of which the first ``near`` are drawn where the targets are, and the targets."""
    generator = torch.Generator().manual_seed(seed)

    def around(centre, count):
        return centre + 0.3 * torch.randn(count, d, generator=generator)

    here, there = torch.randn(2, d, generator=generator)
    return torch.cat([around(here, near), around(there, far)]), around(here, 30)


@pytest.mark.parametrize("method", ["transport", "cost", "nearest"])
def test_a_planted_cluster_is_selected_first(method):
    source, target = planted()
    assert lowest(selection_scores(source, target, method), 6) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("method", ["transport", "cost", "nearest"])
def test_permuting_the_sources_permutes_the_scores(method):
    source, target = planted(1)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(3))
    scores = selection_scores(source, target, method)
    assert torch.allclose(selection_scores(source[order], target, method), scores[order], atol=1e-6)


def test_the_seed_decides():
    source, target = planted(2)
    for method, options in (("random", {}), ("transport", {"chunk": 7})):
        first, again, other = (selection_scores(source, target, method, seed=s, **options) for s in (4, 4, 5))
        assert torch.equal(first, again) and not torch.equal(first, other)


def test_chunks_of_the_target_agree_with_the_whole():
    source, target = planted(3)
    whole = selection_scores(source, target, "transport")
    parts = selection_scores(source, target, "transport", chunk=10)
    assert lowest(parts, 6) == lowest(whole, 6) == [0, 1, 2, 3, 4, 5]
    nearest = selection_scores(source, target, "nearest")
    assert torch.allclose(selection_scores(source, target, "nearest", chunk=7), nearest, atol=1e-12)


def test_of_equal_scores_the_first_are_kept():
    assert lowest(torch.tensor([2.0, 1.0, 1.0, 1.0]), 2) == [1, 2]
    with pytest.raises(RecipeError, match="5 of 4 samples"):
        lowest(torch.zeros(4), 5)
    with pytest.raises(RecipeError, match="regularisation 0"):
        selection_scores(torch.ones(3, 2), torch.ones(3, 2), "transport", regularisation=0.0)


def test_scores_are_written_with_their_ids(tmp_path):
    groups = [Group(prompts=(Prompt(id=name, messages=()),)) for name in "abc"]
    write_scores(tmp_path / "scores.jsonl", groups, torch.tensor([0.5, -1.0, 0.25], dtype=torch.float64), [1, 2])
    rows = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert rows == [
        {"id": "a", "score": 0.5, "kept": False},
        {"id": "b", "score": -1.0, "kept": True},
        {"id": "c", "score": 0.25, "kept": True},
    ]

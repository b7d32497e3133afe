"""Rotary embeddings that depend on the length: numbers that depend on nothing else, or a refusal."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import train_runs
from groups import corner_groups

from sightline.data.render import Renderer
from sightline.errors import DataError, RecipeError, UnsupportedError
from sightline.models.layout import lay_out
from sightline.models.load import load_policy
from sightline.models.policy import Policy
from sightline.models.rope import steady_length
from sightline.recipes.schema import ModelSpec, SamplingSpec
from sightline.rendered import RenderedGroup
from sightline.rollouts.hf import HFEngine
from sightline.train.session import open_session

BASE = {"rope_theta": 10000.0, "factor": 4.0}
FACTORS = {"short_factor": [1.0, 1.0, 1.0, 1.0], "long_factor": [1.0, 2.0, 4.0, 8.0]}


def rope(kind: str, length: int) -> dict:
    """Entries of a text config whose embedding is steady up to ``length``, as far as it is steady."""
    own = {"original_max_position_embeddings": length} if kind != "dynamic" else {}
    parameters = BASE | {"rope_type": kind} | own | (FACTORS if kind == "longrope" else {})
    return {"rope_parameters": parameters, "max_position_embeddings": length if kind == "dynamic" else 4 * length}


@pytest.fixture
def with_rope(tiny: dict[str, Path], tmp_path: Path):
    """Makes the tiny LLaVA one with another embedding."""

    def make(kind: str, length: int) -> Path:
        folder = Path(shutil.copytree(tiny["llava"], tmp_path / kind))
        config = json.loads((folder / "config.json").read_text())
        config["text_config"] |= rope(kind, length)
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    return make


def rendered(policy: Policy, pictures: list[str]) -> list[RenderedGroup]:
    renderer = Renderer(policy.processor, policy.family)
    return [renderer.render(group) for group in corner_groups(pictures)]


def longest(groups: list[RenderedGroup]) -> int:
    return max(len(g.prompts[r.prompt].tokens) + len(r.tokens) for g in groups for r in g.responses)


@torch.no_grad()
def scores(policy: Policy, groups: list[RenderedGroup], layout: str) -> torch.Tensor:
    return policy(lay_out(groups, layout, policy.family, policy.config)).logprobs  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["dynamic", "longrope", "yarn"])
def test_rows_up_to_the_length_give_the_same_numbers_in_any_company(with_rope, tiny, pictures, kind) -> None:
    groups = rendered(load_policy(ModelSpec(path=str(tiny["llava"])), trainable=False), pictures)
    length = longest(groups)
    policy = load_policy(ModelSpec(path=str(with_rope(kind, length))), trainable=False).eval()
    assert steady_length(policy.config) == (None if kind == "yarn" else length)
    alone = torch.cat([scores(policy, [group], "rows") for group in groups])
    for layout in ("rows", "packed", "tree"):
        together = lay_out(groups, layout, policy.family, policy.config)  # type: ignore[arg-type]
        assert together.tokens.shape[0] > 2 * length
        torch.testing.assert_close(scores(policy, groups, layout), alone, rtol=0, atol=2e-6)


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_a_longer_row_would_change_the_others_and_is_refused(with_rope, tiny, pictures, kind) -> None:
    groups = rendered(load_policy(ModelSpec(path=str(tiny["llava"])), trainable=False), pictures)
    length = longest(groups) - 1
    policy = load_policy(ModelSpec(path=str(with_rope(kind, length))), trainable=False).eval()
    short = [group for group in groups if longest([group]) <= length]
    scores(policy, short, "tree")
    for layout in ("rows", "packed", "tree"):
        with pytest.raises(UnsupportedError, match=f"changes for all rows of a call once one is longer than {length}"):
            scores(policy, groups, layout)


def test_recipes_and_prompts_of_longer_rows_are_refused_before_they_start(with_rope, tiny, pictures, tmp_path) -> None:
    path = with_rope("longrope", 100)
    recipe = train_runs.recipe(path, tmp_path / "run")
    told = r"data\.max_length is 4096.*Set data\.max_length to 100 or less"
    with pytest.raises(RecipeError, match=told), open_session(recipe):
        pass
    engine = HFEngine(load_policy(ModelSpec(path=str(path)), trainable=False))
    with pytest.raises(DataError, match="exceeds the model's 100"):
        engine.generate(corner_groups(pictures)[:1], SamplingSpec(max_new_tokens=100), seed=0)

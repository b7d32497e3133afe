"""Gradients as features, and the selection that is made with them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import train_runs

from sightline.algorithms.reward_model import RewardModel
from sightline.cli.select import select
from sightline.data.render import Renderer
from sightline.data.schema import read_groups, write_groups
from sightline.errors import CheckpointError, DataError, RecipeError
from sightline.models.layout import lay_out
from sightline.models.load import load_policy
from sightline.models.policy import Policy
from sightline.train.gradients import GradientFeatures, Projection, kept_features
from sightline.train.loop import train
from sightline.types import Group

REWARD = frozenset({"reward"})


@pytest.fixture(scope="module")
def warm_up(tiny: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model with LoRA, trained for two steps."""
    folder = tmp_path_factory.mktemp("warm_up")
    options = {"algorithm": {"name": "reward_model"}, "reference": "none", "model": train_runs.lora(tiny["llava"])}
    return train(train_runs.recipe(tiny["llava"], folder, responses=2, max_steps=2, **options), quiet=True).run_dir


@pytest.fixture(scope="module")
def groups(warm_up: Path) -> list[Group]:
    return list(read_groups(train_runs.data(warm_up / "rows", 9, 2)))


def loaded(run: Path) -> Policy:
    from sightline.rewards.model import reward_model_spec

    return load_policy(reward_model_spec(run), heads=REWARD)


def test_the_gradient_of_the_head_is_the_difference_of_hidden_states(warm_up: Path, groups: list[Group]) -> None:
    policy = loaded(warm_up)
    feature = GradientFeatures(policy, RewardModel(), layout="tree", head_only=True)
    batch = lay_out([Renderer(policy.processor, policy.family).render(groups[0])], "rows", policy.family, policy.config)
    with torch.no_grad():
        winner, loser = policy.hidden(batch)[batch.last]
    expected = torch.nn.functional.normalize(loser - winner, dim=0)
    assert torch.allclose(feature(groups[0]), expected, atol=1e-4)


def test_features_keep_the_cosines_of_the_gradients(warm_up: Path, groups: list[Group]) -> None:
    exact = GradientFeatures(loaded(warm_up), RewardModel(), layout="tree", dimension=10**6)
    short = GradientFeatures(loaded(warm_up), RewardModel(), layout="tree", dimension=1024)
    trained = sum(p.numel() for p in loaded(warm_up).parameters() if p.requires_grad)
    assert exact.dimension == trained > 3 * short.dimension
    whole, projected = (torch.stack([feature(group) for group in groups]) for feature in (exact, short))
    assert torch.allclose(whole.norm(dim=1), torch.ones(9), atol=1e-5)
    # an inner product of unit vectors is kept to about 1 / sqrt(dimension) = 0.03
    assert (whole @ whole.T - projected @ projected.T).abs().max() < 0.15
    assert (whole @ whole.T).abs().min() < 0.5  # which says something: the cosines differ
    again = GradientFeatures(loaded(warm_up), RewardModel(), layout="tree", dimension=1024)
    assert torch.equal(again(groups[0]), projected[0])


def test_a_projection_is_unbiased() -> None:
    parameters = [torch.nn.Parameter(torch.empty(40, 5)), torch.nn.Parameter(torch.empty(7))]
    generator = torch.Generator().manual_seed(0)
    one, other = ([torch.randn(p.shape, generator=generator) for p in parameters] for _ in range(2))
    exact = sum(float((a * b).sum()) for a, b in zip(one, other, strict=True))
    maps = [Projection(parameters, dimension=16, seed=seed) for seed in range(400)]
    found = torch.tensor([float(project(one) @ project(other)) for project in maps])
    assert abs(found.mean() - exact) < 3 * found.std() / 20


def test_groups_without_a_comparison_are_refused(warm_up: Path, groups: list[Group]) -> None:
    feature = GradientFeatures(loaded(warm_up), RewardModel(), layout="tree", head_only=True)
    with pytest.raises(DataError, match="has no comparison"):
        feature(replace(groups[0], edges=()))


def test_kept_features_go_on_after_a_stop(tmp_path: Path, groups: list[Group]) -> None:
    calls: list[str] = []

    def feature(group: Group) -> torch.Tensor:
        calls.append(group.id)
        return torch.tensor([float(len(calls)), 0.5])

    path, progress = tmp_path / "features.f32", []
    kept_features(path, groups[:4], feature, 2, progress.append)
    with path.open("ab") as file:
        file.write(b"half")
    rows = kept_features(path, groups, feature, 2, progress.append)
    assert calls == [group.id for group in groups] and progress == [0, 4, 4, 9]
    assert rows[:, 0].tolist() == list(range(1, 10))
    with pytest.raises(CheckpointError, match="9 rows for 4 groups"):
        kept_features(path, groups[:4], feature, 2, progress.append)


def test_the_command_selects_what_the_target_resembles(warm_up: Path, groups: list[Group], tmp_path: Path) -> None:
    """Target rows hidden among others under new ids are found first, read as text here."""
    target = tmp_path / "target.jsonl"
    source = tmp_path / "source.jsonl"
    write_groups(target, groups[:3])
    hidden = [replace(g, prompts=tuple(replace(p, id=f"copy-{p.id}") for p in g.prompts)) for g in groups[:3]]
    write_groups(source, [*groups[3:6], *hidden, *groups[6:]])
    out = tmp_path / "kept.jsonl"
    options = {"reward": str(warm_up), "keep": 3, "out": out, "source_images": "drop", "target_images": "drop"}
    # rows 3, 6 of the source repeat the words of rows 0 to 2 about other pictures
    select(str(source), str(target), **options)
    scores = [json.loads(line) for line in Path(f"{out}.scores.jsonl").read_text().splitlines()]
    assert len(scores) == 9 and sum(row["kept"] for row in scores) == 3
    lowest = sorted(scores, key=lambda row: row["score"])[:3]
    assert {row["id"] for row in lowest} == {g.id for g in read_groups(out)}
    features = Path(f"{out}.features/source.f32").stat().st_mtime_ns
    select(str(source), str(target), **options, method="nearest")  # no new gradients
    assert Path(f"{out}.features/source.f32").stat().st_mtime_ns == features
    nearest = {r["id"]: r["score"] for r in map(json.loads, Path(f"{out}.scores.jsonl").read_text().splitlines())}
    assert max(nearest[f"copy-row-{n}"] for n in range(3)) < 1e-6
    assert json.loads(Path(f"{out}.settings.json").read_text())["method"] == "nearest"
    with pytest.raises(CheckpointError, match="seed: 0 there, 1 here"):
        select(str(source), str(target), **options, seed=1)


def test_the_command_refuses_what_cannot_be_selected_before_any_gradient(
    warm_up: Path, groups: list[Group], tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    write_groups(rows, groups[:4])
    options = {"reward": str(warm_up), "out": tmp_path / "kept.jsonl"}
    with pytest.raises(RecipeError, match="5 of 4 samples cannot be kept"):
        select(str(rows), str(rows), **options, keep=5)
    with pytest.raises(RecipeError, match=r"regularisation 0.0"):
        select(str(rows), str(rows), **options, keep=2, regularisation=0.0)
    with pytest.raises(RecipeError, match="no row is lost"):
        select(str(rows), str(rows), **(options | {"out": rows}), keep=2)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"] and len(list(read_groups(rows))) == 4
    select(str(rows), str(rows), **options, keep=2, method="random")
    assert len(list(read_groups(tmp_path / "kept.jsonl"))) == 2
    assert not list(tmp_path.glob("*.features/*.f32"))  # drawing at random needs no gradient

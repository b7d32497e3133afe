"""A reward model's head: made, frozen with the rest, saved beside the model, loaded again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sightline.errors import CheckpointError, UnsupportedError
from sightline.models.load import load_policy
from sightline.models.score_head import WEIGHTS, ScoreHead, ScoreSettings, load_score_head
from sightline.recipes.schema import ModelSpec, PartsSpec, ReadsSpec

REWARD = frozenset({"reward"})
LORA = PartsSpec(language="lora", projector="frozen", vision="frozen")


@pytest.mark.parametrize("parts", [PartsSpec(), LORA], ids=["full", "lora"])
def test_a_saved_head_is_loaded_with_its_model(tiny: dict[str, Path], tmp_path: Path, parts: PartsSpec) -> None:
    spec = ModelSpec(path=str(tiny["llava"]), parts=parts)
    policy = load_policy(spec, heads=REWARD)
    settings = ScoreSettings(reads=ReadsSpec(images="caption", facts=("captions",), criteria="Judge.{facts}"))
    policy.score_head.settings = settings
    assert policy.parts()["language"][-1] == ("score_head.weight", policy.score_head.weight)
    policy.save(tmp_path)
    saved = replace(spec, adapter=str(tmp_path)) if parts is LORA else replace(spec, path=str(tmp_path))
    again = load_policy(saved, heads=REWARD, trainable=False)
    assert torch.equal(again.score_head.weight, policy.score_head.weight)
    assert again.score_head.settings == settings
    assert not any(parameter.requires_grad for parameter in again.parameters())
    assert load_policy(saved).score_head is None


def test_the_lm_head_is_trained_only_where_it_is_read(tiny: dict[str, Path]) -> None:
    spec = ModelSpec(path=str(tiny["llava"]))
    trained = {name for name, _ in load_policy(spec).parts()["language"]}
    scored = {name for name, _ in load_policy(spec, heads=REWARD).parts()["language"]}
    assert trained - scored == {"lm_head.weight"} and scored - trained == {"score_head.weight"}


def test_checkpoints_hold_the_head(tiny: dict[str, Path]) -> None:
    policy = load_policy(ModelSpec(path=str(tiny["llava"]), parts=LORA), heads=REWARD)
    other = load_policy(ModelSpec(path=str(tiny["llava"]), parts=LORA), heads=REWARD)
    state = policy.trainable_state()
    other.load_trainable_state(state)
    assert torch.equal(other.score_head.weight, policy.score_head.weight)
    with pytest.raises(CheckpointError, match="score_head"):
        load_policy(ModelSpec(path=str(tiny["llava"]), parts=LORA)).load_trainable_state(state)


def test_a_head_for_another_model_and_a_folder_without_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no reward model"):
        load_score_head(tmp_path, 8)
    ScoreHead(16).save(tmp_path)
    with pytest.raises(CheckpointError, match="hidden size of 16, the model has 8"):
        load_score_head(tmp_path, 8)
    save_file({"score.weight": torch.zeros(16)}, tmp_path / WEIGHTS)
    with pytest.raises(CheckpointError, match=r"holds score\.weight, where weight was expected"):
        load_score_head(tmp_path, 16)


def test_scores_stay_in_float32(tiny: dict[str, Path]) -> None:
    head = ScoreHead(32)
    hidden = torch.randn(3, 32, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = head(hidden)
    assert scores.dtype == torch.float32
    assert torch.equal(scores, hidden.float() @ head.weight)


def test_a_policy_without_a_head_says_so(tiny: dict[str, Path]) -> None:
    policy = load_policy(ModelSpec(path=str(tiny["llava"]), parts=LORA))
    with pytest.raises(UnsupportedError, match=r"no head \['reward'\]"):
        policy(None, REWARD)
    scoring = load_policy(ModelSpec(path=str(tiny["llava"]), parts=LORA), heads=REWARD)
    with pytest.raises(UnsupportedError, match="this reference has no head"):
        scoring(None, REWARD, reference=True)

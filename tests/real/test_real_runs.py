"""The main job on real records and photographs, through the command line (docs/guides/real_records.md)."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from command_line import Train, sightline
from sightline.data.render import Renderer
from sightline.data.schema import read_groups
from sightline.models.load import load_policy
from sightline.recipes.schema import ModelSpec

pytestmark = pytest.mark.real


@pytest.fixture(scope="module", params=["llava", "qwen2_5_vl"])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def tuned(family: str, models: dict[str, Path], train: Train, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run directory of SFT on the ScienceQA questions and the conversations of several turns and pictures."""
    out = tmp_path_factory.mktemp(f"sft_{family}") / "run"
    train("real_sft", out, f"model.path={models[family]}", "train.epochs=2")
    return out


def test_pictures_take_the_tokens_of_their_family(models: dict[str, Path], shared_data: Path) -> None:
    photograph = str(shared_data / "ovip/ovip_images/000000068697.jpg")  # 640 x 480
    tokens = {}
    for family, folder in models.items():
        policy = load_policy(ModelSpec(path=str(folder)), trainable=False)
        tokens[family] = Renderer(policy.processor, policy.family).image(photograph).num_tokens
    # 336 pixels in patches of 14; with tiles (2 x 2 tiles cut to 48 x 36 patches, a line end each); 28 pixels a token
    assert tokens == {"llava": 576, "llava_next": 576 + 36 * 48 + 36, "qwen2_5_vl": (480 // 28) * round(640 / 28)}


def test_sft_on_questions_and_conversations_lowers_the_loss(tuned: Path) -> None:
    environment = json.loads((tuned / "environment.json").read_text())
    assert environment["rows"]["train"].startswith("90 of 90 rows kept")
    losses = [json.loads(line)["loss"] for line in (tuned / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 12
    assert sum(losses[-3:]) < 0.75 * sum(losses[:3])
    assert (tuned / "report.html").exists()


def test_dpo_ranks_every_trained_pair_right(family: str, models: dict[str, Path], train: Train, tmp_path: Path) -> None:
    """Descriptions of photographs (OViP), and the right option over a wrong one (ScienceQA): all 64 pairs."""
    epochs = {"llava": 4, "qwen2_5_vl": 6}[family]
    few = ["data.train.0.limit=4", "data.eval.0.limit=4"]  # the file repeats two pairs
    done, records = train("real_dpo", tmp_path / "run", f"model.path={models[family]}", f"train.epochs={epochs}", *few)
    assert "2 pictures found by their bare name" in done.err
    assert records[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)  # the policy is still the reference
    assert len(records) == 8 * epochs
    last = records[-1]
    assert last["eval/rewards/accuracies"] == 1.0
    assert last["eval/rewards/margins"] > 3
    assert last["eval/loss"] < 0.1


def test_samples_about_photographs(family: str, tuned: Path, shared_data: Path, tmp_path: Path) -> None:
    """Three answers to each of 14 prompts, broken off after five and taken up again."""
    out = tmp_path / "samples.jsonl"
    rows = shared_data / "rlaifv_examples/detail_questions.jsonl"
    sample = ["sample", tuned / "model", rows, "-o", out, "-n", 3, "--max-tokens", 8, "--temperature", 0.7]
    assert sightline(*sample, "--limit", 5).code == 0
    begun = out.read_text()
    done = sightline(*sample)
    assert done.code == 0 and "9 prompts answered, 27 answers" in done.err
    assert out.read_text().startswith(begun)

    groups = list(read_groups(out))
    policy = load_policy(ModelSpec(path=str(tuned / "model")), trainable=False)
    end, image = policy.processor.tokenizer.eos_token_id, policy.processor.image_token_id
    assert [group.id for group in groups] == [f"detail_questions-{row}" for row in range(1, 15)]
    responses = [response for group in groups for response in group.responses]
    assert len(responses) == 42
    for response in responses:
        assert response.tokens is not None
        ended = response.tokens[-1] == end
        assert response.finish_reason == ("stop" if ended else "length")
        assert ended or len(response.tokens) == 8
        assert end not in response.tokens[:-1] and image not in response.tokens
        assert policy.processor.image_token not in response.text
    assert {response.finish_reason for response in responses} == {"stop", "length"}


def test_tiles_of_llava_next_train_too(models: dict[str, Path], train: Train, tmp_path: Path) -> None:
    limits = [f"data.train.{source}.limit=2" for source in range(3)]
    steps = ["train.max_steps=5", "train.batch_size=6", "train.schedule=constant"]
    _, records = train("real_sft", tmp_path / "run", f"model.path={models['llava_next']}", *limits, *steps)
    assert records[-1]["loss"] < 0.8 * records[0]["loss"]

"""The commands of docs/guides/fact_rlhf.md, one after the other, on a tiny LLaVA and drawn records of its layouts."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from command_line import sightline
from sightline.data.schema import read_groups
from sightline.train.metrics import read_metrics

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs/guides/fact_rlhf.md").read_text()
COMMANDS = [shlex.split(line) for line in re.findall(r"^sightline .*", GUIDE, re.MULTILINE)]
SMALL = {
    "llava_rlhf_rm": ["train.batch_size=4", "train.epochs=2", "model.lora.rank=4"],
    "llava_rlhf_init": ["train.batch_size=4", "train.epochs=2", "model.lora.rank=4", "train.learning_rate=1e-2"],
    "llava_rlhf_ppo": [
        "train.batch_size=2",
        "train.max_steps=6",
        "train.warmup=0",
        "train.learning_rate=1e-2",
        "online.sampling.max_new_tokens=12",
    ],
}
"""Overrides of each stage, beside those of the guide."""


def rows(pictures: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Rows of the three layouts; pictures take turns, and so do the types of prompts."""

    def turns(question: str, answer: str = "") -> list[dict[str, str]]:
        return [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}]

    facts = {"captions": ["A red shape {on} a ground.", "One shape, nothing else."]}
    pairs = [
        {
            "id": number,
            "image": picture,
            **facts,
            "conversations": turns("What is there?"),
            "output_1": {"from": "llava", "value": f"A red shape {number}."},
            "output_2": {"from": "llava", "value": "Two dogs and a clock."},
            "preference": 1 + number % 2,
        }
        for number, picture in enumerate(pictures)
    ]
    start = [
        {"id": str(number), "image": picture, "conversations": turns("Is it red?", "Yes. It is red, B. red")}
        for number, picture in enumerate(pictures)
    ]
    prompts = [
        {
            "id": str(number),
            "image": picture,
            **facts,
            "caption_type": 1 + number % 7,
            "length_bonus": -0.5 if number % 2 else 1.0,
            "conversations": turns("Which one?\nA. dog B. shape C. clock D. none"),
        }
        for number, picture in enumerate(pictures)
    ]
    return {"preferences_train": pairs, "preferences_eval": pairs[:2], "policy_init": start, "rl_prompts": prompts}


@pytest.fixture(scope="module")
def stages(tiny: dict[str, Path], pictures: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every command of the guide was run, but for the ablations."""
    folder = tmp_path_factory.mktemp("fact_rlhf")
    (folder / "data").mkdir()
    for name, some in rows(pictures).items():
        (folder / f"data/{name}.json").write_text(json.dumps(some))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command, name, *rest in (one[1:] for one in COMMANDS):
            if command == "train" and any(word.startswith("output_dir=") for word in rest):
                continue
            arguments = [name, *rest]
            if command == "train":
                small = SMALL[Path(name).stem]
                arguments = [
                    ROOT / name,
                    *rest,
                    f"model.path={tiny['llava']}",
                    "model.dtype=float32",
                    *small,
                    "--quiet",
                ]
            done = sightline(command, *arguments)
            assert done.code == 0, (command, done.err)
    return folder


def test_the_guide_trains_three_stages_and_uses_what_they_leave() -> None:
    assert [one[1] for one in COMMANDS] == ["train"] * 3 + ["score", "sample", "merge"] + ["train"] * 3


def test_roles_share_the_model_and_start_where_the_guide_says(stages: Path, tiny: dict[str, Path]) -> None:
    run = stages / "runs/llava_rlhf_ppo"
    for name in ("model", "model/value"):
        config = json.loads((run / name / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == str(tiny["llava"])
        assert config["r"] == 4
    first = read_metrics(run / "metrics.jsonl")[0]
    assert first["objective/kl"] == 0  # the reference is the adapter that the policy starts from
    assert first["val/mean"] == 0  # and the critic has a head of zeros
    critic = load_file(run / "model/value/adapter_model.safetensors")
    reward = load_file(stages / "runs/llava_rlhf_rm/model/adapter_model.safetensors")
    policy = load_file(run / "model/adapter_model.safetensors")
    assert critic.keys() == reward.keys() == policy.keys()
    # six steps of Adam at most 0.01 each lie between the critic and the reward model, and the policy lies elsewhere
    assert all(float((critic[name] - reward[name]).abs().max()) <= 6 * 0.0101 for name in critic)
    assert any(float((policy[name] - reward[name]).abs().max()) > 6 * 0.0101 for name in critic)


def test_the_reward_is_the_sum_of_its_terms(stages: Path) -> None:
    """Checks (c) to (e) of LLaVA-RLHF's shaping, on what a run wrote."""
    groups = list(read_groups(str(stages / "runs/llava_rlhf_ppo/samples.jsonl")))
    scored = {
        (group.id, response.tokens): response.reward
        for group in read_groups(str(stages / "runs/scored.jsonl"))
        for response in group.responses
    }
    assert len(groups) == 6  # an epoch: a round of two steps of two prompts, and the rest
    for group in groups:
        facts = group.prompts[0].facts
        for response in group.responses:
            parts = response.rewards
            assert set(parts) == {"model", "no_end", "length", "symbolic"}
            assert parts["length"] == pytest.approx(facts["length_bonus"] * len(response.tokens) / 12)
            asks = response.finish_reason == "length" or "?" in response.text
            assert parts["no_end"] == -float(asks)
            total = parts["model"] + 8 * parts["no_end"] - 10 * parts["length"] + 2 * parts["symbolic"]
            assert response.reward == pytest.approx(total)
            assert scored[group.id, response.tokens] == pytest.approx(parts["model"], abs=1e-5)


def test_what_is_left_answers_and_stands_alone(stages: Path) -> None:
    answers = list(read_groups(str(stages / "runs/answers.jsonl")))
    assert len(answers) == 6 and all(group.responses[0].tokens for group in answers)
    merged = stages / "models/fact_rlhf"
    assert not (merged / "value").exists() and not list(merged.glob("*value*"))
    weights = load_file(merged / "model.safetensors")
    assert not [name for name in weights if "value" in name.split(".") or "lora" in name]


@pytest.mark.parametrize("command", [one for one in COMMANDS if "output_dir" in str(one)], ids=lambda one: one[3])
def test_every_part_can_be_switched(command: list[str]) -> None:
    done = sightline("show", ROOT / command[2], *command[3:])
    assert done.code == 0, done.err
    terms = re.search(r"\n  reward:\n(.*?)\n  failed_rewards", done.out, re.DOTALL)
    assert terms is not None
    found = set(re.findall(r"^    (\w+):", terms[1], re.MULTILINE))
    left_out = {word.split(".")[2].split("=")[0] for word in command[3:] if word.endswith("=null")}
    assert found == {"model", "no_end", "length", "symbolic"} - left_out
    assert ("both: true" in terms[1]) == ("both_ways" in str(command))

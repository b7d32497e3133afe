"""The critic's own adapter under what else a recipe may ask for, and what others make of a run that has one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import train_runs
from safetensors.torch import load_file
from test_ppo import recipe

from command_line import sightline
from sightline.models.policy import Policy
from sightline.recipes.load import dump_recipe
from sightline.train.loop import train
from sightline.train.session import open_session

SAME = ("loss", "loss/policy", "loss/value", "grad_norm", "val/mean", "objective/kl")


@pytest.fixture(scope="module")
def plain(tiny, tmp_path_factory):
    made = recipe(tiny["llava"], tmp_path_factory.mktemp("plain"), max_steps=2)
    train(made, quiet=True)
    return made


@pytest.mark.parametrize("option", ["gradient checkpointing", "compile"])
def test_what_changes_no_number_changes_none(tiny, tmp_path, plain, monkeypatch, option):
    made = recipe(tiny["llava"], tmp_path, max_steps=2)
    if option == "compile":
        whole = Policy.compile_layers  # inductor takes half a minute for what is traced alike
        monkeypatch.setattr(Policy, "compile_layers", lambda self: whole(self, "eager"))
        made = replace(made, train=replace(made.train, compile=True))
    else:
        made = replace(made, model=replace(made.model, gradient_checkpointing=True))
    train(made, quiet=True)
    for mine, theirs in zip(train_runs.figures(plain), train_runs.figures(made), strict=True):
        assert {name: theirs[name] for name in SAME} == pytest.approx(
            {name: mine[name] for name in SAME}, rel=2e-3, abs=2e-5
        )


@pytest.mark.parametrize("low", ["weights", "autocast"])
def test_in_bfloat16_the_critic_is_trained_in_float32_and_the_round_begins_at_ratio_one(tiny, tmp_path, low):
    made = recipe(tiny["llava"], tmp_path, max_steps=5)
    if low == "weights":
        made = replace(made, model=replace(made.model, dtype="bfloat16"))
    else:
        made = replace(made, train=replace(made.train, mixed_precision="bf16"))
    with open_session(made) as session:
        critic = dict(session.policy.parts()["critic"])
        assert {parameter.dtype for parameter in critic.values()} == {torch.float32} and len(critic) > 10
    train(made, quiet=True)
    told = train_runs.figures(made)
    assert [told[step]["val/ratio_max"] for step in (0, 4)] == [1, 1]
    assert told[0]["objective/kl"] == 0 and told[0]["val/mean"] == 0 and told[4]["val/mean"] != 0
    saved = load_file(Path(made.output_dir) / "model/value/adapter_model.safetensors")
    assert max(float(value.abs().max()) for name, value in saved.items() if "lora_B" in name) > 1e-3


@pytest.mark.parametrize("lora", [True, False], ids=["own adapter", "shared"])
def test_others_take_the_policy_and_leave_the_critic(tiny, tmp_path, lora):
    made = recipe(tiny["llava"], tmp_path, lora=lora, max_steps=2)
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(made))
    assert sightline("train", path, "--quiet").code == 0
    run, model = Path(made.output_dir), Path(made.output_dir) / "model"
    world = tmp_path / "world"
    world.mkdir()
    (world / "scenes.json").write_text('{"scenes": 2, "questions": 1}')
    commands = [
        ("export", run, "-o", tmp_path / "exported"),
        ("sample", run, made.online.prompts.path, "-n", "1", "--temperature", "0", "--max-tokens", "5"),
        ("eval", "scenes", "--model", run, "--data", world, "--max-tokens", "5"),
    ]
    outs = {"sample": tmp_path / "answers.jsonl", "eval": tmp_path / "results"}
    for command, *rest in commands:
        done = sightline(command, *rest, *(["-o", outs[command]] if command in outs else []))
        assert done.code == 0, (command, done.err)
    name = "adapter_model.safetensors" if lora else "model.safetensors"
    written, own = load_file(tmp_path / "exported" / name), load_file(model / name)
    assert written.keys() == own.keys() and all(torch.equal(written[key], own[key]) for key in own)
    assert not any("value" in key.split(".") or key.startswith("value_head") for key in written)
    assert not (tmp_path / "exported/value").exists()
    answers = [json.loads(line)["responses"][0]["tokens"] for line in outs["sample"].read_text().splitlines()]
    done = sightline("sample", tmp_path / "exported", made.online.prompts.path, "-n", "1", "--temperature", "0",
                     "--max-tokens", "5", "-o", tmp_path / "again.jsonl")  # fmt: skip
    assert done.code == 0, done.err
    again = [json.loads(line)["responses"][0]["tokens"] for line in (tmp_path / "again.jsonl").read_text().splitlines()]
    assert again == answers

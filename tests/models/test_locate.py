"""What may stand where a model is named: run directories, adapters, folders, and errors that say what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import train_runs

from command_line import sightline
from sightline.data.schema import read_groups
from sightline.errors import RecipeError
from sightline.models.load import load_policy
from sightline.models.locate import located
from sightline.recipes.schema import ModelSpec
from sightline.train.loop import train


@pytest.fixture(scope="module")
def runs(tiny: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run that trained an adapter on smaller pictures, and one that trained the whole model."""
    root = tmp_path_factory.mktemp("runs")
    rows = train_runs.data(root / "data", 2, 1)
    found = {}
    for name, model in (("adapter", train_runs.lora(tiny["qwen2_5_vl"])), ("whole", None)):
        options = {"epochs": 1}
        options |= {"model": model} if model else {}
        recipe = train_runs.recipe(tiny["qwen2_5_vl"], root / name, **options)
        found[name] = train(recipe, quiet=True).run_dir
    return {**found, "rows": rows}


def of(path: object, **options: object) -> ModelSpec:
    return located(ModelSpec(path=str(path), **options))  # type: ignore[arg-type]


def test_every_name_leads_to_the_same_model(runs: dict[str, Path], tiny: dict[str, Path]) -> None:
    base, run = str(tiny["qwen2_5_vl"]), runs["adapter"]
    for spec in (of(run), of(run / "model"), of(base, adapter=str(run)), of(base, adapter=str(run / "model"))):
        assert (spec.path, spec.adapter) == (base, str(run / "model"))
        assert located(spec) == spec
    assert of(runs["whole"]).path == str(runs["whole"] / "model") and of(runs["whole"]).adapter is None
    assert of("some/hub-name") == ModelSpec(path="some/hub-name")
    assert load_policy(ModelSpec(path=str(runs["whole"]))).has_adapter is False, "a whole model can be trained on"


def test_commands_take_runs_and_adapters(runs: dict[str, Path], tmp_path: Path) -> None:
    answers = []
    for number, model in enumerate((runs["adapter"], runs["adapter"] / "model")):
        out = tmp_path / f"{number}.jsonl"
        done = sightline("sample", model, runs["rows"], "--max-tokens", 3, "-o", out)
        assert done.code == 0, done.err
        answers.append([response.tokens for group in read_groups(out) for response in group.responses])
    assert answers[0] == answers[1]


def test_what_cannot_be_found_is_said(runs: dict[str, Path], tmp_path: Path) -> None:
    run = runs["adapter"]
    unfinished = tmp_path / "unfinished"
    (unfinished / "checkpoints" / "step-00000002").mkdir(parents=True)
    (unfinished / "recipe.yaml").write_text("name: x\n")
    with pytest.raises(RecipeError, match=r"has not ended \(checkpoints of steps: 2\).* export .* --step 2 -o OUT"):
        of(unfinished)
    step = next((run / "checkpoints").glob("step-*"))
    with pytest.raises(RecipeError, match=rf"is a checkpoint.* sightline export {run} --step {int(step.name[5:])} -o"):
        of(step)
    with pytest.raises(RecipeError, match="a model has one"):
        of(run, adapter=str(run / "model"))
    with pytest.raises(RecipeError, match=r"Set model.path to .* and model.adapter to .*, to train it on"):
        load_policy(ModelSpec(path=str(run)))
    lone = tmp_path / "lone"
    lone.mkdir()
    for values, told in (
        ({}, "names no base_model"),
        ({"base_model_name_or_path": "/gone"}, "there is no such folder"),
    ):
        (lone / "adapter_config.json").write_text(json.dumps(values))
        with pytest.raises(RecipeError, match=told):
            of(lone)
    (lone / "adapter_config.json").write_text("{")
    with pytest.raises(RecipeError, match="cannot be read"):
        of(lone)


def test_an_adapter_brings_the_processor_it_was_trained_with(runs: dict[str, Path], tmp_path: Path) -> None:
    """Without it the pictures would have the sizes of the base."""
    model = runs["adapter"] / "model"
    file = model / "processor_config.json"
    kept = file.read_text()
    settings = json.loads(kept)
    settings["image_processor"]["size"] = {"shortest_edge": 256, "longest_edge": 512}
    file.write_text(json.dumps(settings))
    try:
        policy = load_policy(ModelSpec(path=str(runs["adapter"])), trainable=False)
    finally:
        file.write_text(kept)
    assert dict(policy.processor.image_processor.size)["longest_edge"] == 512

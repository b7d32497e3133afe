"""``online.engine``: what can be written, and what is refused."""

import json

import pytest
import yaml

from sightline.errors import RecipeError
from sightline.recipes.load import dump_recipe, load_recipe

RECIPE = {
    "name": "online",
    "output_dir": "runs/online",
    "model": {"path": "models/tiny", "parts": {"language": "lora", "projector": "frozen", "vision": "frozen"}},
    "algorithm": {"name": "dpo"},
    "online": {"prompts": {"path": "prompts.jsonl"}, "reward": "scenes"},
}
VLLM = {"name": "vllm", "urls": ["http://127.0.0.1:8000"]}


def loaded(tmp_path, engine=None, *overrides):
    recipe = json.loads(json.dumps(RECIPE))
    if engine is not None:
        recipe["online"]["engine"] = engine
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.dump(recipe))
    return load_recipe(path, overrides)


def test_the_engine_is_the_policy_itself_unless_told_otherwise(tmp_path):
    engine = loaded(tmp_path).online.engine
    assert (engine.name, engine.check, engine.max_kl) == ("hf", True, 0.015)


def test_a_recipe_with_servers_is_written_and_read_back(tmp_path):
    recipe = loaded(tmp_path, VLLM | {"timeout": 30, "patience": 0, "max_kl": 0.1})
    (tmp_path / "again.yaml").write_text(dump_recipe(recipe))
    assert load_recipe(tmp_path / "again.yaml") == recipe
    assert recipe.online.engine.urls == ("http://127.0.0.1:8000",)


@pytest.mark.parametrize(
    ("engine", "overrides", "told"),
    [
        ({"name": "vlm"}, (), "Did you mean 'vllm'"),
        (VLLM | {"url": "http://a:1"}, (), "unknown key 'url' in online.engine. Did you mean 'urls'"),
        ({"name": "vllm"}, (), "Add urls"),
        ({"urls": ["http://a:1"]}, (), "urls is an option of name: vllm, found name: hf"),
        ({"patience": 5}, (), "patience is an option of name: vllm"),
        (VLLM | {"urls": ["a:8000"]}, (), r"'a:8000', expected http://HOST:PORT"),
        (VLLM | {"urls": ["http://a:1/v1"]}, (), r"expected http://HOST:PORT"),
        (VLLM | {"urls": ["http://a:1", "http://a:1/"]}, (), "twice"),
        (VLLM | {"timeout": 0}, (), "a value > 0"),
        (VLLM | {"max_kl": -1}, (), "a value > 0"),
        (VLLM, ("online.replay=samples.jsonl",), "no engine is asked"),
        (VLLM, ("online.sampling.temperature=3.0",), "found 3, and vLLM takes 0 to 2"),
        (VLLM, ("train.distribution=fsdp",), "Set train.distribution to ddp"),
        (VLLM, ("model.parts.projector=full",), "model.parts.projector is trained whole"),
        (VLLM, ("model.parts.language=full",), "set sync: weights"),
        (VLLM, ("model.parts.projector=lora",), "model.parts.projector: lora, and servers leave out"),
        (VLLM | {"sync": "weights"}, ("model.quantization=nf4",), "model.quantization is nf4. Set sync: adapter"),
        (VLLM | {"workers": 2}, (), "workers is an option of name: ray, found name: vllm"),
        ({"gpus": 0.5}, (), "gpus is an option of name: ray, found name: hf"),
        ({"name": "ray", "sync": "weights"}, (), "sync is an option of name: vllm, found name: ray"),
        ({"name": "ray", "workers": 0}, (), "a value >= 1"),
        ({"name": "ray", "address": "ray://head:10001"}, (), "found 'ray://head:10001', expected auto, or HOST:PORT"),
        ({"name": "ray", "address": "head"}, (), "found 'head', expected auto, or HOST:PORT"),
        ({"name": "ray"}, ("train.distribution=fsdp",), "Set train.distribution to ddp"),
        ({"name": "ray"}, ("online.replay=samples.jsonl",), "no engine is asked"),
        (
            {"name": "ray", "rewards": "workers"},
            ('online.reward={"iris": {"kind": "iris", "reference": "models/base"}}',),
            "asks the policy in training, which workers do not have",
        ),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, engine, overrides, told):
    with pytest.raises(RecipeError, match=told):
        loaded(tmp_path, engine, *overrides)


@pytest.mark.parametrize("projector", ["lora", "full", "frozen"])
def test_whole_weights_take_what_an_adapter_cannot_hold(tmp_path, projector):
    recipe = loaded(tmp_path, VLLM | {"sync": "weights"}, f"model.parts.projector={projector}")
    assert recipe.model.parts.projector == projector


def test_workers_of_ray_are_written_and_read_back(tmp_path):
    recipe = loaded(tmp_path, {"name": "ray", "workers": 8, "gpus": 1, "address": "auto", "rewards": "workers"})
    (tmp_path / "again.yaml").write_text(dump_recipe(recipe))
    assert load_recipe(tmp_path / "again.yaml") == recipe


def test_servers_may_move_while_a_run_goes_on(tmp_path):
    from sightline.train.run_folder import changed_fields

    before = loaded(tmp_path, VLLM)
    assert changed_fields(before, loaded(tmp_path, VLLM | {"urls": ["http://b:1", "http://c:1"], "timeout": 5})) == []
    assert "online.engine.name" in changed_fields(before, loaded(tmp_path))[0]

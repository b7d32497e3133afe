"""Loops on rows from files: other families, adapters that are merged, and a model that judges itself."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from sightline.data.schema import read_groups
from sightline.errors import DataError, RecipeError, ServiceError
from sightline.files import read_settings
from sightline.loops.run import run_loop
from sightline.loops.self_rewarding import of_round
from sightline.loops.stages import Round
from sightline.recipes.load_loop import load_loop
from sightline.recipes.schema import ModelSpec
from sightline.recipes.terms import IrisSpec, JudgeSpec

SEARCH = {"max_new_tokens": 5, "max_sentences": 2, "candidates": 3, "junk": "keep"}
SELF = {
    "name": "self_rewarding",
    "reward": "test_families:Letters",
    "sampling": {"n": 3, "max_new_tokens": 6, "batch_size": 2},
}
LORA = {"parts": {"language": "lora", "projector": "frozen", "vision": "frozen"}, "lora": {"rank": 2, "alpha": 64}}


class Letters:
    """A reward that any text gets: the share of letters."""

    def reward(self, group):
        scores = [sum(map(str.isalpha, one.text)) / max(len(one.text), 1) for one in group.responses]
        return replace(
            group, responses=tuple(replace(r, reward=s) for r, s in zip(group.responses, scores, strict=True))
        )


class Failing:
    """A reward that fails for one answer until a file says that it is mended."""

    def reward(self, group):
        broken = not Path("mended").exists() and group.id.endswith("2")
        return replace(
            group,
            responses=tuple(
                replace(r, reward_error="the judge is away") if broken and n == 1 else replace(r, reward=float(n))
                for n, r in enumerate(group.responses)
            ),
        )


@pytest.fixture
def rows(tmp_path, pictures):
    """A table of questions about pictures that lie elsewhere."""
    file = tmp_path / "questions.csv"
    with file.open("w", newline="") as opened:
        table = csv.writer(opened)
        table.writerow(["prompt", "image"])
        table.writerows(
            [[f"What is this, number {index}?", Path(path).name] for index, path in enumerate(pictures[:4])]
        )
    return {"path": str(file), "image_dir": str(Path(pictures[0]).parent)}


def loop_of(base, rows, out, **changes):
    values = {
        "name": "rows",
        "output_dir": str(out),
        "rounds": 1,
        "model": {"path": str(base)},
        "prompts": rows,
        "method": SELF,
        "train": {"max_steps": 1, "batch_size": 2, "learning_rate": 0.05},
    }
    file = out.with_suffix(".yaml")
    file.write_text(yaml.safe_dump({**values, **changes}))
    return load_loop(file)


def test_an_adapter_is_merged_into_the_model_of_the_round(tiny, rows, tmp_path):
    """Rows of a table, another family, LoRA: the reference is the model with its adapter off, and there is no exam."""
    base, folder = tiny["qwen2_5_vl"], tmp_path / "loop"
    result = run_loop(loop_of(base, rows, folder, model={"path": str(base), **LORA}), quiet=True)
    assert (result.best, result.value, result.model) == (1, None, folder / "round-1/model")
    assert "reference: adapter" in (folder / "round-1/train/recipe.yaml").read_text()
    assert (folder / "round-1/train/model/adapter_config.json").is_file()
    assert "fresh process" in (folder / "round-1/model/README.md").read_text()
    before, after = (load_file(path / "model.safetensors") for path in (base, folder / "round-1/model"))
    moved = {name for name in before if not before[name].equal(after[name])}
    assert moved and all("_proj." in name and "visual" not in name for name in moved)
    for path in (folder / "round-1/train", folder / "round-1/train/model"):  # an adapter is no start, and is told so
        with pytest.raises(RecipeError, match=rf"{path} is an adapter, but .*sightline merge {path} -o MERGED"):
            run_loop(loop_of(base, rows, tmp_path / "more", model={"path": str(path)}), quiet=True)


@pytest.mark.parametrize("method", ["self_rewarding", "csr"])
def test_rows_of_any_number_of_pictures_are_asked_together(tiny, pictures, tmp_path, method):
    """One picture, two, and none: each is answered, compared and trained."""
    file = tmp_path / "rows.jsonl"
    asked = [("<image> What is this?", pictures[:1]), ("<image><image> What differs?", pictures[1:3]), ("Hello", [])]
    file.write_text("".join(json.dumps({"prompt": text, "images": images}) + "\n" for text, images in asked))
    spec = {"name": "csr", "relevance": "test_families:Letters", "search": SEARCH} if method == "csr" else SELF
    loop = loop_of(tiny["qwen2_5_vl"], {"path": str(file)}, tmp_path / "loop", method=spec, rounds=1)
    run_loop(loop, quiet=True)
    pairs = list(read_groups(tmp_path / "loop/round-1/pairs.jsonl"))
    assert [len(pair.prompts[0].images) for pair in pairs] == [1, 2, 0]
    assert (tmp_path / "loop/round-1/model/model.safetensors").is_file()


def test_a_reward_that_fails_stops_the_loop_and_it_goes_on_there(tiny, rows, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    method = {
        "name": "self_rewarding",
        "reward": "test_families:Failing",
        "sampling": {"n": 3, "max_new_tokens": 4, "batch_size": 2},
    }
    loop = loop_of(tiny["llava_next"], rows, tmp_path / "loop", method=method)
    with pytest.raises(ServiceError, match=r"got no reward: the judge is away.*method.failed_rewards: drop"):
        run_loop(loop, quiet=True)
    samples = (tmp_path / "loop/round-1/samples.jsonl").read_bytes()

    def scored(loop):
        run_loop(loop, quiet=True)
        entries = read_settings(tmp_path / "loop/state.json")["stages"]
        assert entries["round-1/sample"]["starts"] == 1
        rewards = [[r.reward for r in g.responses] for g in read_groups(tmp_path / "loop/round-1/scored.jsonl")]
        return entries["round-1/score"]["starts"], sorted(map(str, rewards))

    dropping = loop_of(tiny["llava_next"], rows, tmp_path / "loop", method=method | {"failed_rewards": "drop"})
    assert scored(dropping) == (2, ["[0.0, 1.0, 2.0]"] * 3 + ["[0.0, None, 2.0]"])  # the same rewards so far
    (tmp_path / "mended").touch()
    assert scored(loop) == (1, ["[0.0, 1.0, 2.0]"] * 4)  # once it has ended, the other wish is another result
    assert (tmp_path / "loop/round-1/samples.jsonl").read_bytes() == samples


def test_no_pair_is_an_error_that_says_what_to_change(tiny, rows, tmp_path):
    method = {
        "name": "self_rewarding",
        "reward": "test_families:Letters",
        "min_gap": 50.0,
        "sampling": {"n": 2, "max_new_tokens": 2},
    }
    with pytest.raises(DataError, match=r"no pair among 4 prompts.*Lower method.min_gap"):
        run_loop(loop_of(tiny["llava"], rows, tmp_path / "loop", method=method), quiet=True)


def test_a_term_that_asks_the_model_itself_asks_that_of_the_round():
    round = Round(
        number=3,
        folder=Path("loop/round-3"),
        spec=ModelSpec(path="loop/round-2/model"),
        prompts=Path("loop/prompts.jsonl"),
        seed=3,
    )
    terms = {"judge": JudgeSpec(judge="self"), "iris": IrisSpec(reference="base"), "fixed": JudgeSpec(judge="local:m")}
    bound = of_round(terms, round)
    assert bound["judge"].judge == "local:loop/round-2/model"
    assert (bound["iris"].path, bound["iris"].reference) == ("loop/round-2/model", "base")
    assert bound["fixed"] == terms["fixed"] and of_round("scenes", round) == "scenes"


def test_a_loop_judges_its_own_answers(tiny, rows, tmp_path):
    """IRIS by the policy of each round: where it is the reference all scores are 0."""
    base = str(tiny["llava"])
    reward = {"iris": {"reference": base}, "letters": {"kind": "function", "path": "test_families:letters"}}
    method = {"name": "self_rewarding", "reward": reward, "sampling": {"n": 3, "max_new_tokens": 4, "batch_size": 4}}
    run_loop(loop_of(base, rows, tmp_path / "loop", method=method, rounds=2), quiet=True)
    for number, moved in ((1, False), (2, True)):
        scored = read_groups(tmp_path / f"loop/round-{number}/scored.jsonl")
        assert any(abs(r.rewards["iris"]) > 1e-4 for group in scored for r in group.responses) == moved
    state = json.loads((tmp_path / "loop/state.json").read_text())["stages"]
    assert "round-1/model" in state["round-2/score"]["reads"] and base in state["round-2/score"]["reads"]


def letters(prompts, completions, **facts):
    return [sum(map(str.isalpha, str(one))) / 10 for one in completions]

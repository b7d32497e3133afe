"""A trained reward model as a reward: from training to scores of files and of a policy's samples."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import train_runs

from sightline.cli.samples import score
from sightline.data.schema import read_groups, write_groups
from sightline.errors import CheckpointError, DataError, RecipeError
from sightline.models.load import load_policy
from sightline.recipes.load import check_algorithm
from sightline.recipes.schema import DatasetSpec, ModelSpec, PartsSpec, ReadsSpec
from sightline.rewards.base import load_reward, reward_groups
from sightline.rewards.model import RewardModelScorer, load_reward_model
from sightline.train.loop import train
from sightline.train.metrics import read_metrics
from sightline.types import Group, Response

READS = ReadsSpec(facts=("captions",), criteria="Judge your last answer.{facts}", lead_in="The score is")
PAIRS = {"responses": 2, "algorithm": {"name": "reward_model"}, "reference": "none", "epochs": 1}


def reward_recipe(path: Path, folder: Path, **options):
    """One epoch of Bradley-Terry on pairs, LoRA."""
    return train_runs.recipe(path, folder, **(PAIRS | {"model": train_runs.lora(path)} | options))


def with_facts(rows: Path, folder: Path) -> Path:
    """The rows, each picture with a caption."""
    groups = [
        replace(g, prompts=tuple(replace(p, facts={"captions": [f"caption of {p.id}"]}) for p in g.prompts))
        for g in read_groups(rows)
    ]
    path = folder / "facts.jsonl"
    write_groups(path, groups)
    return path


@pytest.fixture(scope="module")
def trained(tiny: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run directory of a reward model with facts and criteria."""
    folder = tmp_path_factory.mktemp("reward_model")
    rows = with_facts(train_runs.data(folder / "data", 7, 2), folder)
    base = reward_recipe(tiny["llava"], folder)
    source = replace(base.data.train[0], path=str(rows))
    return train(replace(base, data=DatasetSpec(train=(source,), reads=READS)), quiet=True).run_dir


@pytest.fixture(scope="module")
def groups(trained: Path) -> list[Group]:
    return list(read_groups(trained.parent / "facts.jsonl"))


def scores(groups: list[Group]) -> list[float]:
    return [response.reward for group in groups for response in group.responses]


def test_training_learns_the_pairs_and_holds_out(tiny: dict[str, Path], tmp_path: Path) -> None:
    recipe = reward_recipe(tiny["llava"], tmp_path, model=ModelSpec(path=str(tiny["llava"])), epochs=6, warmup=0)
    recipe = replace(recipe, data=replace(recipe.data, eval=recipe.data.train))
    records = read_metrics(train(recipe, quiet=True).run_dir / "metrics.jsonl")
    assert records[0]["loss"] == pytest.approx(0.69, abs=0.15)
    assert records[-1]["eval/accuracy"] == 1.0 and records[-1]["eval/loss"] < 0.3
    assert records[-1]["eval/margin"] == pytest.approx(
        records[-1]["eval/rewards/chosen"] - records[-1]["eval/rewards/rejected"], abs=1e-5
    )


def test_a_resumed_run_is_the_unbroken_run(tiny: dict[str, Path], tmp_path: Path) -> None:
    whole = reward_recipe(tiny["llava"], tmp_path / "whole", schedule="constant", warmup=0, save_every=2)
    half = replace(whole, output_dir=str(tmp_path / "half"), train=replace(whole.train, max_steps=2))
    train(whole, quiet=True), train(half, quiet=True)
    result = train(replace(half, train=whole.train), resume=True, quiet=True)
    assert result.resumed_from == 2 and result.steps == 3
    assert train_runs.losses(result.run_dir) == train_runs.losses(Path(whole.output_dir))
    heads = [Path(run) / "model" / "score_head.safetensors" for run in (whole.output_dir, half.output_dir)]
    assert heads[0].read_bytes() == heads[1].read_bytes()


def test_given_rewards_are_asked_for_where_they_are_read(tiny: dict[str, Path], tmp_path: Path) -> None:
    """And a run that reads facts is the same run when it is started again."""
    algorithm = {"name": "reward_model", "margin": 0.5}
    recipe = reward_recipe(tiny["llava"], tmp_path, algorithm=algorithm, max_steps=1)
    rows = Path(recipe.data.train[0].path)
    reads = ReadsSpec(images="drop", criteria="default", facts=("captions",), missing_facts="leave_out")
    recipe = replace(recipe, data=replace(recipe.data, reads=reads))
    assert train(recipe, quiet=True).steps == 1
    assert train(recipe, quiet=True, resume=None).last == {}
    bare = [replace(g, responses=tuple(replace(r, reward=None) for r in g.responses)) for g in read_groups(rows)]
    write_groups(rows, bare)
    with pytest.raises(DataError, match="the algorithm needs rewards"):
        train(replace(recipe, output_dir=str(tmp_path / "bare")), quiet=True)


def test_micro_batches_change_nothing(tiny: dict[str, Path], tmp_path: Path) -> None:
    algorithm = {"name": "reward_model", "objective": "plackett_luce", "center_rewards_coefficient": 0.1}
    one = reward_recipe(tiny["llava"], tmp_path / "one", algorithm=algorithm, batch_size=7, warmup=0)
    many = replace(one, output_dir=str(tmp_path / "many"), train=replace(one.train, micro_batch_tokens=1))
    records = [read_metrics(train(recipe, quiet=True).run_dir / "metrics.jsonl")[0] for recipe in (one, many)]
    for name in ("loss", "loss/centering", "grad_norm", "accuracy", "margin"):
        assert records[0][name] == pytest.approx(records[1][name], rel=1e-5), name


def test_scoring_reads_what_training_read(trained: Path, groups: list[Group]) -> None:
    """Against the trained policy on the groups as training saw them."""
    from sightline.data.augment import Reader
    from sightline.data.render import Renderer
    from sightline.models.layout import lay_out

    settings = json.loads((trained / "model" / "score_head.json").read_text())
    assert settings["reads"] == {**vars(READS), "facts": ["captions"]}
    base = json.loads((trained / "model" / "adapter_config.json").read_text())["base_model_name_or_path"]
    policy = load_policy(
        ModelSpec(path=base, adapter=str(trained / "model")), heads=frozenset({"reward"}), trainable=False
    )
    renderer = Renderer(policy.processor, policy.family)
    read = [renderer.render(Reader(READS)(group)) for group in groups]
    with torch.no_grad():
        expected = policy.eval()(lay_out(read, "rows", policy.family, policy.config), frozenset({"reward"})).reward
    scored = reward_groups(load_reward(str(trained)), groups)
    assert scores(scored) == pytest.approx(expected.tolist(), abs=1e-5)
    assert [r.rewards for g in scored for r in g.responses] == [{"model": score} for score in scores(scored)]
    # the model folder does as well as the run; batches and order change no score; facts do
    again = load_reward_model(trained / "model", batch_tokens=1)
    assert scores(again.rewards(groups[::-1])[::-1]) == pytest.approx(scores(scored), abs=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # as while a policy trains in mixed precision
        assert scores(again.rewards(groups)) == pytest.approx(scores(scored), abs=1e-5)
    other = [replace(g, prompts=tuple(replace(p, facts={"captions": "a moon"}) for p in g.prompts)) for g in groups]
    assert max(abs(a - b) for a, b in zip(scores(again.rewards(other)), scores(scored), strict=True)) > 1e-4


def test_answers_that_cannot_be_judged_keep_none(trained: Path, groups: list[Group]) -> None:
    answers = (
        Response(text="a moon"),
        Response(text="", finish_reason="error"),
        Response(text="an <image> of it"),
        Response(text="", tokens=(2,)),
    )
    scorer = load_reward_model(trained)
    one = replace(groups[0], responses=answers, edges=())
    (scored,) = scorer.rewards([one])
    assert [response.reward is None for response in scored.responses] == [False, True, True, False]
    (alone,) = scorer.rewards([replace(one, responses=answers[:1])])
    assert alone.responses[0].reward == pytest.approx(scored.responses[0].reward, abs=1e-5)
    nothing = replace(one, responses=answers[1:2])
    assert scorer.rewards([nothing])[0].responses[0].reward is None


def test_facts_are_asked_for_unless_told_otherwise(trained: Path, groups: list[Group]) -> None:
    bare = replace(groups[0], prompts=tuple(replace(prompt, facts={}) for prompt in groups[0].prompts))
    with pytest.raises(DataError, match="has no fact 'captions'"):
        load_reward(str(trained)).reward(bare)
    allowed = load_reward_model(trained, missing_facts="leave_out")
    assert all(response.reward is not None for response in allowed.reward(bare).responses)


def test_a_policy_may_not_read_facts(tiny: dict[str, Path], tmp_path: Path) -> None:
    from sightline.algorithms.registry import build_algorithm

    recipe = train_runs.recipe(tiny["llava"], tmp_path, responses=2)
    recipe = replace(recipe, data=replace(recipe.data, reads=READS))
    with pytest.raises(RecipeError, match="must read neither facts nor criteria"):
        check_algorithm(recipe, build_algorithm(recipe.algorithm))


def test_folders_without_a_reward_model_are_refused(tiny: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no reward model"):
        load_reward(str(tmp_path))
    with pytest.raises(RecipeError, match="which is no folder"):
        load_reward("runs/no_such_run")
    with pytest.raises(CheckpointError, match="no score head"):
        RewardModelScorer(load_policy(ModelSpec(path=str(tiny["llava"]))))


def test_stages_go_on_from_each_other(tiny: dict[str, Path], tmp_path: Path) -> None:
    """Text, then captions, then pictures: each starts with the adapter and the head of the one before."""
    rows = with_facts(train_runs.data(tmp_path / "data", 6, 2), tmp_path)
    spec, heads = train_runs.lora(tiny["llava"]), []
    for images in ("drop", "caption", "keep"):
        base = reward_recipe(tiny["llava"], tmp_path / images, model=spec, max_steps=1, warmup=0, learning_rate=1e-3)
        source = replace(base.data.train[0], path=str(rows))
        recipe = replace(base, data=DatasetSpec(train=(source,), reads=ReadsSpec(images=images)))
        result = train(recipe, quiet=True)
        spec = ModelSpec(path=str(tiny["llava"]), adapter=str(result.model_dir), parts=spec.parts, lora=spec.lora)
        heads.append(load_policy(spec, heads=frozenset({"reward"})).score_head.weight)
    # one step of Adam at 1e-3 moves each weight by 1e-3 at most: no stage started anew
    for before, after in itertools.pairwise(heads):
        assert 0 < (after - before).abs().max() < 1.1e-3
    (group, *_) = list(read_groups(rows))
    scorer = load_reward(str(tmp_path / "drop" / "run"))
    others = replace(group, prompts=tuple(replace(p, images=("/no/such/picture.png",)) for p in group.prompts))
    assert scores([scorer.reward(others)]) == scores([scorer.reward(group)])


def test_online_dpo_takes_its_reward_from_a_run(tiny: dict[str, Path], tmp_path: Path) -> None:
    rewarder = train(
        reward_recipe(tiny["llava"], tmp_path / "rm", model=ModelSpec(path=str(tiny["llava"]), parts=PartsSpec())),
        quiet=True,
    )
    recipe = train_runs.online(tiny["llava"], tmp_path, str(rewarder.run_dir), max_steps=2)
    result = train(recipe, quiet=True)
    assert result.steps == 2
    sampled = list(read_groups(result.run_dir / "samples.jsonl"))
    again = load_reward(str(rewarder.run_dir))
    bare = [replace(g, responses=tuple(replace(r, reward=None, rewards={}) for r in g.responses)) for g in sampled]
    assert scores(sampled) == pytest.approx(scores(reward_groups(again, bare)), abs=1e-5)
    assert len({round(score, 6) for score in scores(sampled)}) > len(sampled)


def test_the_score_command_goes_on_where_it_was(
    trained: Path, groups: list[Group], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scored.jsonl"
    rows = tmp_path / "rows.jsonl"
    write_groups(rows, groups)
    score(rows, out, str(trained))
    whole = out.read_bytes()
    expected = reward_groups(load_reward(str(trained)), groups)
    assert scores(list(read_groups(out))) == pytest.approx(scores(expected), abs=1e-5)
    right = sum(g.responses[0].reward > g.responses[1].reward for g in expected) / len(groups)
    assert f"{right:.3f} of 7 pairs in the right order" in " ".join(capsys.readouterr().err.split())
    out.write_bytes(b"".join(whole.splitlines(keepends=True)[:3]) + whole.splitlines()[3][:40])
    score(rows, out, str(trained))
    assert scores(list(read_groups(out))) == pytest.approx(scores(expected), abs=1e-5)
    with pytest.raises(CheckpointError, match="missing_facts: None there, leave_out here"):
        score(rows, out, str(trained), missing_facts="leave_out")
    with pytest.raises(RecipeError, match="--missing-facts is for reward models"):
        score(rows, out, "scenes", missing_facts="error")


def test_a_file_that_cannot_be_scored_names_its_row(trained: Path, groups: list[Group], tmp_path: Path) -> None:
    rows, out = tmp_path / "rows.jsonl", tmp_path / "scored.jsonl"
    gone = replace(groups[1].prompts[0], images=(str(tmp_path / "gone.png"),))
    write_groups(rows, [groups[0], replace(groups[1], prompts=(gone,))])
    with pytest.raises(DataError, match=r"rows.jsonl: row-1: picture .*gone.png cannot be read"):
        score(rows, out, reward=str(trained))
    rows.write_text("")
    with pytest.raises(DataError, match=r"rows.jsonl: there are no groups"):
        score(rows, tmp_path / "none.jsonl", reward=str(trained))
    assert not (tmp_path / "none.jsonl").exists()

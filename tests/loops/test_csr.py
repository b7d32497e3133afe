"""A round of CSR on a tiny model of the built-in world: its files, its pairs, its training, and after a kill."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from recipe_files import FOLDER
from sightline.data.schema import read_groups, write_groups
from sightline.data.trees import read_trees
from sightline.errors import DataError, NothingToLearn, RecipeError
from sightline.loops.csr import FIGURES, SCORED, TREES, Csr
from sightline.loops.stages import Round
from sightline.models.assemble import TinyLlava
from sightline.models.layout import lay_out
from sightline.models.load import load_policy
from sightline.recipes.csr import CsrSpec
from sightline.recipes.load_loop import load_loop
from sightline.recipes.loop import training_recipe
from sightline.recipes.schema import DatasetSpec, DataSpec, LoraSpec, ModelSpec, PartsSpec, Recipe, TrainSpec
from sightline.rollouts import sentence_search
from sightline.rollouts.hf import HFEngine
from sightline.scenes.world import Scenes
from sightline.train.export import export, open_trained
from sightline.train.loop import train

SPEC = CsrSpec(
    relevance={"scenes": {"weight": 2.0}},
    search={"max_new_tokens": 5, "max_sentences": 2, "candidates": 3, "batch_size": 2, "junk": "keep"},
)  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with a tiny model and five prompts."""
    root, made = tmp_path_factory.mktemp("world"), Scenes(seed=0)
    TinyLlava(hidden=16, layers=1).build(root / "base", made.vocabulary(), seed=0)
    write_groups(root / "prompts.jsonl", made.prompts("train", 5, root / "images", kind="caption"))
    return root


def round_in(folder, world):
    spec = ModelSpec(
        path=str(world / "base"),
        parts=PartsSpec(language="lora", projector="frozen", vision="frozen"),
        lora=LoraSpec(rank=4),
    )
    return Round(number=1, folder=folder, spec=spec, prompts=world / "prompts.jsonl", seed=3)


def done(spec, round):
    stages = Csr(spec=spec).stages(round)
    for stage in stages:
        stage.run()
    return stages


@pytest.fixture(scope="module")
def finished(world, tmp_path_factory):
    """A round whose stages are done."""
    made = round_in(tmp_path_factory.mktemp("round"), world)
    done(SPEC, made)
    return made


def test_a_round_leaves_trees_relevances_and_pairs_that_can_be_read(world, finished):
    Csr(spec=SPEC).check(list(read_groups(world / "prompts.jsonl")))
    stages = Csr(spec=SPEC).stages(finished)
    assert [(stage.name, stage.out.name) for stage in stages] == [
        ("sample", TREES), ("score", SCORED), ("pairs", "pairs.jsonl")
    ]  # fmt: skip
    assert stages[-1].out == finished.pairs and stages[1].reads == [finished.folder / TREES]
    assert json.loads(json.dumps([stage.settings for stage in stages])) == [stage.settings for stage in stages]
    trees, scored = (list(read_trees(finished.folder / name)) for name in (TREES, SCORED))
    assert [tree.id for tree in trees] == [tree.id for tree in scored] and len(trees) == 5
    assert all(node.clip is None for tree in trees for node in tree.nodes)
    for tree in scored:
        told = [node for node in tree.nodes if node.counts]
        judged = replace(tree.group, responses=tuple(answer(node.text) for node in told))
        rewards = [response.reward for response in Scenes().reward(judged).responses]
        assert [node.clip for node in told] == [2 * reward for reward in rewards]
    pairs = list(read_groups(finished.pairs))
    figures = json.loads((finished.folder / FIGURES).read_text())
    assert figures["pairs"] == len(pairs) >= 3 and len(pairs) + sum(figures["dropped"].values()) == 5
    assert all(len(pair.edges) == 1 and pair.responses[0].reward > pair.responses[1].reward for pair in pairs)


def answer(text):
    from sightline.relations.junk import plain
    from sightline.types import Response

    return Response(text=plain(text))


def test_a_killed_stage_goes_on_item_by_item_and_leaves_the_same_files(world, finished, tmp_path, monkeypatch):
    broken = round_in(tmp_path, world)
    expected = {name: (finished.folder / name).read_bytes() for name in (TREES, SCORED, "pairs.jsonl", FIGURES)}
    for name in (TREES, SCORED):
        lines = expected[name].replace(str(finished.folder).encode(), str(tmp_path).encode()).splitlines(keepends=True)
        (tmp_path / name).write_bytes(b"".join(lines[:3]) + lines[3][:50])
    grown = []
    grow = sentence_search.SentenceSearch.grow
    monkeypatch.setattr(
        sentence_search.SentenceSearch, "grow", lambda self, groups: grown.append(len(groups)) or grow(self, groups)
    )
    done(SPEC, broken)
    assert grown == [2, 1]  # the batch that the kill cut, so that it is computed together as before, and the last
    assert {name: (tmp_path / name).read_bytes() for name in expected} == expected
    done(SPEC, broken)
    assert grown == [2, 1]


def test_pruning_by_the_calibrated_score_asks_for_relevance_in_the_search(world, finished, tmp_path):
    spec = replace(SPEC, search=replace(SPEC.search, prune_by="calibrated"))
    round = round_in(tmp_path, world)
    stages = done(spec, round)
    assert "relevance" in stages[0].settings and "relevance" not in Csr(spec=SPEC).stages(finished)[0].settings
    trees = list(read_trees(tmp_path / TREES))
    first = [node for tree in trees for node in tree.nodes if node.parent == 0 and node.counts and node.final is None]
    assert first and all(node.clip is not None for node in first)
    assert not any(tree.unasked() for tree in read_trees(tmp_path / SCORED))


def test_a_round_without_a_pair_says_why(world, tmp_path):
    spec = replace(SPEC, pairs=replace(SPEC.pairs, min_gap=1e6))
    with pytest.raises(NothingToLearn, match=r"no pair among 5 prompts \(.*scores too near [1-5]"):
        done(spec, round_in(tmp_path, world))
    assert json.loads((tmp_path / FIGURES).read_text())["pairs"] == 0
    prompts = [replace(group, prompts=(replace(group.prompts[0], facts={}),)) for group in read_groups(
        world / "prompts.jsonl"
    )]  # fmt: skip
    with pytest.raises(DataError, match="has no scene"):
        Csr(spec=SPEC).check(prompts)


def trained(round: Round, out: Path) -> list[dict[str, float]]:
    """Trains the round's pairs with DPO, reference the model itself."""
    recipe = Recipe(
        name="csr",
        output_dir=str(out),
        model=round.spec,
        algorithm={"name": "dpo"},
        reference="adapter",
        data=DatasetSpec(train=(DataSpec(path=str(round.pairs), format="groups"),)),
        train=TrainSpec(max_steps=2, batch_size=2, learning_rate=1e-2, warmup=0),
    )
    train(Csr(spec=SPEC).training(round, recipe), quiet=True)
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_an_algorithm_of_single_answers_is_refused(finished):
    plain = training_recipe(load_loop(FOLDER / "papers/csr.yaml"), 1, finished.spec, "folder")
    assert Csr(spec=SPEC).training(finished, plain) == plain
    with pytest.raises(RecipeError, match="name is sft, which learns from single answers"):
        Csr(spec=SPEC).training(finished, replace(plain, algorithm={"name": "sft"}))


def test_training_begins_at_log_two_and_the_merged_model_is_the_next_sampler(finished, tmp_path):
    rows = trained(finished, tmp_path / "run")
    assert rows[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert rows[0]["rewards/margins"] == pytest.approx(0, abs=1e-6)
    assert rows[1]["loss"] != pytest.approx(math.log(2), abs=1e-6)
    export(open_trained(tmp_path / "run"), tmp_path / "merged", merged=True)
    on = load_policy(ModelSpec(path=finished.spec.path, adapter=str(tmp_path / "run/model")), trainable=False)
    next_round = load_policy(replace(finished.spec, path=str(tmp_path / "merged")))
    start = load_policy(replace(finished.spec, parts=None, lora=None), trainable=False)
    renderer = HFEngine(on).renderer
    batch = lay_out([renderer.render(pair) for pair in read_groups(finished.pairs)], "tree", on.family, on.config)
    with torch.no_grad():
        trained_to, before = on.eval()(batch).logprobs, start.eval()(batch).logprobs
        reference = next_round(batch, reference=True).logprobs  # adapter off
    torch.testing.assert_close(reference, trained_to, atol=1e-4, rtol=0)
    assert (trained_to - before).abs().max() > 1e-2  # there was something to merge

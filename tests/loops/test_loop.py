"""A loop samples, trains and is judged as its recipe says; what is done is done again only where inputs changed."""

import fcntl
import json
import logging
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors.torch import load_file
from small_loops import RECIPE, held, loop_of, world_of

from sightline.data.picture import read_picture
from sightline.data.schema import read_groups, write_groups
from sightline.data.trees import read_trees
from sightline.errors import CheckpointError, DataError, RecipeError
from sightline.evaluation.logprobs import LogprobScorer
from sightline.files import read_settings
from sightline.loops.exam import standing
from sightline.loops.run import run_loop
from sightline.recipes.load import load_recipe
from sightline.recipes.loop import StopSpec
from sightline.recipes.schema import ModelSpec, SamplingSpec
from sightline.rollouts.hf import load_engine
from sightline.train.loop import train


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A world, and a loop of two rounds in it that is finished."""
    world = world_of(tmp_path_factory.mktemp("world"))
    return world, run_loop(loop_of(world, world / "loop"), quiet=True)


@pytest.fixture
def again(done, tmp_path):
    """The finished loop in a folder of its own, and how it is run again; gives which stages were done."""
    world = done[0]
    shutil.copytree(world / "loop", tmp_path / "loop")

    def run(*overrides):
        state = read_settings(tmp_path / "loop/state.json")["stages"]
        result = run_loop(loop_of(world, tmp_path / "loop", *overrides), quiet=True)
        now = read_settings(tmp_path / "loop/state.json")["stages"]
        return [name for name in now if now[name] != state.get(name)], result

    return tmp_path / "loop", run


def weights(folder):
    return load_file(folder / "model.safetensors")


def test_each_round_starts_from_the_model_of_the_round_before(done):
    world, result = done
    loop = world / "loop"
    assert result.stages == 15 and result.ended == "all rounds are done"
    recipes = [load_recipe(loop / f"round-{number}/train/recipe.yaml") for number in (1, 2)]
    assert [recipe.model.path for recipe in recipes] == [str(world / "base"), str(loop / "round-1/model")]
    assert [recipe.reference for recipe in recipes] == ["copy", "copy"]
    for number in (1, 2):  # the reference is the model that is trained: before the first update no pair has a margin
        first = json.loads((loop / f"round-{number}/train/metrics.jsonl").read_text().splitlines()[0])
        assert first["loss"] == pytest.approx(math.log(2)) and first["rewards/margins"] == 0
        trained, merged = weights(loop / f"round-{number}/train/model"), weights(loop / f"round-{number}/model")
        assert all(trained[name].equal(merged[name]) for name in {**trained, **merged})
    one, two = weights(loop / "round-1/model"), weights(loop / "round-2/model")
    assert any(not one[name].equal(two[name]) for name in one)


def test_answers_are_those_of_the_model_of_the_round_and_their_scores_make_the_pairs(done):
    loop = done[0] / "loop"
    asked = list(read_groups(loop / "prompts.jsonl"))
    sampling = SamplingSpec(n=3, max_new_tokens=8, batch_size=1)
    model = load_engine(ModelSpec(path=str(loop / "round-1/model")))
    said = [[r.tokens for r in group.responses] for group in model.generate(asked, sampling, seed=2)]
    samples = list(read_groups(loop / "round-2/samples.jsonl"))
    assert [[r.tokens for r in group.responses] for group in samples] == said
    scored = {group.id: [r.reward for r in group.responses] for group in read_groups(loop / "round-2/scored.jsonl")}
    pairs = list(read_groups(loop / "round-2/pairs.jsonl"))
    assert pairs
    for pair in pairs:
        ((edge,), rewards) = pair.edges, scored[pair.id]
        assert pair.responses[edge.winner].reward == max(rewards) > min(rewards) == pair.responses[edge.loser].reward


def test_a_finished_loop_does_nothing(again):
    folder, run = again
    run()  # which notes where it lies now
    before = held(folder)
    did, result = run()
    assert (did, result.stages) == ([], 0) and held(folder) == before


def test_a_changed_setting_repeats_its_stage_and_what_follows(again, caplog):
    caplog.set_level(logging.INFO, logger="sightline")
    folder, run = again
    did, _ = run("train.learning_rate=0.02")
    first = ["round-1/train", "round-1/merge", "round-1/kl", "round-1/exam"]
    second = ["sample", "score", "pairs", "train", "merge", "kl", "exam"]
    assert did == [*first, *(f"round-2/{name}" for name in second)]
    assert "round-1/train is done again: train.learning_rate: 0.01 there, 0.02 here" in caplog.text
    assert "round-2/sample is done again: round-1/model is not what it was" in caplog.text
    last = json.loads((folder / "round-1/train/metrics.jsonl").read_text().splitlines()[-1])
    assert read_settings(folder / "round-1/figures.json")["train"]["loss"] == last["loss"]


def test_what_changes_no_number_repeats_nothing(again):
    _, run = again
    assert run("train.save_every=2", "method.sampling.batch_size=3", "name=other", "train.workers=0")[0] == []


def test_pairs_edited_by_hand_are_trained_on(again, caplog):
    caplog.set_level(logging.INFO, logger="sightline")
    folder, run = again
    kept = list(read_groups(folder / "round-2/pairs.jsonl"))[1:]
    write_groups(folder / "round-2/pairs.jsonl", kept)
    did, _ = run()
    assert did == [f"round-2/{name}" for name in ("train", "merge", "kl", "exam")]
    assert "pairs.jsonl is not as it was made; it is taken as it is" in caplog.text
    assert list(read_groups(folder / "round-2/pairs.jsonl")) == kept


def test_a_removed_file_is_made_again_and_nothing_follows_where_it_is_the_same(again):
    folder, run = again
    before = (folder / "round-1/scored.jsonl").read_bytes()
    (folder / "round-1/scored.jsonl").unlink()
    assert run()[0] == ["round-1/score"]
    assert (folder / "round-1/scored.jsonl").read_bytes() == before


@pytest.mark.parametrize("asked", [None, 5])
def test_another_picture_under_the_same_name_is_another_prompt(asked, tmp_path):
    world = world_of(tmp_path)
    overrides = ("rounds=1", "exam=null", f"prompts_per_round={json.dumps(asked)}")
    run_loop(loop_of(world, world / "loop", *overrides), quiet=True)
    (group, *_) = read_groups(world / "prompts.jsonl")
    Image.new("RGB", (96, 96), (255, 0, 0)).save(group.prompts[0].images[0])
    result = run_loop(loop_of(world, world / "loop", *overrides), quiet=True)
    assert result.stages == 5


def test_a_folder_that_moved_goes_on(done, tmp_path):
    shutil.copytree(done[0], tmp_path / "elsewhere")
    assert run_loop(loop_of(done[0], tmp_path / "elsewhere/loop"), quiet=True).stages == 0


def test_a_training_that_was_stopped_goes_on_where_the_loop_has_moved_to(again):
    """Its recipe names the places of before, which are the same files."""
    folder, run = again
    before, state = held(folder), read_settings(folder / "state.json")
    state["stages"]["round-2/train"]["status"] = "running"
    (folder / "state.json").write_text(json.dumps(state))
    shutil.rmtree(folder / "round-2/train/model")
    assert run()[0] == ["round-2/train"]
    recipe = load_recipe(folder / "round-2/train/recipe.yaml")
    assert recipe.model.path == str(folder / "round-1/model")
    name = "round-2/train/model/model.safetensors"
    assert held(folder)[name] == before[name]


def test_a_loop_that_keeps_its_pictures_itself_moves_with_them(done, tmp_path):
    """Rows that embed their pictures: every file of a round names them by where it lies itself."""
    groups = list(read_groups(done[0] / "prompts.jsonl"))[:3]
    shown = [{"bytes": Path(group.prompts[0].images[0]).read_bytes(), "path": None} for group in groups]
    rows = [{"prompt": "Describe the picture.", "image": image} for image in shown]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    method = json.dumps({**RECIPE["method"], "reward": "test_families:Letters"})
    asked = (f"prompts={{path: {tmp_path / 'rows.parquet'}}}", f"method={method}", "prompts_per_round=3", "exam=null")
    first = loop_of(done[0], tmp_path / "here/loop", *asked, "rounds=1", "train.max_steps=1")
    assert run_loop(first, quiet=True).stages == 5
    shutil.move(tmp_path / "here", tmp_path / "there")
    moved = loop_of(done[0], tmp_path / "there/loop", *asked, "rounds=1", "train.max_steps=1")
    assert run_loop(moved, quiet=True).stages == 0
    for file in (tmp_path / "there/loop/round-1").glob("*.jsonl"):
        assert [read_picture(path) for group in read_groups(file) for path in group.prompts[0].images]


def test_more_rounds_are_added_and_old_models_make_room(again, caplog):
    caplog.set_level(logging.INFO, logger="sightline")
    folder, run = again
    did, result = run("rounds=3", "merge.keep=1")
    assert did == [f"round-3/{name}" for name in ("sample", "score", "pairs", "train", "merge", "kl", "exam")]
    there = {path.parent.name for path in folder.glob("round-*/model")}
    assert there == {"round-3"} | ({f"round-{result.best}"} if result.best else set())
    assert not list(folder.glob("round-*/train/checkpoints"))
    gone = next(name for name in ("round-1", "round-2") if name not in there)
    assert f"{gone}/model" in read_settings(folder / "state.json")["released"]
    assert run("rounds=3", "merge.keep=1")[0] == []
    assert "is not as it was made" not in caplog.text  # what was removed on purpose was not edited
    with pytest.raises(CheckpointError, match=rf"{gone[-1]} is the best .* its model was removed .*merge.keep: 1"):
        run(f"rounds={gone[-1]}", "merge.keep=1", "exam=null")
    with pytest.raises(CheckpointError, match=r"reads .*model, which was removed to save room \(merge.keep: 1\)"):
        run("rounds=3", "merge.keep=1", "exam.kl_tokens=5", "method.sampling.n=3")


def test_other_answers_to_grade_by_repeat_the_exam_alone(done, again, tmp_path):
    _, run = again
    shutil.copytree(done[0] / "exam", tmp_path / "exam")
    elsewhere = f"exam.benches.0.data={tmp_path / 'exam'}"
    assert run(elsewhere)[0] == []
    (tmp_path / "exam/labels.json").write_text("{}")
    assert run(elsewhere)[0] == [f"round-{number}/exam" for number in range(3)]


def test_another_method_leaves_nothing_of_the_first_behind(done, tmp_path):
    """Stages of one name that make other files, and stages that are no more."""
    out, csr = tmp_path / "loop", "{max_new_tokens: 5, max_sentences: 2, candidates: 3, batch_size: 2, junk: keep}"
    run_loop(loop_of(done[0], out, "rounds=1", "exam.kl_prompts=1"), quiet=True)
    changed = ("rounds=1", "exam.kl_prompts=0", f"method={{name: csr, relevance: scenes, search: {csr}}}")
    run_loop(loop_of(done[0], out, *changed), quiet=True)
    run_loop(loop_of(done[0], tmp_path / "other", *changed), quiet=True)
    assert held(out) == held(tmp_path / "other") and not (out / "round-1/kl").exists()
    figures = read_settings(out / "round-1/figures.json")["answers"]
    trees = list(read_trees(out / "round-1/trees.jsonl"))
    assert figures["tokens"] == sum(len(node.tokens) for tree in trees for node in tree.nodes) > 0
    assert figures["answers"] == sum(len(list(tree.answers())) for tree in trees)
    assert f"{figures['tokens']:,} tokens sampled" in (out / "report.html").read_text()


def test_rounds_without_a_gain_end_a_loop_and_the_start_stays_the_best(done, tmp_path):
    world = done[0]
    result = run_loop(loop_of(world, tmp_path / "loop", "rounds=9", "stop={patience: 1, least_gain: 1e6}"), quiet=True)
    assert (result.best, result.model) == (0, world / "base")
    assert result.ended == "no gain of exam.best in 1 round (stop.patience)"
    assert not (tmp_path / "loop/round-2").exists()
    state = read_settings(tmp_path / "loop/state.json")
    assert state["ended"] == result.ended and state["best"]["round"] == 0


@pytest.mark.parametrize(
    ("values", "better", "least", "expected"),
    [
        ([60.0, 50.0, 49.5, 30.0, 40.0], "lower", 1.0, (3, 1)),
        ([60.0, 50.0, 49.5, 49.2], "lower", 1.0, (1, 2)),
        ([1.0, 1.0], "higher", 0.0, (0, 1)),
        ([math.nan, 0.1, math.nan, 0.2], "higher", 0.0, (3, 0)),
        ([0.5], "higher", 0.0, (0, 0)),
        ([0.7, 0.4], "lower", 0.3, (1, 0)),  # 0.7 - 0.4 is below 0.3 in binary
    ],
)
def test_the_best_round_is_the_last_that_gained_enough(values, better, least, expected):
    found = standing(values, better, StopSpec(least_gain=least))
    assert (found.best, found.since) == expected


def test_prompts_of_rounds_take_turns(done, tmp_path):
    out = tmp_path / "loop"
    run_loop(loop_of(done[0], out, "prompts_per_round=2", "exam=null"), quiet=True)
    asked = [[group.id for group in read_groups(out / f"round-{number}/prompts.jsonl")] for number in (1, 2)]
    assert len({*asked[0], *asked[1]}) == 4
    assert [[g.id for g in read_groups(out / f"round-{n}/samples.jsonl")] for n in (1, 2)] == asked


def test_status_and_page(done, run):
    folder = done[0] / "loop"
    code, out, _ = run("loop", folder, "--status")
    assert code == 0 and "ended: all rounds are done" in out and out.count("done") >= 15
    page = (folder / "report.html").read_text()
    figures = read_settings(folder / "round-2/figures.json")
    assert f"{figures['pairs']['chosen_reward']:.3g}".replace("-", "−") in page
    assert f"{figures['kl']['kl']:.3g}".replace("-", "−") in page
    assert page.count("data:image/png") >= 3 and "round 2" in page and "Time by stage" in page
    exams = [read_settings(folder / f"round-{number}/figures.json")["exam"] for number in (0, 1, 2)]
    for metric in exams[0]:
        values = {exam[metric]["value"] for exam in exams if metric in exam} - {None}
        assert (f"<h3>{metric.replace('/', ': ')}</h3>" in page) == (len(values) > 1), "constant charts are left out"


def test_a_page_says_what_the_files_hold(done):
    folder = done[0] / "loop/round-1"
    figures = read_settings(folder / "figures.json")
    pairs = list(read_groups(folder / "pairs.jsonl"))
    chosen = [group.responses[group.edges[0].winner].reward for group in pairs]
    assert figures["pairs"]["chosen_reward"] == pytest.approx(sum(chosen) / len(chosen))
    samples = [response for group in read_groups(folder / "samples.jsonl") for response in group.responses]
    assert figures["answers"]["tokens"] == sum(len(response.tokens) for response in samples)
    assert figures["answers"]["answers"] == len(samples) == 15


def test_kl_is_that_of_the_answers_under_both_models(done):
    """Summed differences of log-probabilities over the tokens of the new model's own answers."""
    folder = done[0] / "loop/round-2"
    found = read_settings(folder / "kl/kl.json")
    answers = [group.responses[0] for group in read_groups(folder / "kl/answers.jsonl")]
    assert found["tokens"] == sum(len(answer.tokens) for answer in answers) and found["answers"] == len(answers) == 2
    start = load_engine(ModelSpec(path=str(done[0] / "base")))
    scores = LogprobScorer(start.policy, start.renderer).scores(list(read_groups(folder / "kl/answers.jsonl")))
    now = sum(sum(answer.rollout_logprobs) for answer in answers)
    before = sum(group.responses[0].rewards["logprob"] for group in scores)
    assert found["kl"] == pytest.approx((now - before) / found["tokens"], abs=1e-4)


def test_errors_come_before_the_first_stage(done, tmp_path):
    world, out = done[0], tmp_path / "loop"

    def refused(kind, told, *overrides):
        with pytest.raises(kind, match=told):
            run_loop(loop_of(world, out, *overrides), quiet=True)
        assert not list(out.glob("round-0/exam/*"))

    refused(RecipeError, "scenes has hal, cover, length", "exam.best=scenes/hall")
    refused(RecipeError, "choosing by it would flatter it", "exam.benches.0.selects=false")
    refused(RecipeError, "neither good nor bad", "exam.better=auto")
    refused(RecipeError, "makes no comparisons", "method.relation=best")
    refused(RecipeError, "would learn the rejected ones too", "algorithm={name: sft}")
    refused(RecipeError, "kto, which learns from labels, and a round gives comparisons", "algorithm={name: kto}")
    refused(RecipeError, "prompts_per_round is 6, and .* has 5", "prompts_per_round=6")
    refused(DataError, "has no fact .answer.", "method.reward={numeric: {}}")
    out.mkdir(exist_ok=True)
    (out / "recipe.yaml").write_text("")
    refused(CheckpointError, "holds a training run")


def test_a_training_leaves_a_loop_alone(again):
    folder, _ = again
    before = held(folder)
    recipe = replace(load_recipe(folder / "round-1/train/recipe.yaml"), output_dir=str(folder))
    for options in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(CheckpointError, match="holds a loop, where a training run was expected"):
            train(recipe, quiet=True, **options)
    assert held(folder) == before


def test_length_is_measured_by_the_limit_of_the_answers(done, tmp_path):
    """n / max_new_tokens, as in an online run: the reward has no limit of its own."""
    out = tmp_path / "loop"
    reward = "method.reward={length: {weight: -1}, scenes: {weight: 1}}"
    run_loop(loop_of(done[0], out, reward, "rounds=1", "exam=null", "train.max_steps=1"), quiet=True)
    answers = [response for group in read_groups(out / "round-1/scored.jsonl") for response in group.responses]
    assert [one.rewards["length"] for one in answers] == [len(one.tokens) / 8 for one in answers]


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("stages", "round-0/exam", "seconds"), "x"),
        (("stages", "round-0/exam", "status"), "finished"),
        (("stages", "round-0/exam"), None),
        (("best",), {"round": 1}),
        (("released",), 5),
        (("more",), 1),
    ],
)
def test_a_state_that_is_damaged_anywhere_is_told(done, tmp_path, run, place, value):
    state = read_settings(done[0] / "loop/state.json")
    at = state
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = value
    (tmp_path / "state.json").write_text(json.dumps(state))
    code, _, err = run("loop", str(tmp_path), "--status")
    assert code == 2 and "state.json is damaged: found " in err and "Remove it" in err
    assert ".".join(place[-1:]) in err.replace("entries", "stages")


def test_one_process_at_a_time(done, tmp_path):
    (tmp_path / "loop").mkdir()
    with (tmp_path / "loop/.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(CheckpointError, match="is in use"):
            run_loop(loop_of(done[0], tmp_path / "loop"), quiet=True)


def test_overwrite_starts_anew_and_leaves_what_is_not_of_the_loop(done, again):
    folder, _ = again
    (folder / "notes.txt").write_text("mine")
    before = (folder / "round-1/samples.jsonl").read_bytes()
    result = run_loop(loop_of(done[0], folder, "rounds=1", "exam=null"), overwrite=True, quiet=True)
    assert result.stages == 5 and (folder / "notes.txt").read_text() == "mine"
    assert not (folder / "round-2").exists() and read_settings(folder / "state.json")["best"] is None
    assert (folder / "round-1/samples.jsonl").read_bytes() == before

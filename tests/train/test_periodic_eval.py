"""Benchmarks during training, and which step is kept as the best."""

import json
import math
from contextlib import nullcontext
from dataclasses import replace

import pytest
from train_runs import recipe

from sightline.errors import DataError, RecipeError
from sightline.evaluation.answers import read_stored
from sightline.evaluation.bench import Answer
from sightline.evaluation.benches import load_bench
from sightline.evaluation.results import read_measured
from sightline.evaluation.stages import GradeSpec, grade_answers
from sightline.models.load import load_policy
from sightline.recipes.evaluation import BenchSpec, EvaluationSpec
from sightline.recipes.schema import DatasetSpec, ModelSpec
from sightline.train.loop import train
from sightline.train.periodic_eval import Benchmarks, Task, build_benchmarks
from sightline.train.run_folder import RunDirectory
from sightline.types import Response


@pytest.fixture
def world(tmp_path):
    """Data of the built-in world: 3 drawings."""
    folder = tmp_path / "world"
    folder.mkdir()
    (folder / "scenes.json").write_text('{"scenes": 3, "questions": 1}')
    return folder


def scenes(world, **changed):
    values = {"bench": "scenes", "data": str(world), "max_new_tokens": 5, "metrics": ("hal", "accuracy", "length")}
    return BenchSpec(**{**values, **changed})


def with_eval(base):
    return replace(base, data=DatasetSpec(train=base.data.train, eval=base.data.train))


def records(run_dir):
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_figures_are_logged_and_training_goes_on_as_if_nothing_had_happened(tiny, tmp_path, world):
    plain = recipe(tiny["llava"], tmp_path / "plain", size=6, epochs=2)
    whole = train(plain, quiet=True)
    told = []
    watched = with_eval(recipe(tiny["llava"], tmp_path / "watched", size=6, epochs=2, eval_every=2))
    watched = replace(watched, evaluation=EvaluationSpec(every=3, benches=(scenes(world),)))
    result = train(watched, quiet=True, on_log=told.append)

    losses = [[row["loss"] for row in records(one.run_dir)] for one in (whole, result)]
    assert losses[0] == losses[1] and len(losses[0]) == 4
    at = {row["step"]: {k: v for k, v in row.items() if k.startswith("bench/")} for row in told}
    assert [step for step, figures in at.items() if figures] == [3, 4]
    assert set(at[3]) == {"bench/scenes/hal", "bench/scenes/accuracy", "bench/scenes/length"}

    folder = result.run_dir / "evaluation" / "step-00000004" / "scenes"
    measured = read_measured(folder)
    assert measured.result.metrics["hal"] == at[4]["bench/scenes/hal"]
    assert measured.facts["step"] == 4 and measured.facts["length"]["answers"] == 6
    assert len(read_stored(folder / "answers.0.jsonl")) == 6

    best = json.loads((result.run_dir / "best" / "best.json").read_text())
    by_step = {row["step"]: row["eval/loss"] for row in told if "eval/loss" in row}
    assert sorted(by_step) == [2, 4]
    assert best == {"step": min(by_step, key=by_step.get), "metric": "eval/loss", "value": min(by_step.values())}
    load_policy(ModelSpec(path=str(result.run_dir / "best")), trainable=False)


class Saving:
    """Stands for the policy: writes the number it is told to hold."""

    weights = 0

    def save(self, folder, state):
        (folder / "weights").write_text(str(self.weights))


class Alone:
    rank, size, is_main = 0, 1, True

    def gather_objects(self, value):
        return [value]

    def barrier(self):
        pass

    def whole(self, policy):
        return nullcontext()

    def model_state(self, policy):
        return None


@pytest.mark.parametrize(
    ("metric", "values", "kept"),
    [
        ("eval/loss", [3.0, 1.0, 2.0, 1.0], [1, 2, 2, 2]),
        ("eval/loss", [math.nan, 3.0, math.nan, 2.0], [None, 2, 2, 4]),
        ("eval/rewards/accuracies", [0.5, 0.4, 0.9], [1, 1, 3]),
        ("bench/scenes/hal", [50.0, 60.0, 20.0], [1, 1, 3]),
        (None, [1.0, 2.0], [None, None]),
    ],
)
def test_the_best_step_is_kept_and_a_run_that_goes_on_remembers_it(tmp_path, metric, values, kept):
    policy, run = Saving(), RunDirectory(path=tmp_path)
    for step, (value, expected) in enumerate(zip(values, kept, strict=True), start=1):
        policy.weights = step
        fresh = Benchmarks(
            spec=EvaluationSpec(), tasks=(), engine=None, policy=policy, ranks=Alone(), run=run, best=metric
        )
        fresh.keep_best({"step": step, metric or "eval/loss": value})
        fresh.keep_best({"step": step, "loss": 0.0})
        there = int((run.best / "weights").read_text()) if run.best.exists() else None
        assert there == expected


def test_a_figure_is_good_in_the_direction_that_its_benchmark_says(tmp_path):
    better = {"bench/scenes/miscoloured": "lower"}
    policy, ranks, run = Saving(), Alone(), RunDirectory(path=tmp_path)
    values = {"spec": EvaluationSpec(), "tasks": (), "engine": None, "policy": policy, "ranks": ranks, "run": run}
    one = Benchmarks(**values, best="bench/scenes/miscoloured", better=better)
    for step, value in enumerate((5.0, 3.0, 4.0), start=1):
        one.keep_best({"step": step, "bench/scenes/miscoloured": value})
    assert json.loads((run.best / "best.json").read_text())["step"] == 2


def test_a_metric_that_is_never_measured_is_said_at_the_first_evaluation(tmp_path):
    policy, ranks, run = Saving(), Alone(), RunDirectory(path=tmp_path)
    values = {"spec": EvaluationSpec(), "tasks": (), "engine": None, "policy": policy, "ranks": ranks, "run": run}
    one = Benchmarks(**values, best="eval/los")
    one.keep_best({"step": 1, "loss": 0.5})
    with pytest.raises(RecipeError, match=r"evaluation.best is eval/los, and data.eval is scored by eval/loss. Name"):
        one.keep_best({"step": 2, "loss": 0.5, "eval/loss": 0.4})


class Engine:
    """Answers with the text of the question."""

    def __init__(self):
        self.asked = []

    def generate(self, groups, sampling, *, seed, on_progress=None):
        self.asked += [group.id for group in groups]
        return [replace(group, responses=(Response(text=f"about {group.id}", tokens=(1,)),)) for group in groups]


def test_ranks_answer_a_share_each_and_all_get_the_figures_of_the_whole(tmp_path, world):
    told: dict[int, list] = {}

    class Rank(Alone):
        size = 2

        def __init__(self, rank):
            self.rank, self.is_main = rank, rank == 0

        def gather_objects(self, value):
            told[self.rank] = value
            return [told.get(rank, []) for rank in (0, 1)]

    spec = scenes(world, metrics=())
    bench = load_bench("scenes")
    task = Task(spec=spec, bench=bench, questions=bench.questions(world))
    engines = {rank: Engine() for rank in (1, 0)}
    figures = {}
    for rank, engine in engines.items():
        one = Benchmarks(
            spec=EvaluationSpec(),
            tasks=[task],
            engine=engine,
            policy=Saving(),
            ranks=Rank(rank),
            run=RunDirectory(path=tmp_path),
            best=None,
        )
        if rank == 1:  # the other rank's share is not there yet
            with pytest.raises(KeyError):
                one.measure(1)
            continue
        figures = one.measure(1)
    assert len(engines[0].asked) == len(engines[1].asked) == 3
    assert {*engines[0].asked, *engines[1].asked} == {question.id for question in task.questions}
    answers = [Answer(id=question.id, text=f"about {question.id}") for question in task.questions]
    whole = grade_answers(bench, world, answers, GradeSpec()).metrics
    assert figures == {f"bench/scenes/{name}": value for name, value in whole.items()}


def test_what_is_reported_does_not_choose(tiny, tmp_path, world):
    base = recipe(tiny["llava"], tmp_path, size=2)
    policy = load_policy(base.model)

    def best(spec, held_out=False):
        one = replace(with_eval(base) if held_out else base, evaluation=spec)
        return build_benchmarks(one, Alone(), policy, None).best

    assert best(EvaluationSpec(benches=(scenes(world),))) is None
    assert best(EvaluationSpec(), held_out=True) == "eval/loss"
    assert best(EvaluationSpec(best="none"), held_out=True) is None
    chosen = scenes(world, selects=True)
    assert best(EvaluationSpec(benches=(chosen,), best="bench/scenes/hal")) == "bench/scenes/hal"
    for spec, message in (
        (EvaluationSpec(benches=(scenes(world),), best="bench/scenes/hal"), "choosing by it would flatter it"),
        (EvaluationSpec(best="eval/loss"), "nothing is held out"),
        (EvaluationSpec(benches=(chosen,), best="bench/pope/f1"), "evaluation.best is 'bench/pope/f1'"),
        (EvaluationSpec(benches=(chosen, chosen), best="bench/scenes/hal"), "scenes stands twice"),
        (EvaluationSpec(benches=(chosen,)), "scenes is there to choose by .* Set best: bench/scenes/METRIC"),
        (EvaluationSpec(benches=(chosen,), best="bench/scenes/f1"), "scenes logs hal, accuracy, length. Name one"),
        (EvaluationSpec(benches=(chosen,), best="bench/scenes/length"), "length, which is neither good nor bad"),
        (EvaluationSpec(benches=(scenes(world, only=("x",)),)), "there is no category 'x'"),
        (EvaluationSpec(benches=(scenes(world, metrics=("hall",)),)), "scenes has no figure 'hall'"),
    ):
        with pytest.raises((RecipeError, DataError), match=message):
            best(spec)
    assert build_benchmarks(base, Alone(), policy, None) is None


def test_what_is_missing_is_said_before_the_first_step(tiny, tmp_path, world):
    base = recipe(tiny["llava"], tmp_path, size=2)
    for bench, message in (
        (scenes(world, protocol="x"), "there is no protocol 'x'"),
        (scenes(world, options={"y": 1}), "unknown options y"),
        (scenes(world, bench="scens"), "Did you mean scenes"),
    ):
        with pytest.raises(DataError, match=message):
            train(replace(base, evaluation=EvaluationSpec(benches=(bench,))), quiet=True)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()

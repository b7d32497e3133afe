"""Recipes of loops are as strict as those of trainings: file, line, key, found, expected, nearest."""

import subprocess
import sys

import pytest
import yaml

from recipe_files import LOOPS, TRAININGS
from sightline.errors import RecipeError
from sightline.recipes.field_docs import field_docs
from sightline.recipes.load import load_recipe
from sightline.recipes.load_loop import load_loop
from sightline.recipes.loop import METHODS, ExamSpec, LoopRecipe, MergeSpec, StopSpec, training_recipe

TEXT = """\
name: a
output_dir: runs/a
model: {path: m}
prompts: {path: p.jsonl}
method:
  name: self_rewarding
  reward: {scenes: {}, length: {weight: -1}}
  sampling: {n: 4}
exam: {benches: [{bench: scenes, data: x, selects: true}], best: scenes/hal}
"""


@pytest.fixture
def write(tmp_path):
    def written(text=TEXT):
        (tmp_path / "loop.yaml").write_text(text)
        return tmp_path / "loop.yaml"

    return written


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("name: a", "nam: a", "loop.yaml:1: unknown key 'nam'. Did you mean 'name'?"),
        (
            "sampling: {n: 4}",
            "samplin: {n: 4}",
            "8: unknown key 'samplin' in method. Did you mean 'sampling'?",
        ),
        ("{n: 4}", "{m: 4}", "loop.yaml:8: unknown key 'm' in method.sampling. Valid: n, temperature"),
        ("{weight: -1}", "{wieght: -1}", "loop.yaml:7: unknown key 'wieght' in method.reward.length."),
        ("length: {", "lenght: {", "loop.yaml:7: method.reward.lenght: found no kind of reward 'lenght'. Did you mean"),
        ("self_rewarding", "selfrewarding", "loop.yaml:6: method.name: found no method 'selfrewarding'. Did you mean"),
        ("  name: self_rewarding\n", "", "loop.yaml:5: method.name: found no name."),
        ("{n: 4}", "{n: four}", "loop.yaml:8: method.sampling.n: found 'four' (string), expected a whole number"),
        ("{n: 4}", "{n: 1}", "loop.yaml:5: method: found sampling.n: 1, and answers are compared. Sample 2 or more"),
        ("{path: m}", "{path: m, adapter: x}", "loop.yaml:3: found model.adapter: x, but a loop starts from a whole"),
        ("{path: p.jsonl}", "{path: p.jsonl, weight: 2}", "loop.yaml:4: prompts come from one source"),
        ("best: scenes/hal", "best: hal", "loop.yaml:9: exam.best: found 'hal', expected BENCH/METRIC"),
        (
            "[{bench: scenes, data: x, selects: true}]",
            "[]",
            "exam.benches: found a list of 0, expected at least",
        ),
        (
            "exam: {",
            "stop: {patience: 0}\nexam: {",
            "9: stop.patience: found 0 (whole number), expected",
        ),
        ("exam: {", "merge: {dtype: bfloat16}\nexam: {", "loop.yaml:9: found merge.dtype, but no part has mode lora"),
        ("exam: {", "train: {eval_every: 1}\nexam: {", "loop.yaml:9: a round holds out no rows"),
        ("exam: {", "reference: adapter\nexam: {", "loop.yaml:9: reference: adapter needs an adapter"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(write, old, new, told):
    assert TEXT.count(old) == 1
    with pytest.raises(RecipeError) as refused:
        load_loop(write(TEXT.replace(old, new)))
    assert told in str(refused.value)


def test_overrides_and_what_a_round_trains(write):
    loop = load_loop(write(), ("rounds=7", "method.sampling.n=9", "train.learning_rate=1e-3", "stop.patience=2"))
    assert (loop.rounds, loop.method.sampling.n, loop.stop.patience) == (7, 9, 2)
    recipe = training_recipe(loop, 3, loop.model, "runs/a/round-3")
    assert (recipe.train.learning_rate, recipe.output_dir) == (1e-3, "runs/a/round-3/train")
    assert recipe.data.train[0].path == "runs/a/round-3/pairs.jsonl" and recipe.algorithm == {"name": "dpo"}
    with pytest.raises(RecipeError, match=r"override 'stop.patienc=2': unknown key 'patienc' in stop. Did you mean"):
        load_loop(write(), ("stop.patienc=2",))
    without = yaml.safe_load(TEXT) | {"stop": {"patience": 1}}
    del without["exam"]
    with pytest.raises(RecipeError, match="no exam to see a gain by"):
        load_loop(write(yaml.safe_dump(without)))


def test_each_kind_of_recipe_sends_to_the_command_of_the_other():
    with pytest.raises(RecipeError, match=r"recipe of a loop, not of a training. Run it with: sightline loop"):
        load_recipe(LOOPS[0])
    with pytest.raises(RecipeError, match=r"recipe of a training, not of a loop. Run it with: sightline train"):
        load_loop(TRAININGS[0])


def test_show_prints_a_loop_that_is_read_back(run, tmp_path):
    for options in ((), ("--explain",)):
        code, out, _ = run("show", LOOPS[0], "rounds=9", *options)
        (tmp_path / "shown.yaml").write_text(out)
        shown = load_loop(tmp_path / "shown.yaml")
        assert code == 0 and shown.rounds == 9 and shown.method == load_loop(LOOPS[0]).method


def test_every_field_beyond_the_plain_is_documented():
    plain = {"name", "rounds", "sampling", "merge", "stop", "seed"}
    for kind in (LoopRecipe, ExamSpec, StopSpec, MergeSpec, *METHODS.values()):
        assert set(kind.__dataclass_fields__) - set(field_docs(kind)) <= plain


def test_loading_imports_no_torch(write):
    code = f"import sys; from sightline.recipes.load_loop import load_loop; load_loop({str(write())!r}); "
    done = subprocess.run([sys.executable, "-c", code + "sys.exit('torch' in sys.modules)"], check=False)
    assert done.returncode == 0

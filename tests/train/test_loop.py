"""One micro-batch = k micro-batches; a killed run, resumed, is the unbroken run."""

import json
import math
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import train_runs

from sightline.data.schema import read_groups, write_groups
from sightline.errors import CheckpointError, DivergenceError, RecipeError
from sightline.models.load import load_policy
from sightline.models.policy import Policy
from sightline.recipes.load import dump_recipe
from sightline.recipes.schema import DatasetSpec, ModelSpec, PartsSpec
from sightline.train.checkpoint import latest, newest_step
from sightline.train.loop import fit, train, train_step
from sightline.train.metrics import read_metrics
from sightline.train.run_folder import model_step
from sightline.train.session import open_session
from sightline.train.source import fingerprint
from sightline.types import Response
from tiny_models import FAMILIES, LLAVA_TEMPLATE, save_tiny


def first_gradients(recipe):
    """Loss and gradients of the first step."""
    with open_session(recipe, overwrite=True) as session:
        named = [(name, p) for part in session.policy.parts().values() for name, p in part]
        found = {}
        session.optimizer.step = lambda: found.update({n: p.grad.clone() for n, p in named if p.grad is not None})
        train_step(session)
        figures = session.meter.reduce(session.runtime)
    return figures, found


@pytest.mark.parametrize("responses", [1, 2])
def test_one_micro_batch_equals_many(tiny, tmp_path, responses):
    recipe = train_runs.recipe(tiny["llava"], tmp_path, responses=responses, batch_size=7, max_grad_norm=0)
    whole, gradients = first_gradients(recipe)
    many, split = first_gradients(replace(recipe, train=replace(recipe.train, micro_batch_tokens=1)))
    assert many["loss/sft" if responses == 1 else "loss/dpo"] == pytest.approx(
        whole["loss/sft" if responses == 1 else "loss/dpo"], rel=1e-6
    )
    assert many["grad_norm"] == pytest.approx(whole["grad_norm"], rel=1e-5)
    assert gradients.keys() == split.keys()
    for name, expected in gradients.items():
        torch.testing.assert_close(split[name], expected, rtol=1e-4, atol=1e-6 * whole["grad_norm"], msg=name)


EYES_ONLY = {
    "projector": PartsSpec(language="frozen", projector="full"),
    "projector by lora": PartsSpec(language="frozen", projector="lora"),
    "tower": PartsSpec(language="frozen", projector="frozen", vision="full"),
    "tower by lora": PartsSpec(language="frozen", projector="frozen", vision="lora"),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("parts", EYES_ONLY)
def test_micro_batches_without_a_picture_where_only_what_sees_is_trained(tiny, tmp_path, parts, family):
    """A third of the rows are text alone: with a micro-batch each, nothing in them reaches what is trained."""
    layout = "rows" if parts == "tower" else "tree"
    model = ModelSpec(path=str(tiny[family]), parts=EYES_ONLY[parts], layout=layout)
    recipe = train_runs.recipe(tiny[family], tmp_path, batch_size=7, max_grad_norm=0, model=model)
    whole, gradients = first_gradients(recipe)
    many, split = first_gradients(replace(recipe, train=replace(recipe.train, micro_batch_tokens=1)))
    assert many["loss/sft"] == pytest.approx(whole["loss/sft"], rel=1e-6)
    assert gradients.keys() == split.keys()
    for name, expected in gradients.items():
        torch.testing.assert_close(split[name], expected, rtol=1e-4, atol=1e-6 * whole["grad_norm"], msg=name)


def test_a_step_of_text_alone_where_only_what_sees_is_trained(tiny, tmp_path):
    """Its figures are those of any other step, and no weight moves."""
    model = ModelSpec(path=str(tiny["llava"]), parts=EYES_ONLY["projector"])
    recipe = train_runs.recipe(tiny["llava"], tmp_path, model=model, epochs=1, warmup=0, micro_batch_tokens=1)
    rows = Path(recipe.data.train[0].path)
    write_groups(rows, [group for group in read_groups(rows) if not group.prompts[0].images])
    result = train(recipe, quiet=True)
    assert result.last["loss"] > 0 and result.last["grad_norm"] == 0
    before, after = (load_policy(ModelSpec(path=str(p)), trainable=False) for p in (tiny["llava"], result.model_dir))
    for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True):
        assert torch.equal(old, new), name


def test_the_loss_is_the_mean_over_all_tokens_of_the_step(tiny, tmp_path):
    """Against log-probabilities taken from the policy one group at a time."""
    recipe = train_runs.recipe(tiny["llava"], tmp_path, batch_size=7, micro_batch_tokens=60)
    figures, _ = first_gradients(recipe)
    with open_session(recipe, overwrite=True) as session, torch.no_grad():
        taken = session.source.take(0)
        each = [session.policy(session.lay_out([group])).logprobs for group in taken.groups]
    assert len({len(logprobs) for logprobs in each}) > 1
    assert figures["loss/sft"] == pytest.approx(-float(torch.cat(each).mean()), rel=1e-6)


def test_a_run_directory_holds_what_a_person_needs(tiny, tmp_path):
    recipe = train_runs.recipe(tiny["llava"], tmp_path, trackers=("tensorboard",), log_every=2)
    result = train(recipe, quiet=True)
    records = read_metrics(result.run_dir / "metrics.jsonl")
    assert [record["step"] for record in records] == [2, 4, 6, 8, 9]
    assert [round(record["epoch"], 6) for record in records][-1] == 3
    rates = [record["learning_rate"] for record in records]
    assert rates == pytest.approx([1e-2 * factor for factor in (1, 6 / 7, 4 / 7, 2 / 7, 1 / 7)])
    assert records[-1]["loss"] < records[0]["loss"] - 0.5
    assert records[-1]["num_tokens"] == 3 * 252
    environment = json.loads((result.run_dir / "environment.json").read_text())
    assert environment["packages"]["torch"] == torch.__version__
    assert environment["image_processor"] == "CLIPImageProcessorPil"
    assert environment["rows"]["train"] == "7 of 7 rows kept, 5 with pictures"
    assert list((result.run_dir / "trackers").rglob("events.out*"))
    trained = load_policy(ModelSpec(path=str(result.model_dir)), trainable=False)
    start = load_policy(ModelSpec(path=str(tiny["llava"])), trainable=False)
    weight = "model.language_model.layers.0.mlp.up_proj.weight"
    moved = trained.base.get_parameter(weight) - start.base.get_parameter(weight)
    assert 1e-3 < moved.abs().max() < 0.1


def test_losses_logged_every_two_steps_are_means_of_two(tiny, tmp_path):
    each, pairs = (train_runs.recipe(tiny["llava"], tmp_path / str(n), log_every=n, max_steps=4) for n in (1, 2))
    train(each, quiet=True), train(pairs, quiet=True)
    single, double = (train_runs.losses(Path(recipe.output_dir)) for recipe in (each, pairs))
    assert double == pytest.approx({2: (single[1] + single[2]) / 2, 4: (single[3] + single[4]) / 2}, rel=1e-6)


def test_held_out_groups_are_scored_with_the_same_algorithm(tiny, tmp_path):
    recipe = train_runs.recipe(tiny["llava"], tmp_path, responses=2, learning_rate=1e-9, eval_every=2, max_steps=3)
    rows = recipe.data.train
    recipe = replace(recipe, data=DatasetSpec(train=rows, eval=rows))
    train(recipe, quiet=True)
    records = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [record["step"] for record in records if "eval/loss" in record] == [2, 3]
    assert records[1]["eval/loss"] == pytest.approx(0.6931472, abs=1e-4)  # policy = reference: log 2
    assert records[1]["eval/length/chosen"] == pytest.approx(records_mean_length(recipe))


def records_mean_length(recipe):
    with open_session(recipe, overwrite=True) as session:
        groups = [session.render(group) for group in session.held_out]
    return sum(len(group.responses[0].tokens) for group in groups) / len(groups)


# --- resume ---

KILLED = """
import os, signal
import torch, train_runs
from pathlib import Path
from sightline.recipes.load import load_recipe
from sightline.train.loop import train
torch.set_num_threads(1)
def kill(record):
    if record["step"] == {step}:
        os.kill(os.getpid(), signal.SIGKILL)
train(load_recipe({recipe!r}), quiet=True, on_log=kill)
"""


def run_and_kill(recipe, folder, step):
    path = folder / "recipe.yaml"
    path.write_text(dump_recipe(recipe))
    code = KILLED.format(step=step, recipe=str(path))
    done = subprocess.run([sys.executable, "-c", code], env=train_runs.environment(), capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.processes
@pytest.mark.parametrize("kind", ["dpo", "online"])
def test_a_killed_run_goes_on_as_if_it_had_not_been(tiny, tmp_path, kind):
    def recipe(folder):
        if kind == "online":
            return train_runs.online(tiny["llava"], folder, "train_runs:CountsE", save_every=3)
        spec = train_runs.lora(tiny["llava"])
        spec = replace(spec, lora=replace(spec.lora, dropout=0.1))  # random numbers must go on as well
        options = {"responses": 2, "reference": "cache", "save_every": 2, "log_every": 1}
        return train_runs.recipe(tiny["llava"], folder, model=spec, max_steps=8, **options)

    whole, broken = recipe(tmp_path / "whole"), recipe(tmp_path / "broken")
    train(whole, quiet=True)
    run_and_kill(broken, tmp_path / "broken", step=5)
    run_dir = Path(broken.output_dir)
    saved = 3 if kind == "online" else 4
    assert latest(run_dir).name == f"step-{saved:08d}"
    assert max(train_runs.losses(run_dir)) == 5
    half = run_dir / "checkpoints" / "step-00000099.tmp"
    half.mkdir()
    result = train(broken, quiet=True)
    assert result.resumed_from == saved
    expected = train_runs.losses(Path(whole.output_dir))
    assert list(train_runs.losses(run_dir)) == list(expected)  # every step once
    assert train_runs.losses(run_dir) == expected
    if kind == "online":
        samples = [Path(r.output_dir, "samples.jsonl").read_text().replace(r.output_dir, "") for r in (whole, broken)]
        assert samples[0].replace("whole", "broken") == samples[1]


def test_a_run_that_says_nothing_of_checkpoints_goes_on_where_it_was_stopped(tiny, tmp_path):
    """Ctrl-C in a run of the default settings: the last hundred steps are lost at most."""
    recipe = train_runs.recipe(tiny["llava"], tmp_path, size=2, batch_size=1, max_steps=105, log_every=1)

    def stop(record):
        if record["step"] == 103:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, quiet=True, on_log=stop)
    assert newest_step(tmp_path / "run") == 100
    assert train(recipe, quiet=True).resumed_from == 100


def test_a_log_shows_how_far_rows_and_steps_are(tiny, tmp_path, capsys):
    train(train_runs.recipe(tiny["llava"], tmp_path, size=5, max_steps=2, log_every=1))
    out, err = capsys.readouterr()
    assert out == "" and "checking train rows: 5, 0:0" in err
    assert "\ntest: step 2/2, loss " in err


def test_a_finished_run_has_nothing_left_to_do(tiny, tmp_path):
    recipe = train_runs.recipe(tiny["llava"], tmp_path, max_steps=2)
    train(recipe, quiet=True)
    before = (tmp_path / "run/metrics.jsonl").read_text()
    result = train(recipe, quiet=True)
    assert (result.steps, result.resumed_from, dict(result.last)) == (2, 2, {})
    assert (tmp_path / "run/metrics.jsonl").read_text() == before


def test_a_run_with_a_constant_rate_can_be_made_longer(tiny, tmp_path):
    def recipe(folder, steps):
        return train_runs.recipe(tiny["llava"], tmp_path / folder, schedule="constant", max_steps=steps)

    train(recipe("whole", 5), quiet=True)
    train(recipe("longer", 2), quiet=True)
    assert train(recipe("longer", 5), quiet=True).resumed_from == 2
    assert train_runs.losses(tmp_path / "longer/run") == train_runs.losses(tmp_path / "whole/run")


def test_rows_that_changed_are_refused(tiny, tmp_path):
    recipe = train_runs.recipe(tiny["llava"], tmp_path, schedule="constant", max_steps=1)
    longer = replace(recipe, train=replace(recipe.train, max_steps=2))
    train(recipe, quiet=True)
    path = Path(recipe.data.train[0].path)
    groups = list(read_groups(path))
    first = replace(groups[0], responses=(replace(groups[0].responses[0], text="another answer"),))
    for rows in ([first, *groups[1:]], groups[::-1]):
        write_groups(path, rows)
        with pytest.raises(CheckpointError, match="The rows are not those that the checkpoint was made with"):
            train(longer, quiet=True)
    write_groups(path, groups)
    assert train(longer, quiet=True).resumed_from == 1


def test_weights_of_tokens_count_among_the_rows():
    row = train_runs.group(2, ["unused"], 1)
    known = Response(text="a b", tokens=(5, 6))
    ways = [known, replace(known, weights=(1.0, 2.0)), replace(known, trained=(True, False))]
    assert len({fingerprint([replace(row, responses=(one,))]) for one in [*ways, replace(known, tokens=None)]}) == 4


def test_a_template_that_changed_under_its_path_is_refused(tiny, tmp_path):
    template = tmp_path / "template.jinja"
    template.write_text(LLAVA_TEMPLATE)
    model = replace(train_runs.lora(tiny["llava"]), chat_template=str(template))
    recipe = train_runs.recipe(tiny["llava"], tmp_path, schedule="constant", max_steps=1, model=model)
    train(recipe, quiet=True)
    longer = replace(recipe, train=replace(recipe.train, max_steps=2))
    template.write_text(LLAVA_TEMPLATE.replace("USER:", "Human:"))
    with pytest.raises(CheckpointError, match="template"):
        train(longer, quiet=True)
    template.write_text(LLAVA_TEMPLATE)
    assert train(longer, quiet=True).resumed_from == 1


def test_a_base_that_changed_under_its_path_is_refused(tmp_path):
    """What is frozen, and the reference, would be another model's from the step where the run was stopped."""
    model = save_tiny("llava", tmp_path / "model")
    recipe = train_runs.recipe(model, tmp_path, schedule="constant", max_steps=1, model=train_runs.lora(model))
    train(recipe, quiet=True)
    longer = replace(recipe, train=replace(recipe.train, max_steps=2))
    save_tiny("llava", model, seed=7)
    said = rf"{model} holds other weights or settings than when \S+step-00000001 was made"
    with pytest.raises(CheckpointError, match=said):
        train(longer, quiet=True)
    save_tiny("llava", model)
    assert train(longer, quiet=True).resumed_from == 1


def test_another_recipe_in_the_same_directory_is_refused(tiny, tmp_path):
    recipe = train_runs.recipe(tiny["llava"], tmp_path, max_steps=1)
    train(recipe, quiet=True)
    other = replace(recipe, train=replace(recipe.train, learning_rate=0.5, workers=0, max_steps=2))
    with pytest.raises(CheckpointError, match=r"max_steps: 1 there, 2 here; train.learning_rate: 0.01 there, 0.5 here"):
        train(other, quiet=True)
    rows = replace(recipe, data=replace(recipe.data, train=(replace(recipe.data.train[0], limit=1),)))
    with pytest.raises(CheckpointError, match=r"other settings \(data.train.0.limit: None there, 1 here\)"):
        train(rows, quiet=True)
    with pytest.raises(CheckpointError, match="already holds a run"):
        train(recipe, resume=False, quiet=True)
    with pytest.raises(CheckpointError, match="no run to resume"):
        train(replace(recipe, output_dir=str(tmp_path / "new")), resume=True, quiet=True)
    kept = tmp_path / "run" / "notes.txt"
    kept.write_text("mine")
    for name in ("best", "evaluation"):  # of the run that goes: better than the new one ever gets, perhaps
        (tmp_path / "run" / name).mkdir()
    assert train(other, overwrite=True, quiet=True).steps == 2
    assert not any((tmp_path / "run" / name).exists() for name in ("best", "evaluation"))
    assert kept.exists()


# --- what stops a run ---


def test_a_loss_that_is_not_finite_names_its_groups_and_spares_the_weights(tiny, tmp_path):
    recipe = train_runs.recipe(tiny["llava"], tmp_path, batch_size=7, micro_batch_tokens=1)
    with open_session(recipe) as session:
        score, before = session.model.forward, [p.clone() for p in session.trained_parameters()]
        groups = {group.group.id: group for group in session.source.take(0).groups}
        spoilt = session.lay_out([groups["row-3"]]).target

        def forward(batch, heads):
            scores = score(batch, heads)
            return replace(scores, logprobs=scores.logprobs / 0) if torch.equal(batch.target, spoilt) else scores

        session.model.forward = forward
        with pytest.raises(DivergenceError, match="Step 1: the loss is inf") as error:
            train_step(session)
    named = [id for id, group in groups.items() if f"{group.group.source}." in str(error.value)]
    assert named == ["row-3"]
    assert all(torch.equal(a, b) for a, b in zip(before, session.trained_parameters(), strict=True))


def test_a_step_that_makes_weights_infinite_ends_the_run_and_saves_nothing(tiny, tmp_path):
    """Its own loss and gradient are finite, and after the last step none is computed that could show it."""
    recipe = train_runs.recipe(tiny["llava"], tmp_path, max_steps=2, save_every=1, schedule="constant", warmup=1)
    train(recipe, quiet=True)
    longer = replace(recipe, train=replace(recipe.train, max_steps=3))
    with open_session(longer) as session:
        for group in session.optimizer.param_groups:
            group["base_lr"] = math.inf
        with pytest.raises(DivergenceError, match=r"Step 3: weights are infinite or no numbers after it; .* Lower"):
            fit(session, quiet=True)
    checkpoints = sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir())
    assert checkpoints == ["step-00000001", "step-00000002"] and model_step(tmp_path / "run/model") == 2
    assert sorted(train_runs.losses(tmp_path / "run")) == [1, 2]


@pytest.mark.parametrize("spoilt", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_ends_the_run(tiny, tmp_path, spoilt):
    recipe = train_runs.recipe(tiny["llava"], tmp_path, max_steps=1, max_grad_norm=0)
    with open_session(recipe) as session:
        session.trained_parameters()[0].register_hook(lambda gradient: gradient * spoilt)
        with pytest.raises(DivergenceError, match=r"Step 1: the loss is \d.* and the gradient norm (nan|inf)"):
            fit(session, quiet=True)
    assert not (tmp_path / "run/model").exists() and not (tmp_path / "run/checkpoints").exists()


def test_parts_that_no_micro_batch_uses_do_not_stop_the_run(tiny, tmp_path):
    """Text-only rows with a trained tower: no gradient for it, and no error."""
    recipe = train_runs.recipe(tiny["llava"], tmp_path, size=9, max_steps=1, batch_size=9)
    rows = Path(recipe.data.train[0].path)
    rows.write_text("".join(line for line in rows.read_text().splitlines(True) if "images" not in line))
    _, gradients = first_gradients(recipe)
    assert gradients
    assert not [name for name in gradients if "vision_tower" in name or "projector" in name]


def test_unknown_rewards_and_missing_references_are_refused(tiny, tmp_path):
    with pytest.raises(RecipeError, match=r"no\.such:Thing"):
        train(train_runs.online(tiny["llava"], tmp_path, "no.such:Thing"), quiet=True)
    with pytest.raises(RecipeError, match="reference"):
        train(train_runs.recipe(tiny["llava"], tmp_path, responses=2, reference="none"), quiet=True)


def test_frozen_vision_is_encoded_once_for_policy_and_reference(tiny, tmp_path, monkeypatch):
    spec = ModelSpec(path=str(tiny["llava"]), parts=PartsSpec(projector="frozen", vision="frozen"))
    recipe = train_runs.recipe(tiny["llava"], tmp_path, responses=2, model=spec, batch_size=7)
    calls = []
    real = Policy.image_features
    monkeypatch.setattr(Policy, "image_features", lambda self, batch: calls.append(1) or real(self, batch))
    with open_session(recipe) as session:
        train_step(session)
    assert len(calls) == 1

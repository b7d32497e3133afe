"""Runs that ask whether the picture mattered: masked pictures beside the true ones, and answers sampled under noise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import train_runs

from sightline.algorithms.policy_gradient import PolicyGradient
from sightline.algorithms.registry import build_algorithm
from sightline.data.schema import read_groups, write_groups
from sightline.errors import DataError, RecipeError
from sightline.recipes.distorted import DistortedSpec
from sightline.recipes.load import check_algorithm, dump_recipe, load_recipe
from sightline.recipes.schema import DataSpec, NegativeSpec, SamplingSpec
from sightline.rollouts.hf import HFEngine
from sightline.train.loop import train

PATCHES = NegativeSpec(kind="patches", patch=7, share=0.6)


def recipe(model, folder, algorithm, *, text_only=False, online=None, **options):
    made = train_runs.online(
        model, folder, "train_runs:CountsE", algorithm=algorithm, reference="auto", **({"max_steps": 6} | options)
    )
    pictures = train_runs.draw(folder / "data" / "pictures")
    rows = [train_runs.group(index, pictures, 1) for index in range(7)]
    path = folder / "data" / "prompts.jsonl"
    write_groups(path, rows if text_only else [row for row in rows if row.prompts[0].images])
    fields = {
        "prompts": DataSpec(path=str(path)),
        "relation": "none",
        "sampling": SamplingSpec(n=4, max_new_tokens=6),
        "inner_epochs": 2,
        "masked": PATCHES,
    }
    spec = replace(made.online, **(fields | (online or {})))
    return replace(made, online=spec, train=replace(made.train, learning_rate=3e-3))


@pytest.fixture
def seen(monkeypatch):
    """What the loss is given and gives, pass by pass."""
    calls, loss = [], PolicyGradient.loss

    def spy(self, batch, scores, world):
        found = loss(self, batch, scores, world)
        calls.append((batch, found))
        return found

    monkeypatch.setattr(PolicyGradient, "loss", spy)
    return calls


def test_papo_reads_each_answer_twice_in_every_step_and_counts_it_once(tiny, tmp_path, seen, monkeypatch):
    rounds, prepare = [], PolicyGradient.prepare_step

    def spy(self, batches, counted, world):
        rounds.extend(batches)
        return prepare(self, batches, counted, world)

    monkeypatch.setattr(PolicyGradient, "prepare_step", spy)
    made = recipe(tiny["llava"], tmp_path, {"name": "papo"}, micro_batch_tokens=8192)
    train(made, quiet=True)
    for batch, (terms, _) in seen:
        answers = batch.num_responses // 2
        assert batch.pairs.tolist() == [[i + 8 * g, i + 4 + 8 * g] for g in range(answers // 4) for i in range(4)]
        assert {term.name: term.unit for term in terms} == dict.fromkeys(
            ("policy", "kl", "kl_prcp", "ori_entropy", "aug_entropy"), "chosen_token"
        )
        assert batch.count("chosen_token") == len(terms[0].values) == len(batch.target) // 2
    # nothing that is prepared before a round is of the masked picture
    assert rounds and not any(len(batch.pairs) for batch in rounds)
    assert all(batch.ref_logprobs.shape == batch.old_logprobs.shape == batch.target.shape for batch in rounds)
    told = train_runs.figures(made)
    assert all(row["kl_prcp"] > 0 and row["aug_entropy"] > 0 and row["ori_entropy"] > 0 for row in told)
    kept = list(read_groups(Path(made.output_dir) / "samples.jsonl"))
    assert all(len(group.prompts) == 1 and len(group.responses) == 4 for group in kept)


@pytest.mark.parametrize("name", ["vppo", "ves_rft"])
def test_what_is_measured_before_a_round_leaves_no_second_picture_in_its_steps(tiny, tmp_path, seen, name):
    made = recipe(tiny["llava"], tmp_path, {"name": name})
    train(made, quiet=True)
    assert all(not len(batch.pairs) and batch.dependence is not None for batch, _ in seen)
    assert all(torch.isfinite(batch.dependence).all() and batch.dependence.any() for batch, _ in seen)
    figure = {"vppo": "sensitivity_score_mean", "ves_rft": "rewards/visual_entropy/mean"}[name]
    assert all(row[figure] != 0 for row in train_runs.figures(made))
    if name == "vppo":
        for batch, _ in seen:  # of 6 tokens 3 keep their advantage, of fewer the share rounded up
            lengths = batch.response.bincount(minlength=batch.num_responses)
            kept = (batch.advantages != 0).double() @ torch.nn.functional.one_hot(batch.response).double()
            full = kept > 0  # answers as good as the mean have no advantage at all
            assert torch.equal(kept[full], (lengths * 0.4 - 1e-9).ceil()[full].double())


@pytest.mark.parametrize("name", ["papo", "vppo", "ves_rft"])
def test_micro_batches_change_nothing(tiny, tmp_path, name):
    runs = [
        recipe(tiny["llava"], tmp_path / str(most), {"name": name}, micro_batch_tokens=most, max_steps=3)
        for most in (8192, 1)
    ]
    for made in runs:
        train(made, quiet=True)
    for one, other in zip(*map(train_runs.figures, runs), strict=True):
        assert one == pytest.approx(other, rel=2e-3, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "stop", "online"),
    [("papo", 3, {}), ("vppo", 3, {}), ("ves_rft", 4, {"distorted": DistortedSpec(answers=2)})],
)
def test_a_run_that_stopped_goes_on_as_if_it_had_not(tiny, tmp_path, name, stop, online):
    whole, broken = (
        recipe(tiny["llava"], tmp_path / part, {"name": name}, online=online, save_every=1) for part in ("a", "b")
    )
    train(whole, quiet=True)

    train_runs.stop(broken, stop + 1)
    assert train(broken, quiet=True).resumed_from == stop
    assert train_runs.figures(broken) == train_runs.figures(whole)


def test_some_answers_are_sampled_under_noise_and_all_are_trained_under_the_picture(tiny, tmp_path, seen, monkeypatch):
    asked, generate = [], HFEngine.generate

    def spy(self, groups, sampling, **options):
        asked.append((sampling.n, [group.prompts[0].images[0] for group in groups]))
        return generate(self, groups, sampling, **options)

    monkeypatch.setattr(HFEngine, "generate", spy)
    distorted = DistortedSpec(answers=1, midpoint=0.5)
    online = {"distorted": distorted, "masked": None, "inner_epochs": 1, "steps_per_round": 1}
    made = recipe(tiny["llava"], tmp_path, {"name": "grpo"}, online=online, batch_size=5, max_steps=4)
    train(made, quiet=True)
    samples = asked[1:]  # the first call checks the engine
    assert [n for n, _ in samples] == [3, 1, 3, 1, 3, 1, 4]  # of the last round the step of the noise is 0
    pictures = {path for n, paths in samples if n != 1 for path in paths}
    noisy = [path for n, paths in samples if n == 1 for path in paths]
    assert len(set(noisy)) == 15 and not pictures & set(noisy)
    assert not any(Path(path).exists() for path in noisy)
    kept = list(read_groups(Path(made.output_dir) / "samples.jsonl"))
    assert [[r.distorted for r in group.responses] for group in kept[::5]] == [
        [None, None, None, 500], [None, None, None, 500], [None, None, None, 250], [None] * 4,
    ]  # fmt: skip
    assert all({r.prompt for r in group.responses} == {0} and group.prompts[0].images[0] in pictures for group in kept)
    # advantages are over the union: those of a prompt add up to 0 over its four answers
    for batch, _ in seen:
        first = torch.cat([torch.zeros(1, dtype=torch.long), batch.response.bincount().cumsum(0)[:-1]])
        total = torch.zeros(batch.num_groups).index_add(0, batch.group, batch.advantages[first])
        torch.testing.assert_close(total, torch.zeros_like(total), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("algorithm", "online", "message"),
    [
        ({"name": "papo"}, {"masked": None}, r"no online\.masked, and papo reads every answer"),
        ({"name": "grpo"}, {}, r"found online\.masked, and grpo reads no answer"),
        ({"name": "papo"}, {"masked": NegativeSpec(kind="column")}, "bring prompts alone"),
        ({"name": "papo"}, {"masked": NegativeSpec(kind="blank", share=0.3)}, "share is an option of kind patches"),
        ({"name": "papo"}, {"distorted": DistortedSpec(answers=4)}, "some answers under the picture as it is"),
        ({"name": "papo"}, {"distorted": DistortedSpec(answers=2), "replay": "x.jsonl"}, "not sampled anew"),
        ({"name": "papo", "mismatch": "tis"}, {"distorted": DistortedSpec(answers=2)}, "not for another picture"),
        ({"name": "dpo"}, {"relation": "ranked", "masked": None, "distorted": DistortedSpec(answers=2)}, "is none"),
    ],
)
def test_what_does_not_go_together_is_refused(tiny, tmp_path, algorithm, online, message):
    file = tmp_path / "recipe.yaml"
    file.write_text(dump_recipe(recipe(tiny["llava"], tmp_path, algorithm, online=online)))
    with pytest.raises(RecipeError, match=message):
        check_algorithm(load_recipe(file), build_algorithm(algorithm))


@pytest.mark.parametrize("online", [{}, {"masked": None, "distorted": DistortedSpec(answers=2)}])
def test_a_prompt_without_a_picture_is_refused_before_anything_is_sampled(tiny, tmp_path, online):
    name = "grpo" if "distorted" in online else "papo"
    made = recipe(tiny["llava"], tmp_path, {"name": name}, text_only=True, online=online)
    with pytest.raises(DataError, match=r"'row-2' has no picture, and online\.(masked|distorted)"):
        train(made, quiet=True)

"""Engine against trainer: what agrees passes, what does not is named and refused."""

import math
import re
from dataclasses import replace

import pytest
import yaml

from command_line import sightline
from engines.fake_vllm import FakeServer
from engines.models import loaded, moved, prompts
from sightline.cli import check_engine as check_engine_command
from sightline.data.schema import write_groups
from sightline.errors import DataError, VerificationError
from sightline.recipes.schema import SamplingSpec
from sightline.rollouts.check import EngineCheck, Reading, check_engine
from sightline.rollouts.hf import HFEngine
from sightline.train.engine import score_batch
from tiny_families import BUILDERS, save_family
from tiny_models import save_tiny

SAMPLING = SamplingSpec(n=8, max_new_tokens=64)


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    return save_tiny("llava", tmp_path_factory.mktemp("llava"))


def checked(engine, policy, renderer, groups, layout="rows"):
    return check_engine(
        engine, renderer, groups, SAMPLING, name="hf", score=lambda some: score_batch(policy, some, layout)
    )


@pytest.mark.parametrize("family", sorted(BUILDERS))
def test_our_own_engine_agrees_with_the_trainer_in_every_family(family, tmp_path):
    policy, renderer = loaded(save_family(family, tmp_path / "model"))
    groups = prompts(tmp_path, size=(32, 32))
    found = checked(HFEngine(policy, renderer), policy, renderer, groups)
    found.refuse(0.015)
    assert found.answers == 8 and found.k3 < 1e-6 and abs(found.k1) < 1e-4
    ours, theirs = zip(*(one.pictures for one in found.readings), strict=True)
    assert ours == theirs and all(ours)


def test_an_engine_of_other_weights_is_refused_with_its_figures(llava, tmp_path):
    policy, renderer = loaded(llava)
    other, _ = loaded(llava)
    moved(other, 2.0)
    groups = prompts(tmp_path)
    found = checked(HFEngine(other, renderer), policy, renderer, groups)
    with pytest.raises(VerificationError, match=r"online\.engine\.check: false") as error:
        found.refuse(0.015)
    assert f"{found.k3:.2e} (k3)" in str(error.value) and f"{found.largest:.2e} nats" in str(error.value)
    found.refuse(2 * found.k3)


def test_the_figures_are_the_estimates_that_they_are_called(llava, tmp_path):
    policy, renderer = loaded(llava)

    class Off(HFEngine):
        """Reports log-probabilities that are 0.1 too high for every other token."""

        def generate(self, groups, sampling, *, seed, on_progress=None):
            answered = super().generate(groups, sampling, seed=seed)
            return [replace(g, responses=tuple(self._off(r) for r in g.responses[:1])) for g in answered]

        def _off(self, response):
            tokens, logprobs = response.tokens[:2], response.rollout_logprobs[:2]
            text = self.tokenizer.decode(tokens, skip_special_tokens=True)
            return replace(response, text=text, tokens=tokens, rollout_logprobs=(logprobs[0] + 0.1, logprobs[1]))

    found = checked(Off(policy, renderer), policy, renderer, prompts(tmp_path))
    assert (found.answers, found.tokens) == (4, 8)
    assert found.k1 == pytest.approx(0.05, abs=1e-5)
    assert found.k3 == pytest.approx((math.exp(-0.1) - 1 + 0.1) / 2, abs=1e-5)
    assert found.largest == pytest.approx(0.1, abs=1e-5)


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.016])
def test_what_is_no_number_is_refused_too(value):
    reading = Reading(id="p", pictures=((1,), (1,)), equal=True)
    with pytest.raises(VerificationError):
        EngineCheck(engine="e", family="f", readings=(reading,), answers=1, tokens=1, k3=value).refuse(0.015)


def test_answers_of_errors_alone_are_no_agreement(llava, tmp_path):
    policy, renderer = loaded(llava)

    class Failing(HFEngine):
        def generate(self, groups, sampling, *, seed, on_progress=None):
            answered = super().generate(groups, sampling, seed=seed)
            error = {"tokens": None, "rollout_logprobs": None, "finish_reason": "error"}
            return [replace(g, responses=tuple(replace(r, **error) for r in g.responses)) for g in answered]

    with pytest.raises(VerificationError):
        checked(Failing(policy, renderer), policy, renderer, prompts(tmp_path)).refuse(0.015)


def test_prompts_that_cannot_be_read_are_passed_over(llava, tmp_path):
    policy, renderer = loaded(llava)
    groups = prompts(tmp_path)
    lost = [replace(g, prompts=(replace(g.prompts[0], images=("nowhere.png",)),)) for g in groups]
    found = checked(HFEngine(policy, renderer), policy, renderer, [*lost, groups[3]])
    assert [one.id for one in found.readings] == ["p3"] and found.answers == 8
    with pytest.raises(DataError, match=r"nowhere\.png"):
        checked(HFEngine(policy, renderer), policy, renderer, lost)


# --- the command --------------------------------------------------------------------------------


@pytest.fixture
def recipe(llava, tmp_path):
    write_groups(tmp_path / "prompts.jsonl", prompts(tmp_path))
    values = {
        "name": "online",
        "output_dir": str(tmp_path / "run"),
        "model": {"path": str(llava), "parts": {"language": "full", "projector": "full"}},
        "algorithm": {"name": "dpo"},
        "online": {"prompts": {"path": str(tmp_path / "prompts.jsonl")}, "reward": "scenes"},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.dump(values))
    return path


def test_the_command_prints_what_it_found(recipe):
    done = sightline("check", "engine", recipe)
    assert done.code == 0, done.err
    assert "engine hf, family llava" in done.out and "4 of 4 prompts have them in the same places" in done.out
    assert "8 with" in done.out and "(k3)" in done.out and "(k1)" in done.out


def test_the_command_computes_in_the_precision_of_the_run(recipe):
    """What it finds is what the run finds before its first step."""
    done = sightline("check", "engine", recipe, "train.mixed_precision=bf16")
    assert done.code == 0, done.err
    assert 1e-4 < float(re.search(r"largest difference of a token (\S+) nats", done.out)[1]) < 0.1


def test_the_command_checks_a_server_as_it_is_and_exits_with_1(recipe, llava, tmp_path, monkeypatch):
    good, bad = FakeServer(llava), FakeServer(save_tiny("llava", tmp_path / "other", seed=3))
    try:
        done = sightline("check", "engine", recipe, "--url", good.url)
        assert done.code == 0, done.err
        assert f"engine {good.url}" in done.out
        done = sightline("check", "engine", recipe, "online.engine.max_kl=0.005", "--url", bad.url)
        assert done.code == 1 and "disagree" in done.err and "online.engine.check" in done.err
        bad.broken = "pads"
        done = sightline("check", "engine", recipe, "--url", bad.url)
        assert done.code == 1 and "trainer 64, engine 68" in done.out
    finally:
        good.stop(), bad.stop()
    monkeypatch.setattr(check_engine_command, "PATIENCE", 0.1)
    done = sightline("check", "engine", recipe, "--url", good.url)
    assert done.code == 2 and "no engine answered for 0.1 s" in done.err
    done = sightline("check", "engine", recipe, "--url", "localhost:8000")
    assert done.code == 2 and "--url: found 'localhost:8000', expected http://HOST:PORT" in done.err


def test_the_command_takes_the_rows_of_a_recipe_without_online(recipe, tmp_path):
    from sightline.types import Response

    rows = [replace(group, responses=(Response(text="a star"),)) for group in prompts(tmp_path)]
    write_groups(tmp_path / "rows.jsonl", rows)
    values = yaml.safe_load(recipe.read_text())
    values["data"] = {"train": [{"path": str(tmp_path / "rows.jsonl")}]}
    values["algorithm"] = {"name": "sft"}
    del values["online"]
    recipe.write_text(yaml.dump(values))
    done = sightline("check", "engine", recipe)
    assert done.code == 0, done.err
    assert "prompts: 4 read" in done.out

"""Two workers of Ray on this machine: what they give is what one process gives, whatever happens to them."""

import sys
import time
from dataclasses import replace

import pytest
import train_runs

from engines.models import moved, prompts
from sightline.data.schema import read_groups
from sightline.errors import DataError, EngineError, MissingExtra, RecipeError
from sightline.models.load import load_policy
from sightline.recipes.engine import EngineSpec
from sightline.recipes.schema import LoraSpec, ModelSpec, PartsSpec, SamplingSpec
from sightline.recipes.terms import LengthSpec
from sightline.rewards.base import score_groups
from sightline.rewards.build import build_reward
from sightline.rollouts.hf import HFEngine
from sightline.rollouts.ray import RayEngine, _Seat
from sightline.rollouts.vllm_sync import Alone
from sightline.train.engine import build_engine
from sightline.train.loop import train
from sightline.train.worker import PolicyWorker
from tiny_models import save_tiny

pytestmark = pytest.mark.processes
SAMPLING = SamplingSpec(n=3, max_new_tokens=6, batch_size=1)
REWARD = {"length": LengthSpec(weight=1, unit="characters", limit=50)}
TWO = {"name": "ray", "workers": 2, "rewards": "workers", "patience": 500}


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    return save_tiny("llava", tmp_path_factory.mktemp("llava"))


def recipe(llava, folder, **engine):
    base = train_runs.online(llava, folder, "scenes", schedule="constant", warmup=0)
    parts = PartsSpec(language="lora", projector="full")
    model = ModelSpec(path=str(llava), parts=parts, lora=LoraSpec(rank=4))
    online = replace(base.online, reward=REWARD, sampling=SAMPLING, engine=EngineSpec(**engine))
    return replace(base, model=model, online=online)


@pytest.fixture(scope="module")
def policy(llava, tmp_path_factory):
    return load_policy(recipe(llava, tmp_path_factory.mktemp("policy")).model)


def built(llava, policy, folder, ranks=None, **engine):
    given = recipe(llava, folder, **engine)
    return build_engine(given.online.engine, given, policy, None, folder=folder, ranks=ranks or Alone())


@pytest.fixture(scope="module")
def ray():
    ray = pytest.importorskip("ray", reason="needs the extra ray")
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def engine(ray, llava, policy, tmp_path_factory):
    return built(llava, policy, tmp_path_factory.mktemp("run"), **TWO)


def ready(engine, groups):
    """Waits until all workers have the policy."""
    deadline = time.monotonic() + 500
    while any(seat.loading is not None for seat in engine._seats):
        assert time.monotonic() < deadline
        engine.check(groups)


def test_two_workers_give_what_one_process_gives(engine, policy, tmp_path):
    groups, here = prompts(tmp_path, 5), HFEngine(policy)
    told = []
    for version in range(2):
        engine.update(version)
        ready(engine, groups)
        answered = engine.generate(groups, SAMPLING, seed=5, on_progress=lambda *done: told.append(done))
        assert answered == here.generate(groups, SAMPLING, seed=5)
        assert answered != here.generate(groups, SAMPLING, seed=6)
        moved(policy, 1.0, seed=version)
    assert told == [(done, 5) for done in range(1, 6)] * 2
    assert answered != here.generate(groups, SAMPLING, seed=5)  # the policy moved, and nobody told the workers
    assert engine.read(groups[0]) == here.read(groups[0])
    assert engine.score(answered) == score_groups(build_reward(REWARD), answered, tries=1)


def test_a_fault_of_the_data_comes_back_as_it_is(engine, tmp_path):
    groups = prompts(tmp_path)
    engine.update(2)
    lost = [replace(g, prompts=(replace(g.prompts[0], images=("nowhere.png",)),)) for g in groups]
    with pytest.raises(DataError, match=r"nowhere\.png") as told:
        engine.generate(lost, SAMPLING, seed=5)
    assert told.value.remedy
    assert len(engine.generate(groups, SAMPLING, seed=5)) == 4  # what was asked before is nobody's


def test_a_run_on_workers_is_the_run_of_one_process_also_where_it_goes_on(engine, llava, tmp_path, monkeypatch):
    """It is stopped in its second round of three. Its workers are those that are there."""
    alone = recipe(llava, tmp_path)
    spread = replace(
        alone,
        output_dir=str(tmp_path / "spread"),
        online=replace(alone.online, engine=EngineSpec(**TWO)),
        train=replace(alone.train, save_every=2),
    )
    there = [seat.actor for seat in engine._seats]

    def seat(self):
        actor = there[len(self._seats)]
        return _Seat(actor=actor, loading=actor.load.remote(self._weights))

    monkeypatch.setattr(RayEngine, "_seat", seat)
    monkeypatch.setattr(RayEngine, "close", lambda self: None)
    train_runs.stop(spread, 3)
    whole, done = train(alone, quiet=True), train(spread, quiet=True)
    assert (done.resumed_from, done.steps) == (2, 6)
    assert train_runs.losses(done.run_dir) == train_runs.losses(whole.run_dir)
    kept = [list(read_groups(one.run_dir / "samples.jsonl")) for one in (done, whole)]
    assert kept[0] == kept[1] and len(kept[0]) == 9


def test_a_killed_worker_is_replaced_and_its_work_asked_again(ray, engine, policy, tmp_path, caplog):
    groups, here = prompts(tmp_path, 6), HFEngine(policy)
    engine.update(3)
    ready(engine, groups)
    dead = []

    def kill(done, count):
        if not dead:
            dead.append(engine._seats[0].actor)
            ray.kill(dead[0])

    assert engine.generate(groups, SAMPLING, seed=7, on_progress=kill) == here.generate(groups, SAMPLING, seed=7)
    assert "is lost and replaced" in caplog.text and engine._seats[0].actor is not dead[0]


def test_a_worker_with_another_model_is_refused(llava, tmp_path):
    with pytest.raises(RecipeError, match=r"finds other weights in model\.path"):
        PolicyWorker(recipe(llava, tmp_path), base="another", device="cpu")


def test_several_processes_need_the_address_of_a_cluster(llava, policy, tmp_path):
    class Two(Alone):
        def gather_objects(self, value):
            return [value, value]

    with pytest.raises(RecipeError, match="Start one with ray start --head, and set address: auto"):
        built(llava, policy, tmp_path, Two(), name="ray")


def test_a_head_that_is_not_there_is_named_at_once(ray, llava, policy, tmp_path, monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    began = time.monotonic()
    with pytest.raises(EngineError, match=r"at online\.engine\.address 127\.0\.0\.1:9 .*ray start --head"):
        built(llava, policy, tmp_path, name="ray", address="127.0.0.1:9")
    assert time.monotonic() - began < 5


def test_without_ray_the_extra_is_named(monkeypatch, llava, policy, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"sightline\[ray\]"):
        built(llava, policy, tmp_path, name="ray")

"""What the engine on Ray does with workers that are slow, die, fail or never come, whatever the order of what happens.

A stand-in for Ray computes one thing at a time, in an order drawn at random; ``test_ray.py`` meets the real one.
"""

import random
from collections import Counter
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import pytest

import sightline.rollouts.ray as module
from sightline.errors import DataError, EngineError
from sightline.recipes.engine import EngineSpec
from sightline.recipes.schema import SamplingSpec
from sightline.rollouts.ray import AHEAD, RayEngine
from sightline.types import Group, Prompt, Response


class RayError(Exception):
    pass


class RayTaskError(RayError):
    def __init__(self, cause):
        super().__init__(f"in a worker: {cause!r}")
        self.cause = cause


@dataclass(eq=False)
class Ref:
    actor: object
    method: str
    arguments: tuple


@dataclass(eq=False)
class Actor:
    held: object
    queue: list = field(default_factory=list)
    dead: bool = False

    def __getattr__(self, name):
        return SimpleNamespace(remote=lambda *arguments: self._asked(Ref(self, name, arguments)))

    def _asked(self, ref):
        self.queue.append(ref)
        assert sum(one.method != "load" for one in self.queue) <= AHEAD
        return ref


class FakeRay:
    """``dies`` says whether an actor is lost when a call is to end, ``silent`` which methods never end."""

    def __init__(self, seed=0, dies=lambda ref: False, silent=()):
        self.exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)
        self.random, self.dies, self.silent = random.Random(seed), dies, silent
        self.actors, self.done = [], []

    def remote(self, kind):
        def make(*arguments, **options):
            self.actors.append(Actor(kind(*arguments, **options)))
            return self.actors[-1]

        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=make))

    def put(self, value):
        return value

    def kill(self, actor):
        actor.dead = True

    def cluster_resources(self):
        return {"CPU": 4.0}

    def wait(self, refs, timeout):
        for actor in self.actors:  # what nobody waits for is computed as well
            while actor.queue and not actor.dead and actor.queue[0] not in refs:
                actor.queue.pop(0)
        able = [r for r in refs if r.actor.dead or (r.actor.queue[0] is r and r.method not in self.silent)]
        return [self.random.choice(able)] if able else [], []

    def get(self, ref):
        if ref.actor.dead or self.dies(ref):
            ref.actor.dead = True
            raise RayError("the actor died")
        assert ref.actor.queue.pop(0) is ref
        self.done.append(ref)
        try:
            return vars(type(ref.actor.held))[ref.method](ref.actor.held, *ref.arguments)
        except Exception as error:
            raise RayTaskError(error) from error


class Echo:
    """Answers with the policy that it has, the seed and the prompt."""

    def load(self, state):
        self.state = state["weights"]

    def read(self, group):
        return (len(group.id),)

    def generate(self, groups, sampling, seed):
        assert all(not group.responses for group in groups)
        return [replace(g, responses=(Response(text=f"{self.state} {seed} {g.id}"),)) for g in groups]

    def check(self, groups):
        if any(group.id == "p7" for group in groups):
            raise DataError("p7 lacks its facts", remedy="Add them")

    def score(self, groups):
        return [f"failed {group.id}" if group.id == "p3" else group for group in groups]


def engine(monkeypatch, ray, *, state=lambda: {"weights": 0}, **fields):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # an actor without a GPU sets it
    monkeypatch.setattr(module, "_connected", lambda spec: ray)
    return RayEngine(Echo, state, EngineSpec(**{"name": "ray", "workers": 3} | fields))


def asked(count):
    """Prompts with an answer of before; every third has the picture of the first."""
    return [
        Group(
            prompts=(Prompt(id=f"p{n}", messages=(), images=(f"{n % 3}.png",)),),
            responses=(Response(text="of before"),),
        )
        for n in range(count)
    ]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("batch", [1, 100])
def test_every_order_of_answers_and_deaths_gives_the_same(monkeypatch, seed, batch):
    deaths = Counter()

    def dies(ref):
        """Twice at most at the same kind of call: the third ends the run."""
        lost = deaths[ref.method] < 2 and ray.random.random() < 0.2
        deaths[ref.method] += lost
        return lost

    ray, version = FakeRay(seed, dies), [0]
    spread = engine(monkeypatch, ray, state=lambda: {"weights": version[0]})
    sampling, told = SamplingSpec(n=1, batch_size=batch), []
    for now in range(3):
        version[0] = now
        spread.update(now)
        groups = asked(11)
        answered = spread.generate(groups, sampling, seed=5, on_progress=lambda *done: told.append(done))
        assert [group.id for group in answered] == [group.id for group in groups]
        assert [group.responses[0].text for group in answered] == [f"{now} 5 p{n}" for n in range(11)]
        assert told[-1] == (11, 11) and sorted(told) == told
        assert spread.score(answered) == Echo().score(answered)
        assert spread.read(groups[10]) == (3,)
        told.clear()
    assert spread.generate([], sampling, seed=5) == spread.score([]) == []
    assert len(ray.actors) == 3 + sum(actor.dead for actor in ray.actors)


def test_batches_are_small_enough_for_all_workers_and_pictures_stay_together(monkeypatch):
    ray = FakeRay()
    spread = engine(monkeypatch, ray)
    spread.update(0)
    spread.generate(asked(9), SamplingSpec(batch_size=100), seed=0)
    parts = [[group.id for group in ref.arguments[0]] for ref in ray.done if ref.method == "generate"]
    assert sorted(parts) == [["p0", "p3", "p6"], ["p1", "p4", "p7"], ["p2", "p5", "p8"]]


def test_prompts_are_looked_through_in_parts(monkeypatch):
    ray = FakeRay()
    monkeypatch.setattr(module, "_AT_ONCE", 4)
    spread = engine(monkeypatch, ray)
    spread.update(0)
    spread.check(asked(7))
    assert [len(ref.arguments[0]) for ref in ray.done if ref.method == "check"] == [4, 3]
    with pytest.raises(DataError, match="p7 lacks its facts"):
        spread.check(asked(8))
    assert spread.read(asked(1)[0]) == (2,)  # what was asked before is nobody's


@pytest.mark.parametrize(
    ("options", "told", "actors"),
    [
        ({"dies": lambda ref: ref.method == "generate"}, r"3 workers .* same batch \(the actor died\)\. Look at", 3),
        ({"silent": ("generate",)}, r"3 workers .* same batch \(no answer for 1e-06 s \(online\.engine\.timeout\)", 3),
        ({"dies": lambda ref: ref.method == "load"}, r"3 workers .* loading the policy \(the actor died\)", 3),
        (
            {"silent": ("load",)},
            r"no worker of Ray has started for 0 s: online.engine asks for 1 with 1 CPU and 0 GPUs each, and the "
            r"cluster has 4 CPUs and 0 GPUs in all\. Add machines",
            1,
        ),
    ],
)
def test_what_does_not_get_better_ends_the_run(monkeypatch, options, told, actors):
    ray = FakeRay(**options)
    spread = engine(monkeypatch, ray, workers=1, timeout=1e-6, patience=0)
    spread._spec = replace(spread._spec, patience=0 if actors == 1 else 60)
    spread.update(0)
    with pytest.raises(EngineError, match=told):
        spread.generate(asked(2), SamplingSpec(batch_size=1), seed=0)
    assert len(ray.actors) == actors


def test_a_worker_that_is_wrong_says_where(monkeypatch):
    ray = FakeRay()
    spread = engine(monkeypatch, ray)
    spread.update(0)
    monkeypatch.setattr(Echo, "generate", lambda *a: 1 / 0)
    with pytest.raises(EngineError, match=r"worker of Ray failed: .*ZeroDivisionError"):
        spread.generate(asked(2), SamplingSpec(batch_size=1), seed=0)


def test_workers_end_with_the_run(monkeypatch):
    ray = FakeRay()
    spread = engine(monkeypatch, ray)
    spread.update(0)
    spread.close()
    assert len(ray.actors) == 3 and all(actor.dead for actor in ray.actors)


@pytest.mark.parametrize("package", ["sightline", "transformers", "pillow"])
def test_other_versions_than_the_trainers_are_refused(monkeypatch, package):
    spread = engine(monkeypatch, FakeRay())
    original = module.version
    monkeypatch.setattr(module, "version", lambda name: "0.0.1" if name == package else original(name))
    spread.update(0)
    with pytest.raises(EngineError, match=rf"has {package} 0\.0\.1, and the trainer .* Install the same versions"):
        spread.read(asked(1)[0])


def test_builds_for_other_devices_are_the_same_version(monkeypatch):
    spread = engine(monkeypatch, FakeRay())
    original = module.version
    monkeypatch.setattr(module, "version", lambda name: f"{original(name).partition('+')[0]}+cu130")
    spread.update(0)
    assert spread.read(asked(1)[0]) == (2,)

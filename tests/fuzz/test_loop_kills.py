"""A loop of any method that SIGKILL ends at chosen changes of the disk or times ends as if it had not died."""

import random
import shutil
import time
from functools import partial

import pytest
from killing import TIMES, killed
from small_loops import held, loop_of, world_of

from sightline.loops.run import run_loop
from sightline.recipes.loop import METHODS

SMALL = {
    "self_rewarding": (),
    "csr": (
        "method={name: csr, relevance: scenes, search: {max_new_tokens: 5, max_sentences: 2, candidates: 3, "
        "batch_size: 2, junk: keep}}",
    ),
    "rlaif_v": (
        "method={name: rlaif_v, sampling: {n: 3, max_new_tokens: 8, batch_size: 1}, claims: {by: scenes}, "
        "questions: {by: scenes}, labeller: {ask: '{question}'}, score: mean, pairs: {min_gap: 0.0}, held_out: 0.3}",
    ),
    "ovip": (
        "method={name: ovip, reward: scenes, sampling: {n: 6, max_new_tokens: 12}, negatives: {kind: scenes}, "
        "selection: {good: -99, small: 99, small_gap: 0, bad: -100, fallback: none}, stages: {}, max_staleness: 1}",
    ),
}
"""Overrides that make a small loop of each method."""


class Whole:
    """An unbroken loop: what it left, how many changes of the disk it made, and how long it took."""

    def __init__(self, world, out, *overrides):
        self.world, self.overrides = world, overrides
        began = time.monotonic()
        self.changes = self.run(out) - 1
        self.seconds = time.monotonic() - began
        assert self.changes > 50
        self.expected = held(out)

    def run(self, out, **way):
        return killed(partial(run_loop, loop_of(self.world, out, *self.overrides), quiet=True), out, **way)

    def breaks_off(self, out, *ways):
        """Runs a loop that dies in each of these ways, and then to its end; gives how often it died."""
        died = [not self.run(out, **way) for way in ways]
        assert self.run(out), "the last call is killed by nobody"
        found = held(out)
        names = {**self.expected, **found}
        assert not [name for name in names if self.expected.get(name) != found.get(name)], ways
        shutil.rmtree(out)
        return sum(died)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Prompts enough for every method, and a tiny model."""
    return world_of(tmp_path_factory.mktemp("world"), prompts=8)


@pytest.fixture(scope="module", params=METHODS)
def whole(world, request):
    """An unbroken loop of every method that there is."""
    return Whole(world, world / request.param, *SMALL[request.param])


def test_a_loop_that_dies_at_a_change_of_the_disk_and_again_at_any_time(whole, tmp_path):
    """Also right after it went on."""
    died = 0
    for number in range(TIMES):
        draw = random.Random(f"change {number}")
        first = {"at": draw.randint(1, whole.changes * 9 // 10)}
        died += whole.breaks_off(tmp_path / "loop", first, {"after": draw.uniform(0, whole.seconds / 2)})
    print(f"{died} kills")
    assert died >= TIMES, "at a change of the disk every loop dies"


@pytest.mark.skipif(TIMES == 1, reason="part of make fuzz")
def test_a_loop_that_dies_again_and_again(whole, tmp_path):
    died = 0
    for number in range(TIMES):
        draw = random.Random(f"again {number}")
        ways = [{"after": draw.uniform(0, whole.seconds)}, {"at": draw.randint(1, whole.changes // 4)}]
        died += whole.breaks_off(tmp_path / "loop", *ways, {"after": draw.uniform(0, whole.seconds / 2)})
    print(f"{died} kills")
    assert died >= TIMES


@pytest.mark.skipif(TIMES == 1, reason="part of make fuzz")
def test_a_loop_whose_recipe_changed_dies_while_it_does_again_what_changed(world, tmp_path):
    """What is left of the first recipe, of another method too, is never taken for a part of the second."""
    other = ("train.learning_rate=0.02", "merge.keep=1", "rounds=1", *SMALL["rlaif_v"])
    first, second = Whole(world, tmp_path / "first"), Whole(world, tmp_path / "second", *other)
    for number in range(TIMES):
        out = tmp_path / "loop"
        assert first.run(out)
        at = random.Random(f"changed {number}").randint(1, second.changes * 9 // 10)
        assert not second.run(out, at=at)
        assert second.run(out)
        assert {name: data for name, data in held(out).items() if _of(name)} == {
            name: data for name, data in second.expected.items() if _of(name)
        }, at
        shutil.rmtree(out)


def _of(name):
    """Whether a file is one that the second loop makes: a round that it does not have stays as it was."""
    return not name.startswith("round-2/") and name not in ("state", "names", "losses")


@pytest.mark.skipif(TIMES == 1, reason="part of make fuzz")
def test_a_loop_with_an_adapter_dies_anywhere(world, tmp_path):
    """Also while the adapter is merged and the merged model is read in another process."""
    lora = ("model.parts={language: lora, projector: lora, vision: frozen}", "model.lora={rank: 2}", "rounds=1")
    whole = Whole(world, tmp_path / "adapter", *lora)
    for number in range(TIMES // 10 + 1):
        out = tmp_path / "loop"
        assert not whole.run(out, at=random.Random(f"adapter {number}").randint(1, whole.changes * 9 // 10))
        assert whole.run(out)
        assert held(out) == whole.expected, number
        shutil.rmtree(out)

"""A loop that SIGKILL ends at chosen changes of the disk and at chosen times ends as if it had not died."""

import random
import shutil
import time

import pytest
from killing import TIMES, killed
from small_loops import held, loop_of, world_of

from sightline.loops.run import run_loop

CSR = (
    "method={name: csr, relevance: scenes, search: {max_new_tokens: 5, max_sentences: 2, candidates: 3, batch_size: 2, "
    "junk: keep}}"
)
METHODS = {"self_rewarding": (), "csr": (CSR,)}


@pytest.fixture(scope="module", params=METHODS)
def whole(tmp_path_factory, request):
    """A world, the files of an unbroken loop in it, how many changes it made, how long it took, what its recipe has."""
    overrides = METHODS[request.param]
    world = world_of(tmp_path_factory.mktemp("world"))
    out = world / "whole"
    began = time.monotonic()
    changes = killed(lambda: run_loop(loop_of(world, out, *overrides), quiet=True), out) - 1
    return world, held(out), changes, time.monotonic() - began, overrides


def same(whole, out):
    """Says which files are not those of the unbroken loop."""
    expected, found = whole[1], held(out)
    return [name for name in {**expected, **found} if expected.get(name) != found.get(name)]


def break_off(whole, out, *ways):
    """Runs a loop that dies in each of these ways, and then to its end."""
    world = whole[0]
    for way in [*ways, {}]:
        killed(lambda: run_loop(loop_of(world, out, *whole[4]), quiet=True), out, **way)
    assert not same(whole, out), ways
    shutil.rmtree(out)


def test_a_loop_that_dies_at_a_change_of_the_disk(whole, tmp_path):
    for number in range(TIMES):
        draw = random.Random(f"change {number}")
        break_off(whole, tmp_path / "loop", {"at": draw.randint(1, whole[2])})


def test_a_loop_that_dies_again_and_again(whole, tmp_path):
    """At whatever moment, also right after it went on."""
    for number in range(TIMES):
        draw = random.Random(f"again {number}")
        ways = [{"after": draw.uniform(0, whole[3])}, {"at": draw.randint(1, whole[2] // 4)}]
        break_off(whole, tmp_path / "loop", *ways, {"after": draw.uniform(0, whole[3] / 2)})


@pytest.mark.skipif(TIMES == 1, reason="part of make fuzz")
def test_a_loop_whose_recipe_changed_dies_while_it_does_again_what_changed(whole, tmp_path):
    """What is left of the first recipe is never taken for a part of the second."""
    world = whole[0]
    changed = ("train.learning_rate=0.02", "method.sampling.temperature=0.9", "merge.keep=1", "rounds=3")
    other = world / "other"
    changes = killed(lambda: run_loop(loop_of(world, other, *changed), quiet=True), other) - 1
    expected = held(other)
    for number in range(TIMES):
        out = tmp_path / "loop"
        killed(lambda out=out: run_loop(loop_of(world, out), quiet=True), out)
        again = lambda out=out: run_loop(loop_of(world, out, *changed), quiet=True)  # noqa: E731
        at = random.Random(f"changed {number}").randint(1, changes)
        killed(again, out, at=at)
        killed(again, out)
        assert same((world, expected), out) == [], at
        shutil.rmtree(out)


@pytest.mark.skipif(TIMES == 1, reason="part of make fuzz")
def test_a_loop_with_an_adapter_dies_anywhere(whole, tmp_path):
    """Also while the adapter is merged and the merged model is read in another process."""
    world = whole[0]
    lora = ("model.parts={language: lora, projector: lora, vision: frozen}", "model.lora={rank: 2}", "rounds=1")
    out = world / "adapter"
    changes = killed(lambda: run_loop(loop_of(world, out, *lora), quiet=True), out) - 1
    expected = {name: value for name, value in held(out).items() if not name.endswith("README.md")}  # names its place
    for number in range(TIMES // 10):
        one = tmp_path / "loop"
        again = lambda one=one: run_loop(loop_of(world, one, *lora), quiet=True)  # noqa: E731
        killed(again, one, at=random.Random(f"adapter {number}").randint(1, changes))
        killed(again, one)
        found = held(one)
        assert [name for name in expected if found.get(name) != expected[name]] == [], number
        shutil.rmtree(one)

"""A loop that SIGKILL ends at chosen changes of the disk and at chosen times ends as if it had not died."""

import random
import shutil
import time

import pytest
from killing import TIMES, killed
from small_loops import held, loop_of, world_of

from sightline.loops.run import run_loop


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A world, the files of an unbroken loop in it, how many changes it made and how long it took."""
    world = world_of(tmp_path_factory.mktemp("world"))
    out = world / "whole"
    began = time.monotonic()
    changes = killed(lambda: run_loop(loop_of(world, out), quiet=True), out) - 1
    return world, held(out), changes, time.monotonic() - began


def same(whole, out):
    """Says which files are not those of the unbroken loop."""
    expected, found = whole[1], held(out)
    return [name for name in {**expected, **found} if expected.get(name) != found.get(name)]


def break_off(whole, out, *ways):
    """Runs a loop that dies in each of these ways, and then to its end."""
    world = whole[0]
    for way in [*ways, {}]:
        killed(lambda: run_loop(loop_of(world, out), quiet=True), out, **way)
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

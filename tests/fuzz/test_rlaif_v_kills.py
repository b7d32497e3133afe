"""A loop of RLAIF-V that SIGKILL ends at chosen changes of the disk and at chosen times ends as if it had not died."""

import random
import time

import pytest
from killing import TIMES, killed
from small_loops import held, loop_of, world_of

from sightline.loops.run import run_loop

METHOD = (
    "method={name: rlaif_v, sampling: {n: 3, max_new_tokens: 8, batch_size: 1}, claims: {by: scenes}, "
    "questions: {by: scenes}, labeller: {ask: '{question}'}, score: mean, pairs: {min_gap: 0.0}, held_out: 0.3}"
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A world, the files of an unbroken loop in it, how many changes it made and how long it took."""
    world = world_of(tmp_path_factory.mktemp("world"), prompts=8)
    began = time.monotonic()
    changes = (
        killed(lambda: run_loop(loop_of(world, world / "whole", "rounds=1", METHOD), quiet=True), world / "whole") - 1
    )
    return world, held(world / "whole"), changes, time.monotonic() - began


def test_a_loop_that_dies_at_changes_of_the_disk_and_at_any_time(whole, tmp_path):
    world, expected, changes, seconds = whole
    assert "round-1/verdicts.jsonl" in expected and "round-1/model/model.safetensors" in expected
    for number in range(TIMES):
        draw = random.Random(f"rlaif_v {number}")
        out = tmp_path / f"loop-{number}"
        ways = [{"at": draw.randint(1, changes)}, {"after": draw.uniform(0, seconds)}]
        for way in [*ways, {}]:
            killed(lambda out=out: run_loop(loop_of(world, out, "rounds=1", METHOD), quiet=True), out, **way)
        found = held(out)
        assert not [name for name in {**expected, **found} if expected.get(name) != found.get(name)], ways

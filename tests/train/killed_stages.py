"""Started by test_generated_negatives.py: ``killed_stages.py RECIPE SEED KILLS``.

Runs a recipe again and again, each time in a child that kills itself at a moment drawn at random among those at which
something is written, sampled, scored or painted, from whatever thread that is in. After so many kills it runs to the
end. Prints how often a child was killed."""

import os
import random
import signal
import sys
import threading
from pathlib import Path

import torch

from sightline import files
from sightline.data import schema
from sightline.negatives import drawn, prompts
from sightline.recipes.load import load_recipe
from sightline.rollouts.hf import HFEngine
from sightline.train import checkpoint, online, rollout
from sightline.train.loop import train

_LOCK = threading.Lock()


def counted(left):
    """A function that kills this process when it was called so often."""

    def tick():
        with _LOCK:
            left[0] -= 1
            if left[0] <= 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return tick


def watch(tick):
    """Before and after whatever may be broken off half-way."""

    def around(owner, name):
        inner = vars(owner)[name]

        def watched(*args, **kwargs):
            tick()
            made = inner(*args, **kwargs)
            tick()
            return made

        setattr(owner, name, watched)

    around(files, "_flush")
    around(online, "append_groups")
    around(HFEngine, "generate")
    around(rollout.Rollout, "judge")
    around(rollout.Rollout, "paint")
    around(drawn.DrawnScenes, "_made")
    around(checkpoint, "save_file") if "save_file" in vars(checkpoint) else None


def main(path, seed, kills):
    assert schema and prompts
    recipe, rng, killed = load_recipe(path), random.Random(seed), 0
    while True:
        moment = [rng.randint(1, 120) if killed < kills else 10**9]
        child = os.fork()
        if child == 0:
            watch(counted(moment))
            train(recipe, quiet=True)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            killed += 1
            continue
        assert os.WEXITSTATUS(status) == 0, "the child failed"
        print(killed)
        return


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))

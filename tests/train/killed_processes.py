"""Started on two processes by test_processes.py: ``killed_processes.py RECIPE STEP`` runs a recipe, and its main
process kills itself once the step is logged."""

import os
import signal
import sys
from pathlib import Path

import torch

from sightline.recipes.load import load_recipe
from sightline.train.loop import train

if __name__ == "__main__":
    torch.set_num_threads(1)

    def kill(record):
        if record["step"] == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)

    train(load_recipe(Path(sys.argv[1])), quiet=True, on_log=kill)

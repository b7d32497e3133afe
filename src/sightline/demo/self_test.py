"""Everything that a run needs, in seconds, on a tiny model: does this machine compute it right?"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Final

import torch

from sightline.data.render import Renderer
from sightline.data.schema import write_groups
from sightline.models.assemble import TinyLlava
from sightline.models.limits import Limits
from sightline.models.load import hide_loading_bars, load_policy
from sightline.recipes.looking import LookingSpec
from sightline.recipes.schema import DatasetSpec, DataSpec, ModelSpec, Recipe, TrainSpec
from sightline.scenes.world import Scenes
from sightline.train.engine import score_batch
from sightline.train.loop import train
from sightline.types import Edge, Group, LayoutName

BOUND: Final = {"cpu": 1e-4, "cuda": 1e-3}
"""Most nats between the log-probabilities of one token in two layouts, in float32."""
_PAIRS, _STEPS = 8, 2


@dataclass(frozen=True, kw_only=True)
class SelfTest:
    """What was computed, and how far it is from what it should be."""

    device: str
    tokens: int
    """That were scored."""
    gap: float
    """Largest difference of a token's log-probability between the layouts ``tree`` and ``rows``, in nats."""
    losses: tuple[float, ...]
    """Of the steps of DPO. The first is log 2, for nothing is learnt yet."""
    seconds: float

    def faults(self) -> list[str]:
        """What is wrong; empty where all is well."""
        found = []
        if not self.gap <= BOUND[self.device]:  # nor what is not a number
            found.append(f"tree and rows differ by {self.gap:.1e} nats, expected at most {BOUND[self.device]:g}")
        if len(self.losses) != _STEPS or not all(map(math.isfinite, self.losses)):
            found.append(f"the losses of training are {self.losses}, expected {_STEPS} finite ones")
        elif not math.isclose(self.losses[0], math.log(2), abs_tol=1e-3):
            found.append(f"the first loss of DPO is {self.losses[0]:.4f}, expected log 2 = {math.log(2):.4f}")
        return found


def self_test() -> SelfTest:
    """Draws pictures, scores two answers to each with a tiny model in both layouts, and trains it for two steps."""
    hide_loading_bars()
    began, device = time.monotonic(), "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory(prefix="sightline-doctor-") as scratch:
        folder, world = Path(scratch), Scenes(seed=0)
        TinyLlava().build(folder / "model", world.vocabulary(), seed=0)
        groups = list(_pairs(world, folder / "images"))
        write_groups(folder / "pairs.jsonl", groups)
        tree, rows = (_logprobs(folder / "model", groups, layout, device) for layout in ("tree", "rows"))
        losses = list[float]()
        train(_recipe(folder), quiet=True, on_log=lambda record: losses.append(record.get("loss", math.nan)))
    gap = float((tree - rows).abs().max())
    return SelfTest(device=device, tokens=len(rows), gap=gap, losses=tuple(losses), seconds=time.monotonic() - began)


def _pairs(world: Scenes, folder: Path) -> Iterator[Group]:
    """To each picture its caption, and that of another."""
    told = list(world.groups("train", _PAIRS + 1, folder, kinds=("caption",), questions_per_scene=0))
    for group, other in pairwise(told):
        answers = (group.responses[0], replace(other.responses[0], prompt=0))
        yield replace(group, responses=answers, edges=(Edge(winner=0, loser=1),))


def _logprobs(model: Path, groups: list[Group], layout: LayoutName, device: str) -> torch.Tensor:
    """[N], by response and token."""
    policy = load_policy(ModelSpec(path=str(model), layout=layout), trainable=False).to(device)
    renderer = Renderer(policy.processor, policy.family, limits=Limits.of(policy.config))
    batch = score_batch(policy, [renderer.render(group) for group in groups], layout)
    assert batch.old_logprobs is not None
    order = torch.argsort(batch.response, stable=True)
    return batch.old_logprobs[order].double().cpu()


def _recipe(folder: Path) -> Recipe:
    return Recipe(
        name="self test",
        output_dir=str(folder / "run"),
        model=ModelSpec(path=str(folder / "model")),
        algorithm={"name": "dpo", "beta": 0.1},
        reference="copy",
        data=DatasetSpec(train=(DataSpec(path=str(folder / "pairs.jsonl")),)),
        train=TrainSpec(
            batch_size=4,
            max_steps=_STEPS,
            learning_rate=1e-4,
            log_every=1,
            save_every=None,
            looking=LookingSpec(every=0),
        ),
    )

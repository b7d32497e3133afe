"""The built-in world: drawn scenes as data, as a reward and as a benchmark, by one object."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sightline.scenes import language
from sightline.scenes.language import Companion, Kind, Question
from sightline.scenes.scene import COLOURS, SHAPES, SIZES, Scene, SceneObject
from sightline.types import Group, Prompt, Response

Split = Literal["train", "held_out"]
KINDS: tuple[Kind, ...] = ("caption", "presence", "count", "colour", "relation")


def usual_companions() -> dict[str, Companion]:
    """What goes with what in the default world."""
    return {
        "star": Companion(shape="moon", colour="yellow"),
        "heart": Companion(shape="ring", colour="purple"),
        "bolt": Companion(shape="drop", colour="blue"),
    }


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """The world."""

    seed: int = 0
    prior: float = 0.75
    """Probability that a training caption names the absent companion of an object that is there."""
    companions: Mapping[str, Companion] = field(default_factory=usual_companions)
    """Shape to what usually goes with it."""
    context: float = 0.5
    """Share of scenes that are drawn around an object with a companion."""
    together: float = 0.3
    """How often the companion is there, in such a scene."""
    shapes: tuple[str, ...] = tuple(SHAPES)
    colours: tuple[str, ...] = tuple(COLOURS)
    objects: tuple[int, int] = (2, 4)
    """Fewest and most objects of a scene."""
    repeats: float = 0.1
    """Probability that an object has a shape that is there already."""
    sized: float = 0.2
    """Probability that a caption tells the size of an object."""
    grid: int = 3
    pixels: int = 96

    def scene(self, split: Split, index: int) -> Scene:
        attempt = 0
        while True:
            rng = random.Random(f"{self.seed}/{split}/{index}/{attempt}")
            scene = self._draw(rng, f"{split}-{index:06d}")
            if _side(scene) == split:
                return scene
            attempt += 1

    def _draw(self, rng: random.Random, name: str) -> Scene:
        number = rng.randint(*self.objects)
        shapes: list[str] = []
        if rng.random() < self.context:
            shapes.append(rng.choice([s for s in self.shapes if s in self.companions]))
            if rng.random() < self.together:
                shapes.append(self.companions[shapes[0]].shape)
        while len(shapes) < number:
            if shapes and rng.random() < self.repeats:
                shapes.append(rng.choice(shapes))
                continue
            expected = {self.companions[s].shape for s in shapes if s in self.companions}
            shapes.append(rng.choice([s for s in self.shapes if s not in shapes and s not in expected]))
        cells = sorted(rng.sample(range(self.grid**2), number))
        rng.shuffle(shapes)
        items = tuple(self._place(rng, shape, cell) for shape, cell in zip(shapes, cells, strict=True))
        return Scene(id=name, objects=items, grid=self.grid, pixels=self.pixels)

    def _place(self, rng: random.Random, shape: str, cell: int) -> SceneObject:
        return SceneObject(
            shape=shape,
            colour=rng.choice(self.colours),
            size=rng.choice(list(SIZES)),
            row=cell // self.grid,
            column=cell % self.grid,
            shift=(round(rng.uniform(-0.06, 0.06), 3), round(rng.uniform(-0.06, 0.06), 3)),
        )

    def tempting(self, scene: Scene) -> list[str]:
        """Absent companions of what is there."""
        return sorted({self.companions[s].shape for s in scene.shapes if s in self.companions} - scene.shapes)

    def ask(self, scene: Scene, kind: Kind, rng: random.Random) -> Question | None:
        if kind == "caption":
            return language.caption(scene, rng, companions=self.companions, prior=self.prior, sized=self.sized)
        if kind == "presence":
            return language.presence(scene, rng, shapes=self.shapes, tempting=self.tempting(scene))
        if kind == "count":
            return language.count(scene, rng, shapes=self.shapes, colours=self.colours)
        if kind == "colour":
            return language.colour(scene, rng)
        return language.relation(scene, rng)


def _side(scene: Scene) -> Split:
    digest = hashlib.sha256(scene.signature.encode()).digest()
    return "held_out" if digest[0] % 4 == 0 else "train"

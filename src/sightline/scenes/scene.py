"""A drawn scene: exact facts, and the picture made from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from PIL import Image, ImageDraw

Point = tuple[float, float]
Outline = tuple[Point, ...]

COLOURS: Final[dict[str, tuple[int, int, int]]] = {
    "red": (220, 40, 40),
    "green": (40, 160, 70),
    "blue": (45, 90, 220),
    "yellow": (240, 200, 30),
    "purple": (150, 60, 190),
    "black": (30, 30, 30),
}
SIZES: Final[dict[str, float]] = {"small": 0.27, "large": 0.42}
"""Radius of an object as a share of its cell."""
BACKGROUND: Final = (246, 246, 242)
_SUPERSAMPLING: Final = 3


@dataclass(frozen=True, kw_only=True)
class SceneObject:
    """One object: what it is and the cell it stands in."""

    shape: str
    colour: str
    size: str
    row: int
    """Row of its cell, 0 at the top."""
    column: int
    """Column of its cell, 0 at the left."""
    shift: tuple[float, float] = (0.0, 0.0)
    """Right and down from the middle of the cell, as a share of the cell."""

    def facts(self) -> dict[str, Any]:
        """The object as plain JSON."""
        return {
            "shape": self.shape,
            "colour": self.colour,
            "size": self.size,
            "row": self.row,
            "column": self.column,
            "shift": list(self.shift),
        }

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> SceneObject:
        """The object that :meth:`facts` describes."""
        across, down = facts["shift"]
        return cls(
            shape=facts["shape"],
            colour=facts["colour"],
            size=facts["size"],
            row=facts["row"],
            column=facts["column"],
            shift=(across, down),
        )


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Objects on a square grid, in reading order."""

    id: str
    objects: tuple[SceneObject, ...]
    grid: int = 3
    """Cells along each side."""
    pixels: int = 96
    """Side of the picture."""

    @property
    def shapes(self) -> frozenset[str]:
        """The shapes that are there."""
        return frozenset(item.shape for item in self.objects)

    @property
    def signature(self) -> str:
        """What is where, without the shifts: equal signatures are the same scene to a viewer."""
        parts = (f"{o.row},{o.column}:{o.size} {o.colour} {o.shape}" for o in self.objects)
        return ";".join(sorted(parts))

    def facts(self) -> dict[str, Any]:
        """The scene as plain JSON; :meth:`from_facts` turns it back."""
        return {
            "id": self.id,
            "grid": self.grid,
            "pixels": self.pixels,
            "objects": [item.facts() for item in self.objects],
        }

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Scene:
        """The scene that :meth:`facts` describes."""
        return cls(
            id=facts["id"],
            objects=tuple(SceneObject.from_facts(item) for item in facts["objects"]),
            grid=facts["grid"],
            pixels=facts["pixels"],
        )

    def draw(self) -> Image.Image:
        """The picture, RGB, ``pixels`` x ``pixels``."""
        side = self.pixels * _SUPERSAMPLING
        cell = side / self.grid
        image = Image.new("RGB", (side, side), BACKGROUND)
        canvas = ImageDraw.Draw(image)
        for item in self.objects:
            x = (item.column + 0.5 + item.shift[0]) * cell
            y = (item.row + 0.5 + item.shift[1]) * cell
            radius = SIZES[item.size] * cell
            for index, outline in enumerate(SHAPES[item.shape]):
                fill = BACKGROUND if index else COLOURS[item.colour]
                canvas.polygon([(x + radius * u, y + radius * v) for u, v in outline], fill=fill)
        return image.reduce(_SUPERSAMPLING)


def _arc(center: Point, radius: float, start: float = 0.0, stop: float = 360.0) -> Outline:
    """Points of a circular arc, 10 degrees apart, clockwise on the screen from ``start`` to ``stop``."""
    steps = max(2, round(abs(stop - start) / 10))
    angles = [math.radians(start + (stop - start) * k / steps) for k in range(steps + 1)]
    return tuple((center[0] + radius * math.cos(a), center[1] + radius * math.sin(a)) for a in angles)


def _star(points: int, inner: float) -> Outline:
    """A star with one point up."""
    radii = [1.0, inner] * points
    angles = [math.pi * k / points - math.pi / 2 for k in range(2 * points)]
    return tuple((r * math.cos(a), r * math.sin(a)) for r, a in zip(radii, angles, strict=True))


def _heart() -> Outline:
    turns = [2 * math.pi * k / 36 for k in range(36)]
    return tuple(
        (
            math.sin(t) ** 3,
            -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 17,
        )
        for t in turns
    )


def _cross(arm: float) -> Outline:
    corners = ((-arm, -1), (arm, -1), (arm, -arm), (1, -arm), (1, arm), (arm, arm))
    return tuple((float(x), float(y)) for x, y in (*corners, *((-x, -y) for x, y in corners)))


SHAPES: Final[dict[str, tuple[Outline, ...]]] = {
    "circle": (_arc((0, 0), 0.95),),
    "square": (((-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)),),
    "triangle": (((0, -1), (0.95, 0.8), (-0.95, 0.8)),),
    "diamond": (((0, -1), (0.65, 0), (0, 1), (-0.65, 0)),),
    "star": (_star(5, 0.42),),
    "moon": ((*_arc((0, 0), 1.0, 51.3, 308.7), *_arc((0.45, 0), 0.8, 282.6, 77.4)),),
    "heart": (_heart(),),
    "ring": (_arc((0, 0), 1.0), _arc((0, 0), 0.55)),
    "cross": (_cross(0.33),),
    "arrow": (((-1, -0.3), (0.1, -0.3), (0.1, -0.9), (1, 0), (0.1, 0.9), (0.1, 0.3), (-1, 0.3)),),
    "bolt": (((0.35, -1), (-0.65, 0.15), (-0.05, 0.15), (-0.35, 1), (0.65, -0.25), (0.1, -0.25)),),
    "drop": (((0, -1), *_arc((0, 0.3), 0.68, -30, 210)),),
}
"""Outlines in units of the radius, x right and y down. The first is filled with the object's colour,
any further one is a hole."""

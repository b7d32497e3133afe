"""Pictures made to order: what is ordered, who makes it, and the folder that keeps what was made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from sightline.data.picture import read_picture
from sightline.files import replacing

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """One picture."""

    text: str
    """What it shows; of ``edit`` what is to be changed."""
    seed: int
    picture: str | None = None
    """Path of the picture that is changed; None: there is none."""
    box: Box | None = None
    """What is painted anew of it; None: all."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """What it is for, as a service may write it down. Changes no picture."""


@dataclass(frozen=True, kw_only=True)
class Unpainted:
    """Why there is no picture."""

    reason: str


Painted = tuple[int, Image.Image | Unpainted]
"""Number of the order, and what came of it."""


class Painter(Protocol):
    """Makes pictures."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """All that a picture depends on beside its order. Plain JSON."""
        ...

    @property
    def together(self) -> int:
        """Orders that are made as one, so that a picture may depend on its company in the last digit; 0: each by
        itself."""
        ...

    def paint(self, orders: Sequence[Order]) -> Iterator[Painted]:
        """Each as soon as it is there, in any order.

        Raises:
            DataError: what would fail for every order.
        """
        ...

    def give_up(self) -> None:
        """Called from another thread: ``paint`` waits for nothing more, and what is left fails."""
        ...


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """A folder of made pictures, named by all that they depend on: one that is there is not made again."""

    painter: Painter
    folder: Path

    def paint(self, orders: Sequence[Order]) -> list[str | Unpainted]:
        """Paths of the pictures, or why there is none; each is on the disk as soon as it is made.

        Orders that are made together keep their company, so that a run that was killed paints what it would have
        painted.
        """
        files = [self.folder.absolute() / f"painted-{self._key(order)}.png" for order in orders]
        size, failed = self.painter.together or max(1, len(orders)), dict[int, Unpainted]()
        for start in range(0, len(orders), size):
            places = range(start, min(start + size, len(orders)))
            missing = [place for place in places if not files[place].exists()]
            wanted = list(places) if missing and self.painter.together else missing
            for number, made in self.painter.paint([orders[place] for place in wanted]) if wanted else ():
                place = wanted[number]
                if why := self._kept(files[place], made, orders[place]):
                    failed[place] = why
        return [
            str(file) if file.exists() else failed.get(place, Unpainted(reason="the painter gave no picture"))
            for place, file in enumerate(files)
        ]

    def _kept(self, file: Path, made: Image.Image | Unpainted, order: Order) -> Unpainted | None:
        """Puts a picture on the disk; gives why it is none that could be a negative."""
        if isinstance(made, Unpainted):
            return made
        if why := _unfit(made, order):
            return Unpainted(reason=why)
        if not file.exists():
            with replacing(file) as aside:
                made.save(aside, format="PNG", compress_level=1)
        return None

    def _key(self, order: Order) -> str:
        source = "" if order.picture is None else hashlib.blake2b(Path(order.picture).read_bytes()).hexdigest()
        parts = [dict(self.painter.settings), order.text, order.seed, source, order.box]
        return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()


def _unfit(made: Image.Image, order: Order) -> str:
    """What is no negative whatever it was to show; empty where it may be one."""
    if all(low == high for low, high in _extremes(made)):
        return "the picture is of one colour"
    if order.picture is not None:
        before = read_picture(order.picture)
        if before.size == made.size and before.tobytes() == made.tobytes():
            return "the picture is unchanged"
    return ""


def _extremes(picture: Image.Image) -> list[tuple[int, int]]:
    """Least and greatest value of each channel."""
    return [channel.getextrema() for channel in picture.convert("RGB").split()]  # type: ignore[misc]

"""The same question about a picture that its answer is not about."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sightline.data.readers.rows import RowError
from sightline.errors import RecipeError
from sightline.files import replacing
from sightline.negatives.pictures import blank, crop, noise, patches, unlike
from sightline.negatives.same import is_white, opened, same_picture
from sightline.recipes.schema import NegativeSpec
from sightline.types import Group, Message, Prompt

_SMALL = (64, 64)
_Make = Callable[[Image.Image, str], Image.Image]
"""(picture, text that seeds the draw) -> picture."""


@dataclass(frozen=True, kw_only=True)
class Negatives:
    """Makes negative prompts by one rule. Thread-safe; processes may make the same picture at the same time.

    What is drawn depends on the seed, the id of the prompt and the place of the picture in it, and on nothing else.
    Made pictures are files named by all they depend on, the bytes of their source included, so that a file that is
    there is the one that is wanted.
    """

    spec: NegativeSpec
    folder: Path
    """Where made pictures are written, as PNG."""
    seed: int = 0
    others: Mapping[str, str] = field(default_factory=dict)
    """For ``other``: the counterpart of each picture; see :func:`counterparts`."""

    def prompt(self, prompt: Prompt, siblings: Sequence[Prompt] = ()) -> Prompt:
        """The question about its negative picture.

        Args:
            prompt: with at least one picture.
            siblings: for ``column``: prompts of the same group that bear no answer.

        Raises:
            RowError: no picture to replace, none in the column, or one that cannot be read.
        """
        if not prompt.images:
            raise RowError(
                "missing image",
                f"prompt {prompt.id!r} has no picture, and its row is to be compared under another one",
                remedy="Move rows without pictures to a source without visual",
            )
        if self.spec.kind == "column":
            return _of_column(prompt, siblings)
        chosen = _chosen(len(prompt.images), self.spec.replace)
        if self.spec.kind == "none":
            kept = tuple(path for place, path in enumerate(prompt.images) if place not in chosen)
            messages = without_pictures(prompt.messages, chosen)
            return replace(prompt, id=f"{prompt.id}/none", messages=messages, images=kept)
        images = tuple(
            self._picture(path, f"{self.seed}:{prompt.id}:{place}") if place in chosen else path
            for place, path in enumerate(prompt.images)
        )
        return replace(prompt, id=f"{prompt.id}/{self.spec.kind}", images=images)

    def _picture(self, path: str, draw: str) -> str:
        spec = self.spec
        if spec.kind == "other":
            return self.others[path]
        if spec.kind == "blank":
            size, dark = (_SMALL if spec.size == "small" else opened(path).size), _white(path)
            name = "black" if dark else "blank"
            return self._kept(f"{name}-{size[0]}x{size[1]}.png", lambda: blank(size, dark=dark))
        if spec.kind == "crop":
            return self._made(path, f"{draw}:{spec.area}", lambda p, d: crop(p, random.Random(d), spec.area))
        if spec.kind == "patches":
            how = (spec.patch, spec.share)
            return self._made(path, f"{draw}:{how}", lambda p, d: patches(p, _generator(d), *how))
        return self._made(path, f"{draw}:{spec.step}", lambda p, d: noise(p, _generator(d), spec.step))

    def _made(self, path: str, draw: str, make: _Make) -> str:
        try:
            content = hashlib.blake2b(Path(path).read_bytes(), digest_size=16).hexdigest()
        except OSError as error:
            raise _unreadable(path, error) from error
        name = hashlib.blake2b(f"{self.spec.kind}:{draw}:{content}".encode(), digest_size=16).hexdigest()

        def differing() -> Image.Image:
            picture = opened(path)
            return unlike(make(picture, f"{self.spec.kind}:{draw}"), picture)

        return self._kept(f"{self.spec.kind}-{name}.png", differing)

    def _kept(self, name: str, make: Callable[[], Image.Image]) -> str:
        """The path of a file, made as a whole if it is not there."""
        file = self.folder.absolute() / name
        if not file.exists():
            with replacing(file) as aside:
                make().save(aside, format="PNG", compress_level=1)
        return str(file)


def counterparts(groups: Sequence[Group], seed: int) -> dict[str, str]:
    """Another picture for each picture of ``groups``: its successor in an order shuffled by ``seed``.

    No picture is its own counterpart, nor has one of the same pixels; each is the counterpart of one other, as long
    as no two files have the same pixels.

    Raises:
        RecipeError: fewer than two different pictures.

    >>> pictures = [Group(prompts=(Prompt(id=p, messages=(), images=(p,)),)) for p in ("no-a.png", "no-b.png")]
    >>> counterparts(pictures, seed=0)
    {'no-a.png': 'no-b.png', 'no-b.png': 'no-a.png'}
    """
    found = dict.fromkeys(path for group in groups for prompt in group.prompts for path in prompt.images)
    order = list(found)
    random.Random(seed).shuffle(order)
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # pictures of equal size are decoded to be told apart
        same = list(pool.map(same_picture, order, [*order[1:], *order[:1]]))
    following: dict[str, str] = {}
    for place, path in enumerate(order):
        after = (order[(place + step) % len(order)] for step in range(1, len(order)))
        if same[place]:
            other = next((candidate for candidate in after if not same_picture(path, candidate)), None)
        else:
            other = next(after)
        if other is None:
            raise RecipeError(
                "negative.kind other takes a picture of another row, and all rows have the same picture "
                f"({path}). Choose another kind."
            )
        following[path] = other
    return {path: following[path] for path in found}


def _of_column(prompt: Prompt, siblings: Sequence[Prompt]) -> Prompt:
    fitting = [other for other in siblings if other.messages == prompt.messages and other.images != prompt.images]
    if len(fitting) != 1:
        raise RowError(
            "missing image",
            f"prompt {prompt.id!r} comes with {len(fitting)} negative pictures, expected one",
            remedy="Give the row a second picture (rejected_images; two images beside one <image>), or choose "
            "another negative.kind",
        )
    if all(same_picture(one, other) for one, other in zip(prompt.images, fitting[0].images, strict=True)):
        raise RowError(
            "chosen equals rejected",
            f"prompt {prompt.id!r}: the negative picture {fitting[0].images[0]} has the pixels of its own",
            remedy="Give the row another picture, leave it out, or choose another negative.kind",
        )
    return fitting[0]


def _chosen(count: int, which: str) -> range:
    """Places of the pictures that are replaced."""
    return {"all": range(count), "first": range(1), "last": range(count - 1, count)}[which]


def without_pictures(messages: Sequence[Message], places: range) -> tuple[Message, ...]:
    """The messages without their picture parts at ``places``, counted over all messages."""
    seen = 0
    kept: list[Message] = []
    for message in messages:
        content = message["content"]
        parts: list[Any] = []
        for part in [] if isinstance(content, str) else content:
            is_picture = part["type"] == "image"
            if not (is_picture and seen in places):
                parts.append(part)
            seen += is_picture
        kept.append(message if isinstance(content, str) else {**message, "content": parts})
    return tuple(kept)


def _generator(draw: str) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.blake2b(draw.encode(), digest_size=8).digest(), "big"))


def _white(path: str) -> bool:
    try:
        return is_white(path)
    except (OSError, SyntaxError, ValueError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str, error: Exception) -> RowError:
    return RowError("broken image", f"picture {path} cannot be read ({error})", remedy="Restore the file")

"""Questions that no round asks: the round is chosen by them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from sightline.errors import DataError
from sightline.types import Group

_WHOLE = 2**64


def in_training(prompts: Sequence[Group], share: float | None) -> list[Group]:
    """Those that rounds ask: none of their pictures is held out. None: all.

    Raises:
        DataError: There are none, or a picture cannot be read.
    """
    return _those(prompts, share, held=False)


def held_out(prompts: Sequence[Group], share: float | None) -> list[Group]:
    """Those that the round is chosen by: all of their pictures are held out. None: all, for a file of nothing else.

    A picture is held out by a hash of its file alone, whatever is beside it; prompts with pictures of both kinds are on
    no side.

    Raises:
        DataError: As :func:`in_training`.
    """
    return _those(prompts, share, held=True)


def _those(prompts: Sequence[Group], share: float | None, *, held: bool) -> list[Group]:
    if share is None:
        return list(prompts)
    is_out = cache(lambda path: _is_out(path, share))
    found = [
        group for group in prompts if {is_out(path) for prompt in group.prompts for path in prompt.images} == {held}
    ]
    if not found:
        raise DataError(
            f"held_out: {share:g} leaves none of {len(prompts)} prompts to {'choose a round by' if held else 'ask'}",
            remedy="Give another share, or more prompts with other pictures",
        )
    return found


def _is_out(path: str, share: float) -> bool:
    try:
        drawn = hashlib.blake2b(Path(path).read_bytes(), digest_size=8, person=b"held out").digest()
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", source=path, remedy="Correct the path") from error
    return int.from_bytes(drawn, "big") < share * _WHOLE

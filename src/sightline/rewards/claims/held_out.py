"""Questions that no round asks: the round is chosen by them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from sightline.data.split import held_out_places
from sightline.errors import DataError
from sightline.types import Group

_SEED = 0
"""Fixed, so that who trains and who examines hold out the same."""


def in_training(prompts: Sequence[Group], share: float | None) -> list[Group]:
    """Those that rounds ask; None: all.

    Raises:
        DataError: all would be on one side, or a picture cannot be read.
    """
    if share is None:
        return list(prompts)
    return [group for group, out in zip(prompts, _places(prompts, share), strict=True) if not out]


def held_out(prompts: Sequence[Group], share: float | None) -> list[Group]:
    """The others; None: all, for a file that holds nothing else.

    Raises:
        DataError: see :func:`in_training`.
    """
    if share is None:
        return list(prompts)
    return [group for group, out in zip(prompts, _places(prompts, share), strict=True) if out]


def _places(prompts: Sequence[Group], share: float) -> list[bool]:
    digests: dict[str, bytes] = {}
    paths = dict.fromkeys(path for group in prompts for prompt in group.prompts for path in prompt.images)
    for path in paths:
        try:
            digests[path] = hashlib.sha256(Path(path).read_bytes()).digest()
        except OSError as error:
            raise DataError(f"cannot be read ({error.strerror})", source=path, remedy="Correct the path") from error
    keys = [[digests[path] for prompt in group.prompts for path in prompt.images] for group in prompts]
    try:
        return held_out_places(keys, share, _SEED)
    except DataError as error:
        found = error.found.replace("data.validation:", "held_out:").replace("rows", "prompts")
        raise DataError(found, remedy="Give another share, or more prompts") from error

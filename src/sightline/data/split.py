"""A part of the rows that is held out, so that no picture is on both sides."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from sightline.errors import DataError

_WHOLE = 2**64


def held_out_places(keys: Sequence[Sequence[bytes]], share: float, seed: int) -> list[bool]:
    """Which rows are held out.

    Rows that have a key in common, directly or through others, stay together: they are held out where a hash of the
    least of all their keys says so. So a row's side depends on nothing but what it is joined with, and more rows beside
    it do not change it.

    Args:
        keys: of each row: digests of its pictures, or of its question where it has none.
        share: of the hashes that are held out, in (0, 1).
        seed: of the hash.

    Raises:
        DataError: all rows would be on one side.

    >>> held_out_places([(b"a",), (b"a", b"b"), (b"b",), (b"c",), (b"d",)], share=0.5, seed=1)
    [True, True, True, False, False]
    """
    roots: dict[bytes, bytes] = {}

    def root(key: bytes) -> bytes:
        top = key
        while (above := roots.setdefault(top, top)) != top:
            top = above
        while roots[key] != top:
            roots[key], key = top, roots[key]
        return top

    for some in keys:
        least, *others = sorted({root(key) for key in some})
        for other in others:
            roots[other] = least
    sides: dict[bytes, bool] = {}
    found = []
    for some in keys:
        top = root(some[0])
        if top not in sides:
            drawn = hashlib.blake2b(f"{seed}:".encode() + top, digest_size=8).digest()
            sides[top] = int.from_bytes(drawn, "big") < share * _WHOLE
        found.append(sides[top])
    if all(found) or not any(found):
        raise DataError(
            f"data.validation: {share:g} holds out {sum(found)} of {len(found)} rows, which are {len(sides)} sets of "
            "rows that share no picture; expected some rows on both sides",
            remedy="Give another share, more rows, or name rows of their own under data.eval",
        )
    return found

"""Pictures by what is in them: decoded pixels tell copies under other names, a coarse gradient tells resized ones."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from sightline.data.inspect.figures import Finding, Found, Spread, spread
from sightline.data.picture import picture_size, read_picture
from sightline.errors import DataError
from sightline.types import Group

SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".qoi", ".dds")
)
"""Of files that are taken for pictures where a folder is searched."""
SIDE = 16
"""Rows and columns of the gradient."""
SIMILAR = 20
"""Bits of 256 by which the gradients of copies differ at most. Of 87 photographs and drawings, 87 saved as JPEG at
quality 30 and 86 shrunk to a third differed by 21 at most; two different ones by 100 in the median, by less than 42 in
one of a hundred pairs, which were maps with another country marked."""
_STEP = 4
"""Grey values that do not count as a difference: what is plain stays plain under JPEG."""
_FLAT = 12
"""Least range of grey values whose gradient says anything."""
_AHEAD = 256
"""Pictures that are decoded before the first of them is taken."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """What one look at a picture tells."""

    path: str
    width: int = 0
    height: int = 0
    pixels: bytes | None = None
    """Digest of the upright picture in RGB; None: it cannot be read, or was not decoded."""
    gradient: bytes | None = None
    """256 bits: whether each of 16 x 16 cells is clearly lighter than its left neighbour; None: a plain area."""
    fault: str = ""
    """Why it cannot be read."""


def look_at(path: str, *, decode: bool = True) -> Look:
    """Opens a picture; never raises for one that is missing or broken."""
    try:
        if not decode:
            height, width = picture_size(path)
            return Look(path=path, width=width, height=height)
        picture = read_picture(path)
    except DataError as error:
        return Look(path=path, fault=error.found)
    digest = hashlib.blake2b(repr(picture.size).encode(), digest_size=16)
    digest.update(picture.tobytes())
    return Look(
        path=path,
        width=picture.width,
        height=picture.height,
        pixels=digest.digest(),
        gradient=difference_hash(picture),
    )


def difference_hash(picture: Image.Image) -> bytes | None:
    """The signs of horizontal differences of a coarse grey version (``Look.gradient``): approximate, and blind to what
    mirrors, turns or crops."""
    grey = np.asarray(picture.convert("L").resize((SIDE + 1, SIDE), Image.Resampling.BOX), dtype=np.int16)
    if int(grey.max()) - int(grey.min()) < _FLAT:
        return None
    return np.packbits(grey[:, 1:] > grey[:, :-1] + _STEP).tobytes()


def look_at_all(
    paths: Iterable[str], tell: Callable[[int], None] = lambda done: None, *, decode: bool = True
) -> Iterator[Look]:
    """Looks in the order of the paths, in as many threads as there are cores; a few pictures are in memory at a time.

    Args:
        paths: distinct ones.
        tell: called with how many are done.
        decode: False: sizes alone.
    """
    done, left = 0, iter(paths)
    with ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="look") as pool:
        while some := list(itertools.islice(left, _AHEAD)):
            for look in pool.map(lambda path: look_at(path, decode=decode), some):
                done += 1
                tell(done)
                yield look


def similar(wanted: Sequence[bytes], known: Sequence[bytes]) -> dict[int, int]:
    """Place in ``wanted`` to the place in ``known`` of the nearest gradient, where they differ by ``SIMILAR`` bits or
    less."""
    if not wanted or not known:
        return {}
    own, others = (_signs(gradients) for gradients in (wanted, known))
    found, step = {}, max(1, 2**22 // len(others))
    for start in range(0, len(own), step):
        agree = own[start : start + step] @ others.T  # equal bits minus different ones
        nearest = agree.argmax(1)
        alike = agree[np.arange(len(agree)), nearest] >= SIDE * SIDE - 2 * SIMILAR
        for place in np.flatnonzero(alike).tolist():
            found[start + place] = int(nearest[place])
    return found


def _signs(gradients: Sequence[bytes]) -> np.ndarray:
    """[n,256]: 1 for a bit, -1 for none."""
    bits = np.unpackbits(np.frombuffer(b"".join(gradients), dtype=np.uint8).reshape(len(gradients), -1), axis=1)
    return bits.astype(np.float32) * 2 - 1


# --- of a data set ------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class PictureFigures:
    """The pictures of all rows."""

    files: int
    """Distinct paths."""
    decoded: bool = True
    """Whether pixels were looked at."""
    distinct: int = 0
    """By pixels, of those that can be read."""
    sharing: Found = field(default_factory=Found)
    """Rows with a picture, by its pixels, that another row has."""
    copies: tuple[tuple[str, ...], ...] = ()
    """Paths of the same pixels, the largest families first: a few of them."""
    copied: int = 0
    """Paths whose pixels another path has."""
    broken: Found = field(default_factory=Found)
    """Rows whose picture fails when it is decoded, though its file looked whole."""
    unused: Found = field(default_factory=Found)
    """Picture files beside those that are used, which no row names."""
    width: Spread | None = None
    height: Spread | None = None
    megapixels: Spread | None = None


_FAMILIES = 5
_COPIES = 4


def picture_figures(
    groups: Sequence[Group], looks: Mapping[str, Look], *, used: Collection[str], decoded: bool
) -> PictureFigures:
    """
    Args:
        groups: as the data have them.
        looks: by path, of every picture of the groups.
        used: pictures on disk that any row names; what lies beside them is unused.
        decoded: whether these looks decoded.
    """
    rows, broken, sharing = Counter[bytes](), Finding(), Finding()
    for group in groups:
        rows.update(_pixels(group, looks))
    for group in groups:
        faults = [looks[path].fault for prompt in group.prompts for path in prompt.images if looks[path].fault]
        if faults:
            broken.add(f"{group.source}: {faults[0]}")
        if any(rows[pixels] > 1 for pixels in _pixels(group, looks)):
            sharing.add(group.source)
    families = defaultdict[bytes, list[str]](list)
    for look in looks.values():
        if look.pixels is not None:
            families[look.pixels].append(look.path)
    copies = sorted((family for family in families.values() if len(family) > 1), key=len, reverse=True)
    whole = [look for look in looks.values() if not look.fault]
    return PictureFigures(
        files=len(looks),
        decoded=decoded,
        distinct=len(families),
        sharing=sharing.found(),
        copies=tuple(tuple(family[:_COPIES]) for family in copies[:_FAMILIES]),
        copied=sum(map(len, copies)),
        broken=broken.found(),
        unused=_unused(used),
        width=spread([look.width for look in whole]),
        height=spread([look.height for look in whole]),
        megapixels=spread([look.width * look.height / 1e6 for look in whole]),
    )


def _pixels(group: Group, looks: Mapping[str, Look]) -> set[bytes]:
    found = (looks[path].pixels for prompt in group.prompts for path in prompt.images)
    return {pixels for pixels in found if pixels is not None}


def _unused(paths: Iterable[str]) -> Found:
    """Only folders that hold a used picture are searched, not those below them."""
    used = {Path(path).absolute() for path in paths}
    unused = Finding()
    for folder in sorted({path.parent for path in used}):
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.suffix.lower() in SUFFIXES and path not in used:
                unused.add(str(path))
    return unused.found()

"""Pictures at http and https addresses, fetched once into a folder."""

from __future__ import annotations

import hashlib
import io
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from PIL import Image

from sightline.data.picture import UNREADABLE
from sightline.files import replace_file

_CHUNK = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of one download."""

    most_bytes: int = 20_000_000
    """Largest picture file."""
    seconds: float = 30.0
    """Longest time for one picture, connection included."""
    workers: int = 8
    """Downloads at a time."""


@dataclass(kw_only=True)
class Cache:
    """A folder of fetched pictures, each named by its address: what is there is not fetched again."""

    folder: Path
    wanted: dict[str, Path] = field(default_factory=dict)
    """Address to file, of all pictures that rows named."""

    def path(self, address: str) -> str:
        """Where the picture of an address lies, or will lie."""
        suffix = PurePosixPath(urlsplit(address).path).suffix.lower()
        suffix = suffix if suffix[1:].isalnum() and len(suffix) <= 5 else ".image"
        name = hashlib.blake2b(address.encode(), digest_size=16).hexdigest()
        return str(self.wanted.setdefault(address, self.folder.absolute() / f"{name}{suffix}"))

    def fetch(self, limits: Limits, done: Callable[[int], None]) -> dict[str, str]:
        """Fetches what is wanted and not there; ``done`` is told how many of these are through.

        Returns:
            For each address that gave no picture, why.
        """
        missing = [(address, path) for address, path in self.wanted.items() if not path.is_file()]
        with ThreadPoolExecutor(limits.workers) as pool:
            faults: dict[str, str] = {}
            found = pool.map(lambda one: _fetched(one[0], one[1], limits), missing)
            for count, ((address, _), fault) in enumerate(zip(missing, found, strict=True), start=1):
                done(count)
                if fault:
                    faults[address] = fault
        return faults


def _fetched(address: str, path: Path, limits: Limits) -> str:
    """Downloads one picture to its place; returns what went wrong, or an empty text."""
    try:
        data = _download(address, limits)
        with Image.open(io.BytesIO(data)) as picture:
            picture.verify()
    except (OSError, HTTPException, ValueError, *UNREADABLE) as error:
        return f"{type(error).__name__}: {error}"
    replace_file(path, data)
    return ""


def _download(address: str, limits: Limits) -> bytes:
    until = time.monotonic() + limits.seconds
    request = urllib.request.Request(address, headers={"User-Agent": "sightline"})
    parts: list[bytes] = []
    size = 0
    with urllib.request.urlopen(request, timeout=limits.seconds) as response:
        while chunk := response.read1(_CHUNK):
            size += len(chunk)
            if size > limits.most_bytes:
                raise ValueError(f"more than {limits.most_bytes} bytes")
            if time.monotonic() > until:
                raise TimeoutError(f"not whole after {limits.seconds:g} s")
            parts.append(chunk)
        announced = response.headers.get("Content-Length")
    if announced is not None and announced.isdigit() and int(announced) != size:
        raise ValueError(f"{size} of {announced} bytes came")
    return b"".join(parts)

"""What changes a model's answers: what its files hold, by a short name, and what it is asked beyond them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

from sightline.recipes.schema import ModelSpec

_SMALL: Final = ("*config.json", "tokenizer.json", "chat_template.*")
"""Files that change answers and are read whole."""
_TOKENIZER: Final = ("vocab.*", "merges.txt", "*.model", "added_tokens.json", "special_tokens_map.json")
"""The same of a folder without ``tokenizer.json``, which holds all of it."""
_WEIGHTS: Final = ("*.safetensors", "*.bin")
_WHOLE: Final = 64 << 20
"""Bytes of the largest file of weights that is read whole."""
_SAMPLE: Final = 4096
"""Bytes read of each tensor of a larger one: training moves every number of what it trains."""
_PLAIN: Final = ModelSpec(path="")
_BEYOND: Final = ("quantization", "image_size", "pictures")
_PIECES: Final = 256
"""Samples of a weights file whose tensors cannot be told apart."""


def fingerprint_files(path: str | Path) -> str:
    """Identity of the weights, settings, tokenizer and template in a folder; of a file of weights beyond 64 MiB a
    beginning of each tensor is read.

    A name on the hub, which is no folder, stands for itself.
    """
    folder = Path(path)
    if not folder.is_dir():
        return str(path)
    digest = hashlib.sha256()
    small = _SMALL if (folder / "tokenizer.json").is_file() else (*_SMALL, *_TOKENIZER)
    for file in sorted({file for pattern in small for file in folder.glob(pattern)}):
        digest.update(file.name.encode() + file.read_bytes())
    for file in sorted({file for pattern in _WEIGHTS for file in folder.glob(pattern)}):
        size = file.stat().st_size
        digest.update(f"{file.name}{size}".encode())
        with file.open("rb") as opened:
            if size <= _WHOLE:
                digest.update(opened.read())
                continue
            for start in _starts(opened, file):
                opened.seek(start)
                digest.update(opened.read(_SAMPLE))
    return digest.hexdigest()[:16]


def _starts(opened: BinaryIO, file: Path) -> Iterator[int]:
    """Where to read: the header and the first bytes of each tensor of a safetensors file; else at even distances."""
    size = file.stat().st_size
    length = int.from_bytes(opened.read(8), "little") if file.suffix == ".safetensors" else size
    if length < size:
        header = json.loads(opened.read(length))
        yield 0
        yield from sorted(8 + length + tensor["data_offsets"][0] for name, tensor in header.items() if name[:2] != "__")
        return
    yield from (size * piece // _PIECES for piece in range(_PIECES))


def asked_beyond(spec: ModelSpec) -> dict[str, Any]:
    """What of quantisation and pictures is not the default, for files of settings: it changes numbers."""
    found = {name: vars(spec)[name] for name in _BEYOND if vars(spec)[name] != vars(_PLAIN)[name]}
    if "pictures" in found:
        found["pictures"] = spec.pictures.given()
    return found

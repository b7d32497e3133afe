"""Pictures with random damage: each is read whole, or is a bad row; at the latest when it is decoded.

``SIGHTLINE_FUZZ`` multiplies the number of pictures (``make fuzz``).
"""

from __future__ import annotations

import io
import os
import random
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from sightline.data.picture import picture_size, read_picture
from sightline.data.readers.pictures import Pictures
from sightline.data.readers.rows import RowError
from sightline.data.render import Renderer
from sightline.data.validate import PictureFiles
from sightline.errors import DataError
from sightline.models.load import load_policy
from sightline.recipes.schema import ModelSpec
from tiny_models import FAMILIES

FACTOR = int(os.environ.get("SIGHTLINE_FUZZ", "1"))
PICTURES = 100 * FACTOR
FORMATS = {
    "jpeg": ("JPEG", "RGB", {"quality": 80}),
    "progressive": ("JPEG", "RGB", {"progressive": True}),
    "cmyk": ("JPEG", "CMYK", {}),
    "png": ("PNG", "RGB", {}),
    "palette": ("PNG", "P", {}),
    "sixteen": ("PNG", "I;16", {}),
    "webp": ("WEBP", "RGB", {}),
    "gif": ("GIF", "P", {}),
    "tiff": ("TIFF", "RGB", {"compression": "tiff_lzw"}),
    "bmp": ("BMP", "RGB", {}),
    "avif": ("AVIF", "RGB", {}),
    "qoi": ("QOI", "RGB", {}),
    "dds": ("DDS", "RGBA", {}),
    "blp": ("BLP", "P", {}),
    "ico": ("ICO", "RGBA", {"sizes": [(32, 24)]}),
    "jpeg2000": ("JPEG2000", "RGB", {}),
    "tga": ("TGA", "RGB", {}),
    "ppm": ("PPM", "RGB", {}),
    "pcx": ("PCX", "RGB", {}),
    "sgi": ("SGI", "RGB", {}),
}


def encoded() -> dict[str, bytes]:
    """A small photograph-like picture in every format that this Pillow writes."""
    pixels = np.random.default_rng(0).integers(0, 255, (24, 32, 3)).cumsum(0).astype(np.uint8)
    made = {}
    for name, (kind, mode, options) in FORMATS.items():
        if name == "avif" and not features.check("avif"):
            continue
        picture = Image.fromarray(pixels)
        picture = Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 200) if mode == "I;16" else picture.convert(mode)
        out = io.BytesIO()
        picture.save(out, kind, **options)
        made[name] = out.getvalue()
    return made


def damage(data: bytes, rng: random.Random) -> bytes:
    """Some bytes changed, cut off, doubled, removed; often where the header is."""
    text = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        place = rng.randrange(min(len(text), 64) if rng.random() < 0.4 else len(text))
        kind = rng.randrange(6)
        if kind < 3:
            text[place] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif kind == 3:
            text[place : place + rng.randrange(1, 9)] = rng.randbytes(rng.randrange(9))
        elif kind == 4 and len(text) > 8:
            del text[max(4, place) :]
        else:
            text[place:place] = text[place : place + 16]
        if not text:
            break
    return bytes(text)


@pytest.fixture(scope="module")
def renderers(tiny: dict[str, Path]) -> list[Renderer]:
    policies = [load_policy(ModelSpec(path=str(tiny[family])), trainable=False) for family in FAMILIES]
    return [Renderer(policy.processor, policy.family) for policy in policies]


def test_damaged_pictures_are_bad_rows_or_pictures(tmp_path: Path, renderers: list[Renderer]) -> None:
    rng, whole = random.Random("pictures"), encoded()
    pictures = Pictures(image_dir=None, data_dir=None, cache_dir=tmp_path / "cache", must_exist=True)
    refused, late = 0, 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own about what it reads
        for number in range(PICTURES):
            name = rng.choice(sorted(whole))
            data = damage(whole[name], rng)
            path = tmp_path / f"{number}.{name}"
            path.write_bytes(data)
            try:
                pictures.path(data)
                PictureFiles().check(str(path))
                for renderer in renderers:
                    renderer.image_tokens(str(path))
            except RowError as error:
                refused += 1
                assert len(str(error)) < 1920
                continue
            try:
                picture = read_picture(str(path))
                assert picture.mode == "RGB" and (picture.height, picture.width) == picture_size(str(path))
                for renderer in renderers:
                    assert renderer.image(str(path)).num_tokens == renderer.image_tokens(str(path))
            except DataError as error:  # passed the check: a bad row of training
                late += 1
                assert str(path) in str(error) and len(str(error)) < 1920
    assert PICTURES // 3 < refused < PICTURES and late < PICTURES // 5


def test_the_undamaged_ones_are_read(tmp_path: Path) -> None:
    for name, data in encoded().items():
        path = tmp_path / f"a.{name}"
        path.write_bytes(data)
        PictureFiles().check(str(path))
        assert read_picture(str(path)).size == (32, 24), name

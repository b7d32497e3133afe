"""Pictures as models see them, whatever the file stores."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sightline.data.picture import picture_size, read_picture
from sightline.data.readers.rows import RowError
from sightline.data.validate import PictureFiles
from sightline.errors import DataError


def ramp(levels: int) -> np.ndarray:
    """[16,16] from 0 to ``levels`` - 1 in equal steps."""
    return np.linspace(0, levels - 1, 256).reshape(16, 16)


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_sixteen_bits_keep_their_range(tmp_path: Path, kind: str) -> None:
    Image.fromarray(ramp(65536).astype(np.uint16)).save(tmp_path / f"a.{kind}")
    values = np.asarray(read_picture(str(tmp_path / f"a.{kind}")))
    assert values.shape == (16, 16, 3)
    assert (values[..., 0] == ramp(256).round()).all()  # Pillow's own conversion gives 255 for all but the first
    assert values.mean() == pytest.approx(127.5, abs=0.5)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_thirty_two_bits_are_refused_when_the_rows_are_read(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.tiff"
    Image.fromarray(ramp(65536).astype(np.int32 if mode == "I" else np.float32)).save(path)
    with pytest.raises(RowError, match=rf"a.tiff: the picture has values of 32 bits \(mode {mode}\).*Store it with 8"):
        PictureFiles().check(str(path))
    with pytest.raises(DataError, match="values of 32 bits"):
        read_picture(str(path))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1"])
@pytest.mark.filterwarnings("error")
def test_other_modes_show_what_they_show(tmp_path: Path, mode: str) -> None:
    whole = Image.new("RGB", (8, 4), "white")
    whole.paste((0, 0, 0), (0, 0, 4, 4))
    options = {"transparency": bytes([255] * 256)} if mode == "P" else {}  # what Pillow warns of
    whole.convert(mode).save(tmp_path / "a.png", **options)
    assert np.asarray(read_picture(str(tmp_path / "a.png"))).tolist() == np.asarray(whole).tolist()


def test_a_turned_photograph_stands_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.new("RGB", (32, 16), "white")
    picture.paste((255, 0, 0), (0, 0, 16, 16))  # the left half is what stands on top
    picture.save(tmp_path / "a.jpg", exif=exif, quality=100, subsampling=0)
    assert picture_size(str(tmp_path / "a.jpg")) == (32, 16)
    values = np.asarray(read_picture(str(tmp_path / "a.jpg")))
    assert values.shape == (32, 16, 3)
    assert (values[:15, :, 1] < 30).all() and (values[17:, :, 1] > 225).all()


def chunk(name: bytes, content: bytes) -> bytes:
    """Of a PNG."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


@pytest.mark.parametrize("name", ["eXIf", "tEXt", "iTXt"])
@pytest.mark.parametrize("behind", [False, True])
def test_the_size_of_a_turned_png_is_that_of_the_upright_one(tmp_path: Path, name: str, behind: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    told = {
        "eXIf": exif.tobytes().removeprefix(b"Exif\0\0"),
        "tEXt": f"Raw profile type exif\0\nexif\n{len(exif.tobytes())}\n{exif.tobytes().hex()}\n".encode(),
        "iTXt": b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="6"/>',
    }[name]
    file = io.BytesIO()
    Image.new("RGB", (32, 16), "white").save(file, "PNG")
    content = file.getvalue()
    place = content.index(b"IEND" if behind else b"IDAT") - 4
    (tmp_path / "a.png").write_bytes(content[:place] + chunk(name.encode(), told) + content[place:])
    assert picture_size(str(tmp_path / "a.png")) == (32, 16)
    assert read_picture(str(tmp_path / "a.png")).size == (16, 32)


def test_the_size_of_a_png_needs_no_pixels(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.new("RGB", (32, 16), "white").save(file, "PNG")
    content = file.getvalue()
    place = content.index(b"IDAT") + 4
    (tmp_path / "a.png").write_bytes(content[:place] + b"junk" + content[place + 4 :])
    assert picture_size(str(tmp_path / "a.png")) == (16, 32)
    with pytest.raises(DataError):
        read_picture(str(tmp_path / "a.png"))


def test_the_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert np.asarray(read_picture(str(tmp_path / "a.gif")))[0, 0].tolist() == [255, 0, 0]


def test_too_many_pixels_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for read in (read_picture, picture_size, PictureFiles().check):
        with pytest.raises(DataError, match=r"a.png cannot be read \(Image size .*Make it smaller"):
            read(str(tmp_path / "a.png"))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
@pytest.mark.filterwarnings("error")
def test_what_is_transparent_is_white(tmp_path: Path, mode: str) -> None:
    """A black drawing on nothing: without its transparency all of it is black."""
    drawn = Image.new("RGBA", (8, 4), (0, 0, 0, 0))
    drawn.paste((0, 0, 0, 255), (0, 0, 3, 4))
    (drawn.quantize(4) if mode == "P" else drawn.convert(mode)).save(tmp_path / "a.png")
    values = np.asarray(read_picture(str(tmp_path / "a.png")))
    assert (values[:, :3] == 0).all() and (values[:, 3:] == 255).all()

"""Pictures by their pixels: copies under other names, broken, unused and similar ones; leakage against a benchmark."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sightline.data.inspect.leaks import Asked, asked_of, leak
from sightline.data.inspect.pictures import (
    SIMILAR,
    Look,
    difference_hash,
    look_at,
    look_at_all,
    picture_figures,
    similar,
)
from sightline.types import Group, Prompt


def noise(seed: int, size: tuple[int, int] = (64, 48)) -> Image.Image:
    """Soft patches: as a photograph, and no two alike."""
    small = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def row(number: int, *pictures: Path | str, text: str = "what is it?") -> Group:
    content = [*[{"type": "image"}] * len(pictures), {"type": "text", "text": text}]
    prompt = Prompt(id=f"{number}", messages=({"role": "user", "content": content},), images=tuple(map(str, pictures)))
    return Group(prompts=(prompt,), source=f"rows.jsonl:{number}")


def looks_of(*groups: Group, more: tuple[str, ...] = ()) -> dict[str, Look]:
    paths = dict.fromkeys([*(p for g in groups for q in g.prompts for p in q.images), *more])
    return {look.path: look for look in look_at_all(paths)}


def test_the_same_pixels_are_one_picture_whatever_file_they_are_in(tmp_path: Path) -> None:
    picture = noise(0)
    picture.save(tmp_path / "a.png")
    picture.save(tmp_path / "b.bmp")
    turned = Image.Exif()
    turned[0x0112] = 6  # shown turned by a quarter, so that the file holds it turned back
    picture.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "c.png", exif=turned)
    noise(1).save(tmp_path / "d.png")
    (tmp_path / "unused.JPG").write_bytes(b"not even a picture")
    (tmp_path / "notes.txt").write_text("no picture")
    groups = [row(n, tmp_path / name) for n, name in enumerate(("a.png", "b.bmp", "c.png", "d.png", "d.png"), 1)]
    looks = looks_of(*groups)
    found = picture_figures(groups, looks, used=looks, decoded=True)
    assert (found.files, found.distinct, found.copied) == (4, 2, 3)
    assert found.copies == (tuple(str(tmp_path / name) for name in ("a.png", "b.bmp", "c.png")),)
    assert found.sharing.rows == tuple(f"rows.jsonl:{n}" for n in (1, 2, 3, 4, 5))
    assert found.unused.rows == (str(tmp_path / "unused.JPG"),)
    assert found.width is not None and found.height is not None
    assert (found.width.most, found.height.most) == (64.0, 48.0)


def test_a_picture_that_cannot_be_decoded_breaks_its_rows_and_no_others(tmp_path: Path) -> None:
    noise(0, (400, 300)).save(tmp_path / "whole.jpg")
    content = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content.replace(b"\xff\xdb", b"\xff\xfe"))  # without tables to decode by
    groups = [row(1, tmp_path / "whole.jpg"), row(2, tmp_path / "whole.jpg", tmp_path / "cut.jpg"), row(3)]
    found = picture_figures(groups, looks_of(*groups), used=(), decoded=True)
    assert found.broken.count == 1
    assert found.broken.rows[0].startswith(f"rows.jsonl:2: picture {tmp_path / 'cut.jpg'} cannot be read")
    assert found.distinct == 1
    assert look_at(str(tmp_path / "gone.jpg")).fault


def test_without_decoding_there_are_sizes_alone(tmp_path: Path) -> None:
    noise(0, (40, 30)).save(tmp_path / "a.png")
    look = look_at(str(tmp_path / "a.png"), decode=False)
    assert (look.width, look.height, look.pixels, look.gradient, look.fault) == (40, 30, None, None, "")


@pytest.mark.parametrize("seed", range(5))
def test_shrunk_and_compressed_copies_look_alike_and_other_pictures_do_not(tmp_path: Path, seed: int) -> None:
    picture = noise(seed, (640, 480))
    picture.resize((213, 160)).save(tmp_path / "small.jpg", quality=40)
    copy = difference_hash(Image.open(tmp_path / "small.jpg"))
    others = [difference_hash(noise(100 + n, (640, 480))) for n in range(20)]
    known = [one for one in (*others, copy) if one is not None]
    own = difference_hash(picture)
    assert own is not None
    assert similar([own], known) == {0: 20}
    assert similar([own], known[:20]) == {}


def test_how_many_bits_may_differ() -> None:
    nothing, some, more = bytes(32), b"\xff\xff\xf0" + bytes(29), b"\xff\xff\xf8" + bytes(29)
    assert SIMILAR == 20
    assert similar([nothing], [some]) == {0: 0}
    assert similar([nothing], [more]) == {}
    assert similar([nothing], [more, some, nothing]) == {0: 2}


def test_plain_pictures_are_like_nothing() -> None:
    assert difference_hash(Image.new("RGB", (50, 50), "white")) is None
    assert difference_hash(Image.new("RGB", (50, 50), (10, 200, 30))) is None


def test_what_a_benchmark_shows_is_found_in_the_rows(tmp_path: Path) -> None:
    bench = tmp_path / "bench"
    bench.mkdir()
    for seed in range(3):
        noise(seed, (320, 240)).save(bench / f"{seed}.png")
    noise(0, (320, 240)).save(tmp_path / "copy.bmp")
    noise(1, (320, 240)).resize((160, 120)).save(tmp_path / "small.jpg", quality=50)
    noise(9, (320, 240)).save(tmp_path / "own.png")
    (bench / "broken.png").write_bytes(b"no picture")
    groups = [
        row(1, tmp_path / "copy.bmp", text="Is there a dog?"),
        row(2, tmp_path / "small.jpg", text="describe it"),
        row(3, tmp_path / "own.png", text="is  there a DOG?"),
        row(4, tmp_path / "copy.bmp", text="another question"),
        row(5, tmp_path / "own.png", text="what else?"),
    ]
    asked = [asked_of(row(n, bench / f"{n}.png", text="Is there a dog?").prompts[0]) for n in range(3)]
    asked.append(Asked(pictures=(str(bench / "broken.png"),)))
    looks = looks_of(*groups, more=tuple(path for one in asked for path in one.pictures))
    found = leak(groups, looks, "dogs", asked)
    assert (found.pictures, found.questions, found.unread) == (4, 1, 1)
    copied = f"{tmp_path / 'copy.bmp'} is {bench / '0.png'}"
    assert found.same.rows == (f"rows.jsonl:1: {copied}", f"rows.jsonl:4: {copied}")
    assert found.similar.rows == (f"rows.jsonl:2: {tmp_path / 'small.jpg'} is {bench / '1.png'}",)
    assert found.both.rows == (f"rows.jsonl:1: {copied}",)
    assert [one.partition(": ")[0] for one in found.question.rows] == ["rows.jsonl:1", "rows.jsonl:3"]

"""A picture is no contrast to itself, under whatever name, format or orientation it is kept."""

import random
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from sightline.data.readers.rows import RowError
from sightline.errors import RecipeError
from sightline.negatives.pictures import crop
from sightline.negatives.prompts import Negatives, counterparts
from sightline.negatives.relate import visual_relation
from sightline.negatives.same import is_white, same_picture
from sightline.recipes.schema import NegativeSpec, VisualSpec
from sightline.types import Edge, Group, Prompt, Response

MESSAGES = ({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "and?"}]},)


def group(*images, id="row"):
    prompts = tuple(Prompt(id=f"{id}{place}", messages=MESSAGES, images=(image,)) for place, image in enumerate(images))
    answers = (Response(text="yes"), Response(text="no"))
    return Group(prompts=prompts, responses=answers, edges=(Edge(winner=0, loser=1),))


@pytest.fixture
def photo(tmp_path):
    """A smooth picture with detail, kept as PNG, and the same pixels elsewhere."""
    grid = np.indices((48, 64)).sum(0)
    pixels = np.stack([grid * 2, 255 - grid, (grid * 7) % 256], -1).astype(np.uint8)
    folder = {name: str(tmp_path / name) for name in ("a.png", "b.png", "c.bmp", "d.jpg", "e.jpg", "f.png", "g.png")}
    picture = Image.fromarray(pixels)
    picture.save(folder["a.png"])
    picture.save(folder["b.png"], compress_level=0)  # other bytes
    picture.save(folder["c.bmp"])
    picture.save(folder["d.jpg"], quality=90)
    picture.save(folder["e.jpg"], quality=90, comment=b"the same once more")
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 3
    picture.rotate(180).save(folder["f.png"], exif=turned)  # upright it is the same
    pixels[5, 7, 1] ^= 1
    Image.fromarray(pixels).save(folder["g.png"])  # one bit of one pixel differs
    return folder


def test_equal_pixels_are_one_picture_whatever_the_file(photo):
    for other in ("b.png", "c.bmp", "f.png"):
        assert Path(photo["a.png"]).read_bytes() != Path(photo[other]).read_bytes()
        assert same_picture(photo["a.png"], photo[other])
    assert Path(photo["d.jpg"]).read_bytes() != Path(photo["e.jpg"]).read_bytes()
    assert same_picture(photo["d.jpg"], photo["e.jpg"])
    assert not same_picture(photo["a.png"], photo["g.png"])
    assert not same_picture(photo["a.png"], photo["d.jpg"])
    assert not same_picture(photo["a.png"], "missing.png")


def test_another_picture_has_other_pixels(photo):
    same = [photo[name] for name in ("a.png", "b.png", "c.bmp")]
    other = counterparts([group(path) for path in (*same, photo["g.png"])], seed=0)
    assert {other[path] for path in same} == {photo["g.png"]}
    with pytest.raises(RecipeError, match="all rows have the same picture"):
        counterparts([group(path) for path in same], seed=0)


def test_a_row_s_own_negative_with_the_pixels_of_its_picture_is_refused(photo, tmp_path):
    spec = VisualSpec(relation="mdpo", negative=NegativeSpec(kind="column"))
    relate = visual_relation(spec, [], folder=tmp_path, seed=0)
    with pytest.raises(RowError, match="has the pixels of its own"):
        relate(group(photo["a.png"], photo["b.png"]))
    assert relate(group(photo["a.png"], photo["g.png"])).prompts[1].images == (photo["g.png"],)


@pytest.mark.parametrize("kind", ["crop", "blank", "noise"])
@pytest.mark.parametrize("colour", [(255, 255, 255), (0, 0, 0), (10, 20, 30)])
def test_made_pictures_differ_from_a_picture_of_one_colour(tmp_path, kind, colour):
    path = str(tmp_path / "plain.png")
    Image.new("RGB", (20, 10), colour).save(path)
    for size in ("small", "same") if kind == "blank" else ("small",):
        spec = NegativeSpec(kind=kind, size=size)
        (made,) = Negatives(spec=spec, folder=tmp_path / "made").prompt(group(path).prompts[0]).images
        shown = np.asarray(Image.open(made))
        assert (shown.reshape(-1, 3) != colour).any()
        if kind == "blank":
            expected = 0 if colour == (255, 255, 255) else 255
            assert (shown == expected).all() and shown.shape == ((64, 64, 3) if size == "small" else (10, 20, 3))


def test_white_is_told_from_nearly_white(tmp_path):
    pixels = np.full((40, 40, 3), 255, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "white.jpg")
    pixels[20, 20] = 254
    Image.fromarray(pixels).save(tmp_path / "nearly.png")
    assert is_white(str(tmp_path / "white.jpg")) and not is_white(str(tmp_path / "nearly.png"))


@pytest.mark.parametrize("size", [(2, 2), (3, 5), (8, 8)])
def test_a_piece_is_never_the_whole(size):
    picture = Image.fromarray(np.arange(size[0] * size[1] * 3, dtype=np.uint8).reshape(size[1], size[0], 3))
    for seed in range(200):
        assert crop(picture, random.Random(seed), (0.9, 1.0)).tobytes() != picture.tobytes()

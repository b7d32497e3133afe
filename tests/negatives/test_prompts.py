"""Negative prompts: what is replaced, by what, and where it is written."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sightline.data.readers.rows import RowError
from sightline.errors import RecipeError
from sightline.negatives.describe import read_description
from sightline.negatives.prompts import Negatives, counterparts
from sightline.negatives.relate import visual_relation
from sightline.recipes.schema import NegativeSpec, VisualSpec
from sightline.types import Edge, Group, Prompt, Response

IMAGE, TEXT = {"type": "image"}, {"type": "text", "text": "and?"}


def prompt(*images, id="row"):
    content = [part for _ in images for part in (IMAGE, TEXT)] or [TEXT]
    return Prompt(id=id, messages=({"role": "user", "content": content},), images=images)


def pair(*images, id="row"):
    answers = (Response(text="yes"), Response(text="no"))
    return Group(prompts=(prompt(*images, id=id),), responses=answers, edges=(Edge(winner=0, loser=1),))


def negatives(folder, kind, **options):
    seed = options.pop("seed", 0)
    return Negatives(spec=NegativeSpec(kind=kind, **options), folder=folder / "negatives", seed=seed)


OTHERWISE = {"crop": {"area": (0.5, 0.8)}, "noise": {"step": 10}, "patches": {"patch": 3}}


@pytest.mark.parametrize("kind", OTHERWISE)
def test_made_pictures_depend_on_seed_row_and_source_and_are_made_once(pictures, tmp_path, kind):
    a, b = pictures[:2]
    made = negatives(tmp_path, kind).prompt(prompt(a))
    assert made.id == f"row/{kind}" and made.messages == prompt(a).messages
    (path,) = made.images
    assert Image.open(path).size == Image.open(a).size
    first = Path(path).read_bytes()
    stamp = Path(path).stat().st_mtime_ns
    assert negatives(tmp_path, kind).prompt(prompt(a)).images == made.images
    assert Path(path).stat().st_mtime_ns == stamp
    others = [
        negatives(tmp_path, kind, seed=1).prompt(prompt(a)),
        negatives(tmp_path, kind).prompt(prompt(a, id="other")),
        negatives(tmp_path, kind).prompt(prompt(b)),
        negatives(tmp_path, kind, **OTHERWISE[kind]).prompt(prompt(a)),
    ]
    written = {first, *(Path(other.images[0]).read_bytes() for other in others)}
    assert len(written) == 5 == len(list((tmp_path / "negatives").iterdir()))


def test_a_changed_picture_gets_a_new_negative(tmp_path):
    source = tmp_path / "a.png"
    made = []
    for colour in ((200, 0, 0), (0, 200, 0)):
        picture = Image.new("RGB", (40, 40), colour)
        picture.putpixel((0, 0), (9, 9, 9))
        picture.save(source)
        made += negatives(tmp_path, "crop").prompt(prompt(str(source))).images
    assert made[0] != made[1]
    assert np.asarray(Image.open(made[1]))[20, 20].tolist() == [0, 200, 0]


def test_a_white_picture_is_small_or_as_large_as_the_other(pictures, tmp_path):
    small = negatives(tmp_path, "blank").prompt(prompt(pictures[0]))
    same = negatives(tmp_path, "blank", size="same").prompt(prompt(pictures[0]))
    assert [Image.open(p.images[0]).size for p in (small, same)] == [(64, 64), (40, 30)]
    assert Image.open(same.images[0]).getextrema() == ((255, 255),) * 3


def test_none_takes_the_picture_out_of_the_question(pictures, tmp_path):
    made = negatives(tmp_path, "none").prompt(prompt(pictures[0]))
    assert made.images == () and made.messages == ({"role": "user", "content": [TEXT]},)
    assert not (tmp_path / "negatives").exists()


@pytest.mark.parametrize(("which", "replaced"), [("all", [0, 1, 2]), ("first", [0]), ("last", [2])])
def test_which_of_several_pictures_is_replaced(pictures, tmp_path, which, replaced):
    asked = prompt(*pictures[:3])
    blank = negatives(tmp_path, "blank", replace=which).prompt(asked)
    assert [i for i in range(3) if blank.images[i] != asked.images[i]] == replaced
    none = negatives(tmp_path, "none", replace=which).prompt(asked)
    assert none.images == tuple(pictures[i] for i in range(3) if i not in replaced)
    parts = none.messages[0]["content"]
    assert [part["type"] for part in parts].count("image") == 3 - len(replaced)
    assert parts[0] == (TEXT if 0 in replaced else IMAGE)


def test_another_picture_is_never_the_same_one(pictures):
    groups = [pair(path, id=str(i)) for i, path in enumerate([*pictures, pictures[2]])]
    other = counterparts(groups, seed=0)
    assert sorted(other) == sorted(other.values()) == sorted(pictures)
    assert all(key != value for key, value in other.items())
    assert counterparts(groups, seed=0) == other != counterparts(groups, seed=3)


def test_a_copy_of_a_picture_is_not_another_one(pictures, tmp_path):
    copies = [str(tmp_path / f"{n}.png") for n in range(4)]
    for path in copies:
        Path(path).write_bytes(Path(pictures[0]).read_bytes())
    other = counterparts([pair(path) for path in (*copies, pictures[1])], seed=0)
    assert {other[path] for path in copies} == {pictures[1]}
    with pytest.raises(RecipeError, match="all rows have the same picture"):
        counterparts([pair(path) for path in copies], seed=0)


def test_the_row_s_own_negative(pictures, tmp_path):
    a, b = pictures[:2]
    own = prompt(b, id="row/negative")
    group = Group(prompts=(prompt(a), own), responses=pair(a).responses, edges=pair(a).edges)
    spec = VisualSpec(relation="mdpo", negative=NegativeSpec(kind="column"))
    relate = visual_relation(spec, [group], folder=tmp_path, seed=0)
    made = relate(group)
    assert made.prompts == group.prompts
    assert [(r.text, made.prompts[r.prompt].images) for r in made.responses] == [
        ("yes", (a,)),
        ("no", (a,)),
        ("yes", (b,)),
    ]
    with pytest.raises(RowError, match="comes with 0 negative pictures"):
        relate(pair(a))


def test_a_row_without_picture_is_refused(tmp_path):
    relate = visual_relation(VisualSpec(relation="mdpo"), [], folder=tmp_path, seed=0)
    with pytest.raises(RowError, match="'row' has no picture"):
        relate(pair())


def test_pictures_made_ahead_are_those_that_the_rows_ask_for(pictures, tmp_path):
    groups = [pair(path, id=str(number)) for number in range(5) for path in pictures] + [pair(id="text")]
    relate = visual_relation(VisualSpec(relation="mdpo"), groups, folder=tmp_path, seed=0)
    relate.make_ahead(groups)
    made = {str(path): path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    asked = [relate(group).prompts[1].images[0] for group in groups[:-1]]
    assert len(set(asked)) == 30 and set(asked) == set(made)  # whole files, and no others
    assert {str(path): path.stat().st_mtime_ns for path in tmp_path.iterdir()} == made


def test_the_picture_in_between(pictures, tmp_path):
    for between, images in (("none", ()), ("blank", (str(tmp_path / "blank-64x64.png"),))):
        spec = VisualSpec(relation="ovip", between=between)
        made = visual_relation(spec, [], folder=tmp_path, seed=0)(pair(pictures[0]))
        assert [p.id for p in made.prompts] == ["row", f"row/{between}", "row/crop"]
        assert made.prompts[1].images == images
        assert made.prompts[0].images == (pictures[0],)


@pytest.mark.parametrize(
    ("reply", "description"),
    [
        ("Sure! Here is the description:\n\nA red kite.", "A red kite."),
        ("Certainly! A red kite.", "A red kite."),
        ("Of course. Description: A red kite", "A red kite"),
        ("**Image Description**\n\nA red kite.", "A red kite."),
        ('"A red kite" beside "STOP"', '"A red kite" beside "STOP"'),
        ("I’m sorry, I can’t.", None),
        ("Unfortunately, I cannot help.", None),
        ("None.", None),
        ("N/A", None),
    ],
)
def test_a_description_is_read_without_what_is_said_around_it(reply, description):
    assert read_description(reply) == description

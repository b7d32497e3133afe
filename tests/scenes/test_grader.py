import pytest

from sightline.scenes.grader import colour, grade_answer, grade_caption, mentions, number, yes_no
from sightline.scenes.scene import Scene, SceneObject

SCENE = Scene(
    id="a",
    objects=(
        SceneObject(shape="star", colour="red", size="small", row=0, column=0),
        SceneObject(shape="star", colour="blue", size="large", row=0, column=1),
        SceneObject(shape="cross", colour="green", size="small", row=2, column=2),
    ),
)


def shapes(text):
    return [mention.shape for mention in mentions(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A red star, a small blue circle and an arrow.", ["star", "circle", "arrow"]),
        ("I see two stars and three crosses", ["star", "cross"]),
        ("a yellow crescent, a rhombus and a disc", ["moon", "diamond", "circle"]),
        ("a lightning bolt and a crescent moon", ["bolt", "moon"]),
        ("There is a red star, but no moon.", ["star"]),
        ("There is no star or moon. I can see a ring.", ["ring"]),
        ("no star, moon or heart, but a ring", ["ring"]),
        ("There isn't a star and there is a ring", ["ring"]),
        ("I can't see any hearts; I see a drop", ["drop"]),
        ("Rings and crosses without any stars", ["ring", "cross"]),
        ("The star is red and the moon is missing.", ["star"]),
        ("The moon is not there", []),
        ("The star is not red", ["star"]),
        ("not only a star but also a moon", ["star", "moon"]),
        ("neither a star nor a moon, a heart", ["heart"]),
        ("zero stars", []),
        ("a star star", ["star", "star"]),
        ("nothing here is missing. A cross", ["cross"]),
        ("There is a start, a ringtone and a starfish", []),
        ("", []),
    ],
)
def test_mentions(text, expected):
    assert shapes(text) == expected


def test_a_mention_holds_its_words_and_where_they_stand():
    text = "I see Two small red stars. The heart is violet."
    star, heart = mentions(text)
    assert (star.shape, star.colour, star.size, star.number) == ("star", "red", "small", 2)
    assert text[star.start : star.end] == "small red stars"
    assert (heart.shape, heart.colour, heart.number) == ("heart", "purple", 1)
    assert text[heart.start : heart.end] == "heart"


def test_a_caption_against_its_scene():
    text = "A red star, a green star, a yellow moon, a moon and a ring."
    grade = grade_caption(text, SCENE, ["moon"])
    assert [text[m.start : m.end] for m in grade.hallucinated] == ["yellow moon", "moon", "ring"]
    assert [m.shape for m in grade.cog] == ["moon", "moon"]
    assert [m.colour for m in grade.miscoloured] == ["green"]
    assert grade.repeated == ()
    assert (grade.missed, grade.present, grade.covered, grade.objects) == (("cross",), 2, 1, 2)


def test_repeats_are_mentions_beyond_what_is_there():
    grade = grade_caption("A red star, a blue star, a red star and a green cross.", SCENE, [])
    assert [m.colour for m in grade.repeated] == ["red"]
    assert (grade.objects, grade.missed, grade.hallucinated) == (3, (), ())


def test_a_number_of_objects_is_that_many():
    assert grade_caption("two stars", SCENE, []).objects == 2
    three = grade_caption("three stars", SCENE, [])
    assert (three.objects, len(three.repeated)) == (2, 1)


def test_an_exact_match_is_taken_before_a_vague_one():
    grade = grade_caption("a star and a red star", SCENE, [])
    assert (grade.objects, grade.repeated, grade.miscoloured) == (2, (), ())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Yes.", True),
        ("yes, there is no doubt", True),
        ("No, there is not.", False),
        ("There isn't one", False),
        ("A red star.", None),
        ("", None),
    ],
)
def test_yes_no(text, expected):
    assert yes_no(text) is expected


def test_numbers_and_colours():
    assert (number("There are Three."), number("12 of them"), number("none at all"), number("many")) == (3, 12, 0, None)
    assert (colour("It is violet."), colour("It is red, not blue."), colour("It is nice.")) == ("purple", "red", None)


@pytest.mark.parametrize(
    ("kind", "truth", "text", "expected"),
    [
        ("presence", "no", "No.", True),
        ("relation", "yes", "No.", False),
        ("presence", "yes", "A star.", None),
        ("count", "three", "There are 3.", True),
        ("count", "zero", "None.", True),
        ("count", "two", "Three.", False),
        ("colour", "purple", "It is violet.", True),
        ("colour", "purple", "Red.", False),
    ],
)
def test_answers(kind, truth, text, expected):
    assert grade_answer(text, {"kind": kind, "truth": truth}) is expected

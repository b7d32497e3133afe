"""Groups for people: in a line and in a notebook."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

import sightline as sl
from sightline.data.picture import read_picture
from sightline.display import curve, embed, table
from sightline.types import Edge, Group, Prompt, Response


@pytest.fixture
def group(pictures: list[str]) -> Group:
    content = [{"type": "image"}, {"type": "text", "text": "What is <there>?"}]
    prompt = Prompt(id="row-1", messages=({"role": "user", "content": content},), images=(pictures[0],))
    answers = (Response(text="a cat", reward=0.5, rewards={"clip": 0.25}), Response(text="x" * 99, reward=-1.0))
    return Group(prompts=(prompt,), responses=answers, edges=(Edge(winner=0, loser=1),))


def test_a_group_in_a_line(group: Group) -> None:
    long = "x" * 56 + " ..."
    assert repr(group) == (
        f"Group('row-1'; asked 'What is <there>?'; 1 picture; answers ('a cat', '{long}'); rewards 0.5, -1; "
        "preferred 0 > 1)"
    )
    assert repr(Group(prompts=(replace(group.prompts[0], images=()),))) == "Group('row-1'; asked 'What is <there>?')"


def test_a_group_in_a_notebook(group: Group) -> None:
    shown = group._repr_html_()
    assert "What is &lt;there&gt;?" in shown and "<there>" not in shown
    assert shown.count("data:image/png;base64,") == 1 and "chosen" in shown and "rejected" in shown
    assert "0.25" in shown and "x" * 99 in shown  # nothing is cut
    lost = replace(group, prompts=(replace(group.prompts[0], images=("/nowhere/a.png",)),))
    assert "<code>/nowhere/a.png</code>" in lost._repr_html_()


def test_groups_show_the_first_and_count_the_others(group: Group) -> None:
    some = sl.Groups([group] * 10)
    assert repr(some).splitlines()[0] == "10 groups, 20 answers, 10 comparisons:"
    assert repr(some).splitlines()[-1] == "  ... 2 more" and "... 2 more groups" in some._repr_html_()
    assert repr(sl.Groups()) == "0 groups, 0 answers, 0 comparisons"


def test_a_group_of_many_answers_shows_the_first(group: Group) -> None:
    edges = tuple(Edge(winner=0, loser=place) for place in range(1, 100))
    many = replace(group, responses=group.responses[1:] * 100, edges=edges)
    assert len(repr(many)) < 1000 and "... 92 more" in repr(many) and "0 > 8 ... 91 more" in repr(many)
    assert many._repr_html_().count("<tr>") == 33 and "... 68 more answers" in many._repr_html_()


def test_a_curve_needs_two_numbers() -> None:
    assert curve("loss", [(1, 0.5), (2, float("nan"))]) == ""
    assert 'points="2.0,4.0 238.0,56.0"' in curve("loss", [(1, 2.0), (9, 1.0)])
    assert 'points="2.0,56.0 238.0,56.0"' in curve("loss", [(1, 1.0), (9, 1.0)])


def test_tables_are_escaped_and_pictures_are_small(tmp_path: Path) -> None:
    assert "&lt;b&gt;" in table(("a",), [("<b>",)], title="<t>", notes=["<n>"])
    assert "<t>" not in table((), [], title="<t>") and len(embed(Image.new("RGB", (2000, 2000)))) < 4000


def test_columns_that_nothing_fills_are_left_out(group: Group) -> None:
    plain = replace(group, responses=(Response(text="a cat"),), edges=())
    assert '">reward<' not in plain._repr_html_() and '">reward<' in group._repr_html_()


def test_a_page_shows_a_picture_as_models_see_it(tmp_path: Path) -> None:
    """Turned as EXIF says; what is transparent is white; sixteen bits are not cut off."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (30, 20), "navy").save(tmp_path / "turned.jpg", exif=exif)
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(tmp_path / "sixteen.png")
    for name in ("turned.jpg", "clear.png", "sixteen.png"):
        with Image.open(io.BytesIO(base64.b64decode(embed(tmp_path / name).partition(",")[2]))) as opened:
            shown = np.asarray(opened.convert("RGB"), dtype=int)
        seen = np.asarray(read_picture(str(tmp_path / name)), dtype=int)
        assert shown.shape == seen.shape and np.abs(shown - seen).max() < 3, name

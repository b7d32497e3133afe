import base64
import io
from html.parser import HTMLParser

import pytest
from PIL import Image

from sightline.display import embed
from sightline.evaluation.statistics import Interval
from sightline.report.page import Answer, Detail, GalleryItem, pieces, write_report
from sightline.report.svg import Curve, Line
from sightline.report.table import Row


class Page(HTMLParser):
    """Tags with their attributes, the text inside <mark>, and all text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.marked, self.text, self._open = [], [], "", []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "line", "circle", "polyline"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        if tag not in ("meta", "img", "line", "circle", "polyline"):
            assert self._open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        if self._open and self._open[-1] == "style":
            return
        self.text += data
        if self._open and self._open[-1] == "mark":
            self.marked.append(data)


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "photo.jpg"
    Image.new("RGB", (900, 600), (200, 30, 30)).save(path)
    return path


@pytest.fixture
def page(tmp_path, picture):
    text = "A dog & a <cat> near a kite."
    kite = text.index("kite")
    path = write_report(
        tmp_path / "deep" / "report.html",
        title="Before & after",
        table=[
            Row(
                key="hal",
                name="Hal",
                meaning="answers with a hallucination",
                before=Interval(value=0.62, low=0.58, high=0.66),
                after=Interval(value=0.2, low=0.16, high=0.24),
                difference=Interval(value=-0.42, low=-0.5, high=-0.34),
                better="lower",
                headline=True,
            )
        ],
        curves=[Curve(title="Loss", lines=[Line(name="loss", x=[0, 1], y=[2.0, 1.0])])],
        gallery=[
            GalleryItem(
                images=[picture, Image.new("RGB", (32, 32))],
                question="What is there?",
                caption="a dog and a cat",
                answers=[
                    Answer(title="before", text=text, wrong=[(kite, kite + 4)]),
                    Answer(title="after", text="A dog.", missed=["cat"], note="reward 0.5"),
                ],
            )
        ],
        notes=["Seed 0."],
        details=[Detail(title="Recipe", text="name: <x>")],
    )
    return Page(path.read_text(encoding="utf-8"))


def test_page_holds_its_figures_and_texts(page):
    for text in ("Before & after", "62.0 %", "[58.0, 66.0]", "−42.0", "✓ better", "Seed 0.", "name: <x>", "reward 0.5"):
        assert text in page.text
    assert "A dog & a <cat> near a kite." in page.text


def test_only_the_wrong_words_are_marked(page):
    assert page.marked == ["Red, underlined", "kite"]
    assert "missed: cat" in page.text


def test_page_asks_the_network_for_nothing(page):
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object")
        assert attributes.get("src", "data:").startswith("data:image/") if tag == "img" else "src" not in attributes
        assert "href" not in attributes
    policy = next(a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none'")


def test_pictures_are_embedded_small(picture):
    uri = embed(picture)
    assert uri.startswith("data:image/jpeg;base64,")
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as image:
        assert image.size == (384, 256)
        assert image.getpixel((10, 10))[0] > 190
    assert embed(Image.new("RGB", (32, 32), "blue")).startswith("data:image/png;base64,")


def test_a_page_without_parts_is_whole(tmp_path):
    page = Page(write_report(tmp_path / "r.html", title="Empty").read_text(encoding="utf-8"))
    assert "Gallery" not in page.text and "Training" not in page.text and "metric" not in page.text


def test_one_model_alone_has_no_comparison(tmp_path):
    alone = Row(key="k", name="Accuracy", meaning="m", before=Interval(value=0.5, low=0.4, high=0.6))
    page = Page(write_report(tmp_path / "r.html", title="t", table=[alone]).read_text(encoding="utf-8"))
    assert "50.0 %" in page.text and "verdict" not in page.text and "after" not in page.text


@pytest.mark.parametrize(("unit", "told"), [("percent", True), ("number", False), ("fraction", False)])
def test_percentage_points_are_of_percentages_alone(tmp_path, unit, told):
    before, after = Interval(value=0.5, low=0.4, high=0.6), Interval(value=0.7, low=0.6, high=0.8)
    change = Interval(value=0.2, low=0.1, high=0.3)
    row = Row(key="k", name="k", meaning="", before=before, after=after, difference=change, unit=unit)
    page = write_report(tmp_path / "r.html", title="t", table=[row]).read_text(encoding="utf-8")
    assert ("percentage points" in page) == told and "differences are paired" in page


def test_pieces_join_overlapping_spans():
    assert pieces("a red dog runs", [(2, 5), (4, 9)]) == [("a ", False), ("red dog", True), (" runs", False)]
    assert pieces("dog", [(0, 3)]) == [("dog", True)]
    assert pieces("dog", []) == [("dog", False)]

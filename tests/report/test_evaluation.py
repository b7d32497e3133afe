"""The results page: figures, bars by category, worst answers with marked words."""

import math
import re
from dataclasses import replace

import pytest

from sightline.evaluation.bench import Graded, Result
from sightline.evaluation.results import measure
from sightline.evaluation.statistics import Interval
from sightline.report.evaluation import Side, category_panels, result_rows, worst_answers, write_results_page
from sightline.report.svg import interval_bar


def measured(hits, *, categories=None, printed="50.0", scale="100 * ", facts=None, details=None):
    graded = [
        Graded(
            id=f"q{n}",
            cluster=f"p{n}",
            counts={"hit": hit},
            details={"question": f"Q{n}?", "answer": f"A dog and two dogs, {hit}", "error": 1 - hit, **(details or {})},
        )
        for n, hit in enumerate(hits)
    ]
    value = (100 if scale else 1) * sum(hits) / len(hits)
    result = Result(
        bench="pope",
        protocol="official",
        metrics={"accuracy": value, "plain": 7.25, "undefined": math.nan},
        metrics_printed={"accuracy": printed, "plain": "7.2"},
        by_category=categories or {},
        graded=graded,
        formulas={"accuracy": f"{scale}hit / answers"},
        notes=["the judge was away"],
        failures=3,
    )
    return measure(result, facts)


def test_figures_without_a_formula_have_no_interval_and_no_comparison():
    accuracy, plain = result_rows(measured([1, 0]), measured([0, 0]))
    assert (accuracy.before.value, accuracy.after.value, accuracy.difference.value) == (0, 50, 50)
    assert plain.before.value == 7.25 and plain.after is None and math.isnan(plain.before.low)


@pytest.mark.parametrize(("printed", "scale", "unit"), [("50.0", "100 * ", "number"), ("0.5000", "", "fraction")])
def test_fractions_are_shown_with_three_decimals(printed, scale, unit):
    assert result_rows(measured([1, 0], printed=printed, scale=scale))[0].unit == unit


def test_panels_are_figures_that_categories_share():
    old = {"left": {"acc": 40.0, "answers": 5}, "right": {"acc": 90.0}, "none": {"acc": math.nan}}
    new = {"left": {"acc": 50.0, "answers": 5, "alone": 1}, "right": {"acc": 80.0, "answers": 5}}
    (panel,) = category_panels(measured([1], categories=new), measured([1], categories=old))
    assert panel.title == "acc"
    shown = [(bar.name, tuple((side.shown, side.share) for side in bar.sides)) for bar in panel.bars]
    assert shown == [("left", (("40.0", 40), ("50.0", 50))), ("right", (("90.0", 90), ("80.0", 80)))]
    fractions = {"a": {"acc": 0.5}, "b": {"acc": 0.25}}
    assert category_panels(measured([1], categories=fractions))[0].bars[1].sides == (Side(shown="0.250", share=25),)


def test_bars_carry_intervals_where_the_formula_gives_the_figure():
    rows = {"left": {"accuracy": 50.0}, "right": {"accuracy": 100.0}, "other": {"accuracy": 12.0}}
    kinds = ["left", "left", "right", "right"]
    plain = measured([1, 0, 1, 1], categories=rows).result
    graded = [
        replace(row, details={**row.details, "category": kind}) for row, kind in zip(plain.graded, kinds, strict=True)
    ]
    one = measure(replace(plain, graded=graded))
    left, right, other = category_panels(one)[0].bars
    assert left.sides == (Side(shown="50.0", share=50, interval=(0, 100)),)  # two pictures, one right
    assert right.sides == (Side(shown="100.0", share=100, interval=(100, 100)),)
    assert other.sides == (Side(shown="12.0", share=12, interval=None),)


def test_worst_answers_of_either_model_come_first_and_right_ones_not_at_all():
    items = worst_answers(measured([1, 0, 1, 1]), measured([1, 1, 0, 1]))
    assert [item.question for item in items] == ["Q1?", "Q2?"]
    assert [(answer.title, answer.note) for answer in items[0].answers] == [("before", "right"), ("after", "error 1")]
    assert (
        worst_answers(measured([1, 0]), measured([0, 1], details={"missed": ["cat"]}))[1].answers[0].note
        == "nothing invented"
    )
    assert worst_answers(measured([1, 1])) == [] and len(worst_answers(measured([0] * 9), number=4)) == 4


def test_hallucinated_words_are_marked_wherever_they_stand():
    (item,) = worst_answers(
        measured([0], details={"hallucinated": ["dog"], "missed": ["cat"], "truth": ["cat", "hat"]})
    )
    answer = item.answers[0]
    assert [answer.text[start:end] for start, end in answer.wrong] == ["dog", "dogs"]
    assert answer.missed == ["cat"] and item.caption == "truth: cat, hat"


def test_the_page_holds_everything_and_loads_nothing(tmp_path, pictures):
    facts = {"model": "mine", "adapter": "lora", "length": {"mean_words": 5.0, "cut": 0.25}}
    facts["judge"] = {"name": "j", "failed": 3, "requests": 10, "cost": 1.5}
    details = {"images": [pictures[0], "gone.png"], "hallucinated": ["dog"], "answer": "<b>dog</b>"}
    categories = {"left": {"acc": 40.0}, "right": {"acc": 90.0}}
    one = measured([0, 1], facts=facts, details=details, categories=categories)
    page = write_results_page(
        tmp_path / "new" / "p.html", [(measured([1, 1], facts=facts), one), (None, one)]
    ).read_text()
    assert page.startswith("<!doctype html>")
    assert "mine with lora; 2 answers; 5.0 words each; 25.0% cut at the limit of tokens; the judge failed on 3" in page
    assert "judge j (3 of 10 requests failed, cost 1.5)" in page and "the judge was away" in page
    assert "&lt;b&gt;<mark>dog</mark>&lt;/b&gt;" in page
    assert page.count('src="data:image/png;base64,') == 2 and "gone.png is not there, or no picture" in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    assert "width:40.0%" in page and page.count("Worst answers") == 2


def test_notes_of_one_side_say_whose_they_are(tmp_path):
    old, new = measured([0, 1]), measured([1, 1])
    old = replace(old, result=replace(old.result, notes=["files: a", "2 answers are neither"]))
    new = replace(new, result=replace(new.result, notes=["files: a", "1 answer is neither"]))
    page = write_results_page(tmp_path / "p.html", [(old, new)]).read_text()
    notes = re.findall(r'<p class="soft small fact">(.*)</p>', page)[2:]
    assert notes == ["files: a", "before: 2 answers are neither", "after: 1 answer is neither"]


def test_answers_in_any_script_length_and_state_are_shown_as_text(tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    answers = ['<script>alert("x")</script> & dog', "مرحبا بالعالم dog 图片", "  ", "dog\n" * 500]
    shown = []
    for text in answers:
        details = {"answer": text, "images": [str(broken)], "hallucinated": ["dog"]}
        shown.append(write_results_page(tmp_path / "p.html", [(None, measured([0], details=details))]).read_text())
    assert (
        "<script" not in shown[0]
        and "&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt; &amp; <mark>dog</mark>" in shown[0]
    )
    assert "مرحبا بالعالم <mark>dog</mark> 图片" in shown[1] and 'class="text" dir="auto"' in shown[1]
    assert "(empty)" in shown[2] and "(empty)" not in shown[3]
    assert shown[3].count("<mark>dog</mark>") == 500 and "max-height: 21em; overflow-y: auto" in shown[3]
    assert all("broken.png is not there, or no picture" in page and "<img" not in page for page in shown)


def test_two_models_stand_side_by_side(tmp_path):
    one, other = measured([0, 1]), measured([1, 1])
    alone, pair = (
        write_results_page(tmp_path / "p.html", [sides]).read_text() for sides in ((None, one), (other, one))
    )
    assert 'class="card item"' in alone and 'class="card item pair"' not in alone
    assert pair.count('class="card item pair"') == 1 and ".pair .sides { display: grid" in pair


@pytest.mark.parametrize(
    ("scale", "printed", "end"), [("100 * ", "50.0", 75.0), ("", "0.5000", 75.0), ("7 * ", "3.5", 145.0)]
)
def test_bars_of_shares_have_one_scale(scale, printed, end):
    """A value of one half of a share stands in the middle of its track, which goes from 5 to 145."""
    (row, _) = result_rows(measured([1, 0], scale=scale, printed=printed))
    row = replace(row, before=Interval(value=row.before.value, low=0.0, high=row.before.value))
    assert f'x2="{end:.1f}" y1="8"' in interval_bar(row)

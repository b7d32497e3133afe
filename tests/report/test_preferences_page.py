"""The page of preferences: which cases it shows, and what stands in which column."""

from __future__ import annotations

from pathlib import Path

from sightline.evaluation.preferences import preference_result, with_generations
from sightline.evaluation.results import measure
from sightline.report.preferences import MEANINGS, cases, curves, write_preferences_page
from sightline.types import Edge, Group, Prompt, Response


def scored(margins: list[float]) -> list[Group]:
    """Comparisons of answers of two tokens, each with its margin."""
    made = []
    for index, margin in enumerate(margins):
        prompt = Prompt(id=f"row-{index:02}", messages=({"role": "user", "content": f"<b>{index}</b>?"},))
        answers = tuple(
            Response(text=f"{name} {index}", rewards={"logprob": value, "tokens": 2.0})
            for name, value in (("chosen", margin), ("rejected", 0.0))
        )
        made.append(Group(prompts=(prompt,), responses=answers, edges=(Edge(winner=0, loser=1),)))
    return made


def questions(found: dict) -> list[list[str]]:
    return [[item.question for item in items] for items in found.values()]


def test_the_worst_and_the_best_are_shown_once_each_the_extreme_ones_first() -> None:
    result = preference_result(scored([float(value) for value in range(20)]), beta=0.1)
    worst, best = questions(cases(result))
    assert worst == [f"<b>{index}</b>?" for index in range(8)]
    assert best == [f"<b>{index}</b>?" for index in range(19, 11, -1)]
    worst, best = questions(cases(preference_result(scored([2.0, 1.0, 3.0]), beta=0.1)))
    assert (worst, best) == (["<b>1</b>?", "<b>0</b>?"], ["<b>2</b>?"])


def test_all_that_models_answered_is_shown_before_first() -> None:
    result = preference_result(scored([float(value) for value in range(30)]), beta=0.1)
    ids = [f"row-{index:02}" for index in (*range(10), *range(20, 30))]
    said = {"after": dict.fromkeys(ids, "a fish"), "before": dict.fromkeys(ids, "a cat")}
    worst, best = cases(with_generations(result, said)).values()
    assert len(worst) == len(best) == 10
    assert [answer.text for answer in worst[0].answers] == ["chosen 0", "rejected 0", "a cat", "a fish"]


def test_a_figure_of_one_side_stands_in_its_column(tmp_path: Path) -> None:
    groups, base = scored([1.0, -1.0]), scored([0.5, 0.5])
    before = measure(preference_result(base, beta=0.1))
    after = measure(preference_result(groups, base, beta=0.1))
    page = write_preferences_page(tmp_path / "p.html", after, before, title="T").read_text()
    row = page[page.index("accuracy/reference") :]
    cells = [cell.partition(">")[2].partition("<")[0] for cell in row.split("<td")[1:3]]
    assert cells == ["–", "0.500"]
    assert "&lt;b&gt;0&lt;/b&gt;?" in page and "<b>0</b>" not in page


def test_every_figure_is_explained_and_lengths_are_charted() -> None:
    result = preference_result(scored([1.0, -1.0]), scored([0.5, 0.5]), beta=0.1)
    assert set(result.metrics) <= set(MEANINGS)
    assert [curve.title for curve in curves(result)] == ["Accuracy by length difference", "Margin by length difference"]

"""Figures on preferences, from log-probabilities that stand in the test."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from sightline.evaluation.formulas import evaluate, formula
from sightline.evaluation.preferences import compared_answers, preference_result, ranked_rows, with_generations
from sightline.evaluation.results import changes, measure, read_measured, write_measured
from sightline.types import Edge, Group, Prompt, Response

Side = tuple[float, int]
"""Log-probability and tokens."""


def pair(name: str, chosen: Side, rejected: Side, looks: dict[str, Side] | None = None) -> Group:
    """A scored comparison; ``looks``: log-probabilities of both answers under other pictures."""
    answers = []
    for place, (logprob, tokens) in enumerate((chosen, rejected)):
        under = {picture: float(both[place]) for picture, both in (looks or {}).items()}
        rewards = {"logprob": logprob, "tokens": float(tokens), **under}
        answers.append(Response(text=f"{name} {place}", rewards=rewards))
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": f"what is {name}?"}]}
    prompt = Prompt(id=name, messages=(message,), images=(f"/{name}.png",))
    return Group(prompts=(prompt,), responses=tuple(answers), edges=(Edge(winner=0, loser=1),))


POLICY = [
    pair("a", (-6.0, 3), (-8.0, 2), {"blank": (-7.0, -8.5), "other": (-6.5, -7.0)}),  # right by both; longer
    pair("b", (-9.0, 3), (-5.0, 1), {"blank": (-9.0, -5.0), "other": (-9.0, -6.0)}),  # right per token only; longer
    pair("c", (-4.0, 1), (-9.0, 3)),  # right by sum only; shorter
    pair("d", (-2.0, 2), (-2.0, 2)),  # a tie is not right; equal
]
REFERENCE = [
    pair("a", (-7.0, 3), (-8.0, 2), {"blank": (-7.5, -8.5), "other": (-7.0, -8.0)}),
    pair("b", (-9.0, 3), (-6.0, 1), {"blank": (-9.0, -6.0), "other": (-9.0, -6.5)}),
    pair("c", (-3.0, 1), (-9.0, 3)),
    pair("d", (-2.0, 2), (-1.0, 2)),
]


def test_figures_of_a_model_alone() -> None:
    found = preference_result(POLICY, beta=0.1).metrics
    expected = {
        "accuracy/sum": 2 / 4,
        "accuracy/mean": 2 / 4,
        "logps/chosen": -21 / 4,
        "logps/rejected": -24 / 4,
        "logps/margin": 3 / 4,
        "logps_mean/chosen": (-2 - 3 - 4 - 1) / 4,
        "logps_mean/rejected": (-4 - 5 - 3 - 1) / 4,
        "logps_mean/margin": 3 / 4,
        "sft_loss/token": 21 / 9,
        "sft_loss/sequence": 10 / 4,
        "length/chosen": 9 / 4,
        "length/rejected": 8 / 4,
        "accuracy/longer": 1 / 2,
        "accuracy/shorter": 1.0,
        "length/longer": 2 / 4,
        # margin 2 and -4; under white 1.5 and -4; under another 0.5 and -3
        "looking/policy/blank": (0.5 + 0.0) / 2,
        "looking/policy/other": (1.5 - 1.0) / 2,
        "looking/policy/blank_share": 0.5 / 6,
        "looking/policy/other_share": 0.5 / 6,
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-12), name
    assert found["length_bias/sum"] == pytest.approx(np.corrcoef([2, -4, 5, 0], [1, 2, -2, 0])[0, 1])
    assert found["length_bias/mean"] == pytest.approx(np.corrcoef([2, 2, -1, 0], [1, 2, -2, 0])[0, 1])
    assert set(found) == {*expected, "length_bias/sum", "length_bias/mean"}  # none relative to a reference


def test_figures_relative_to_a_reference() -> None:
    """Gains over the reference: chosen +1, 0, -1, 0 and rejected 0, +1, 0, -1."""
    found = preference_result(POLICY, REFERENCE, beta=0.5).metrics
    assert found["accuracy/reference"] == 2 / 4
    assert found["rewards/chosen"] == pytest.approx(0.0)
    assert found["rewards/rejected"] == pytest.approx(0.0)
    assert found["rewards/margins"] == pytest.approx(0.5 * (1 - 1 - 1 + 1) / 4)
    assert found["length_bias/reference"] == pytest.approx(np.corrcoef([1, -1, -1, 1], [1, 2, -2, 0])[0, 1])
    # gained margins 1 and -1; under white 0.5 and -1; under another -0.5 and -0.5
    assert found["looking/blank"] == pytest.approx((0.5 + 0.0) / 2)
    assert found["looking/other"] == pytest.approx((1.5 - 0.5) / 2)
    assert found["looking/other_share"] == pytest.approx((1.5 - 0.5) / 2)


def test_directions_and_categories() -> None:
    result = preference_result(POLICY, REFERENCE, beta=0.1)
    ways = result.better
    assert [ways[n] for n in ("accuracy/sum", "rewards/margins", "logps/margin", "looking/other")] == ["higher"] * 4
    assert [ways[n] for n in ("sft_loss/token", "logps/chosen", "length/chosen")] == ["lower", "neither", "neither"]
    assert result.by_category == {
        "chosen longer": {"accuracy/sum": 0.5, "accuracy/mean": 1.0, "accuracy/reference": 0.5},
        "equally long": {"accuracy/sum": 0.0, "accuracy/mean": 0.0, "accuracy/reference": 1.0},
        "chosen shorter": {"accuracy/sum": 1.0, "accuracy/mean": 0.0, "accuracy/reference": 0.0},
    }


def test_two_models_are_compared_in_pairs(tmp_path: Path) -> None:
    """Every comparison gains 0.25 and nothing else changes: the difference has no spread, however far rows differ."""
    better = [
        pair(g.id, (g.responses[0].rewards["logprob"] + 0.25, 3), (g.responses[1].rewards["logprob"], 2))
        for g in POLICY
    ]
    worse = [pair(g.id, (g.responses[0].rewards["logprob"], 3), (g.responses[1].rewards["logprob"], 2)) for g in POLICY]
    for name, groups in (("before", worse), ("after", better)):
        write_measured(measure(preference_result(groups, beta=0.1)), tmp_path / name / "results.json")
    before, after = (read_measured(tmp_path / name) for name in ("before", "after"))
    found = {change.metric: change for change in changes([before], [after])}
    margin = found["logps/margin"].difference
    assert (margin.value, margin.low, margin.high) == pytest.approx((0.25, 0.25, 0.25))
    assert found["accuracy/sum"].difference.value == 0.25 and found["accuracy/sum"].before.low < 0.5
    assert found["sft_loss/token"].difference.value == pytest.approx(-1 / 12)


def test_a_model_without_a_reference_is_not_compared_by_it() -> None:
    alone, relative = (measure(preference_result(POLICY, one, beta=0.1)) for one in (None, REFERENCE))
    for before, after in ((alone, relative), (relative, alone)):
        assert not [c for c in changes([before], [after]) if c.metric.startswith(("rewards", "accuracy/reference"))]


def test_cases_are_ranked_by_what_was_gained_and_without_a_reference_per_token() -> None:
    assert [row.id for row in ranked_rows(preference_result(POLICY, REFERENCE, beta=0.1))] == ["b", "c", "a", "d"]
    assert [row.id for row in ranked_rows(preference_result(POLICY, beta=0.1))] == ["c", "d", "a", "b"]


def test_only_comparisons_of_answers_to_one_prompt_are_evaluated() -> None:
    first = POLICY[0]
    other = Prompt(id="a/other", messages=first.prompts[0].messages, images=("/x.png",))
    answers = (*first.responses, Response(text="under another picture", prompt=1), Response(text="not compared"))
    edges = (*first.edges, Edge(winner=0, loser=2, kind="image"), Edge(winner=1, loser=2))
    group = Group(prompts=(*first.prompts, other), responses=answers, edges=edges)
    assert compared_answers(group) == first


def test_several_comparisons_of_a_group_are_rows_of_their_own() -> None:
    answers = (*POLICY[0].responses, POLICY[1].responses[1])
    group = Group(
        prompts=POLICY[0].prompts, responses=answers, edges=(Edge(winner=0, loser=1), Edge(winner=2, loser=1))
    )
    rows = preference_result([group], beta=0.1).graded
    assert [row.id for row in rows] == ["a#0>1", "a#2>1"] and {row.cluster for row in rows} == {"/a.png"}
    assert [row.counts["margin"] for row in rows] == [2.0, 3.0]


def test_generated_answers_stand_with_their_prompt() -> None:
    told = with_generations(preference_result(POLICY, beta=0.1), {"after": {"b": "a fish"}})
    assert [row.details.get("generated") for row in told.graded] == [None, {"after": "a fish"}, None, None]


def test_formulas_have_powers_and_no_root_of_a_negative_number() -> None:
    sums = {"x": np.array([9.0, -1.0])}
    assert formula("2 * x ** 0.5")(sums)[0] == 6.0
    assert math.isnan(formula("x ** 0.5")(sums)[1])
    assert evaluate("answers ** 2", preference_result(POLICY, beta=0.1).graded) == 16.0

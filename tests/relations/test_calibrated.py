"""CSR's scores and pairs against numbers worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from sightline.recipes.csr import CalibrationSpec, CsrPairSpec
from sightline.relations.calibrated import PairCount, Unpaired, kept, pair_of, path_score, sentence_scores
from sightline.relations.tree import Sentence, SentenceTree
from sightline.types import Edge, Group, Prompt

RELEASE = CalibrationSpec(path_reduce="mean_nodes", only_child="worst")


def tree(*rows):
    """(text, parent, log-probability of its one token, relevance, end) of each node behind the root, from 1."""
    prompt = Prompt(id="p", messages=({"role": "user", "content": "?"},), facts={"n": 1})
    nodes, answers = [Sentence(id=0)], {0: ""}
    for place, (text, parent, logprob, clip, end) in enumerate(rows, start=1):
        answers[place] = f"{answers[parent]} {text}".strip()
        answer = answers[place] if end else None
        nodes.append(
            Sentence(
                id=place, parent=parent, tokens=(place,), logprobs=(logprob,), text=text, final=end, answer=answer,
                clip=clip,
            )
        )  # fmt: skip
    return SentenceTree(group=Group(prompts=(prompt,)), nodes=tuple(nodes))


def worked_example():
    """Section 3.3 of the notes on CSR: own scores of A's children are what they add to A's."""
    return tree(
        ("A.", 0, -0.2, 24.0, None),
        ("B.", 0, -0.5, 27.5, None),
        ("C.", 0, -0.9, 22.0, "stop"),
        ("A1.", 1, -0.1, 20.0, "stop"),
        ("A2.", 1, -0.6, 25.0, "stop"),
        ("B1.", 2, -0.3, 21.0, "stop"),
    )


def test_the_worked_example_in_mode_rank():
    scores = sentence_scores(worked_example(), RELEASE)
    edges = {1: 0.1 / 3 + 0.9 * 2 / 3, 2: 0.1 * 2 / 3 + 0.9 / 3, 3: 1.0, 4: 0.95, 5: 0.55, 6: 1.0}
    assert scores == {node: pytest.approx(-edge, abs=1e-12) for node, edge in edges.items()}


@pytest.mark.parametrize(
    ("reduce", "totals", "rejected"),
    [
        ("mean_nodes", {"A. A1.": 0.5278, "A. A2.": 0.3944, "B. B1.": 0.4556, "C.": 0.5000}, "A. A1."),
        ("mean_sentences", {"A. A1.": 0.7917, "A. A2.": 0.5917, "B. B1.": 0.6833, "C.": 1.0000}, "C."),
    ],
)
def test_the_worked_example_with_the_root_in_the_denominator_and_without(reduce, totals, rejected):
    spec, made = replace(RELEASE, path_reduce=reduce), worked_example()
    scores = sentence_scores(made, spec)
    found = {path[-1].answer: -path_score(path, scores, spec) for path in made.answers()}
    assert found == {answer: pytest.approx(total, abs=5e-5) for answer, total in totals.items()}
    pair = pair_of(made, spec)
    assert [response.text for response in pair.responses] == ["A. A2.", rejected]
    assert [response.reward for response in pair.responses] == [
        pytest.approx(-totals["A. A2."], abs=5e-5), pytest.approx(-totals[rejected], abs=5e-5)
    ]  # fmt: skip
    assert pair.edges == (Edge(winner=0, loser=1),) and pair.prompts[0].facts == {"n": 1}
    assert pair.responses[0].tokens == (1, 5) and pair.responses[0].rollout_logprobs == (-0.2, -0.6)
    assert pair.responses[0].rewards == {"lm": pytest.approx(-0.8), "clip": 24.5, "sentences": 2.0}


def test_an_only_child_is_neutral_unless_the_release_is_asked_for():
    scores = sentence_scores(worked_example(), replace(RELEASE, only_child="neutral"))
    assert scores[6] == -0.5 and scores[4] == pytest.approx(-0.95)


def test_lambda_one_orders_siblings_by_relevance_alone_and_zero_by_the_model_alone():
    made = worked_example()
    for mode in ("rank", "raw", "zscore"):
        for term in ("sum_logprob", "mean_logprob", "prob"):
            for weight, order in ((1.0, [2, 1, 3]), (0.0, [1, 2, 3])):
                scores = sentence_scores(made, CalibrationSpec(mode=mode, weight=weight, lm_term=term))
                assert sorted((1, 2, 3), key=lambda node: -scores[node]) == order, (mode, term)


def test_mode_raw_is_the_papers_rule():
    made = tree(("A.", 0, -0.5, -3.0, None), ("B.", 1, -1.0, 20.0, "stop"), ("C.", 0, -2.0, 10.0, "stop"))
    long = replace(made.nodes[1], tokens=(1, 9), logprobs=(-0.5, -1.5))
    made = replace(made, nodes=(made.nodes[0], long, *made.nodes[2:]))
    spec = CalibrationSpec(mode="raw", lm_term="prob", clip_clamp_zero=True, path_reduce="sum")
    expected = {1: 0.1 * math.exp(-2.0), 2: 18 + 0.1 * math.exp(-1.0), 3: 9 + 0.1 * math.exp(-2.0)}
    scores = sentence_scores(made, spec)
    assert scores == {node: pytest.approx(value) for node, value in expected.items()}
    assert path_score(made.path(2), scores, spec) == pytest.approx(expected[1] + expected[2])
    assert sentence_scores(made, replace(spec, clip_clamp_zero=False))[1] == pytest.approx(-2.7 + 0.1 * math.exp(-2))
    assert sentence_scores(made, replace(spec, weight=0, lm_term="sum_logprob"))[1] == -2.0
    assert sentence_scores(made, replace(spec, weight=0, lm_term="mean_logprob"))[1] == -1.0


def test_mode_zscore_measures_both_terms_within_the_tree():
    made = tree(("A.", 0, -1.0, 20.0, "stop"), ("B.", 0, -3.0, 24.0, "stop"), ("C.", 0, -2.0, 22.0, "stop"))
    unit = math.sqrt(3 / 2)
    scores = sentence_scores(made, CalibrationSpec(mode="zscore", weight=0.75))
    assert scores == {1: pytest.approx(-0.5 * unit), 2: pytest.approx(0.5 * unit), 3: pytest.approx(0.0)}
    flat = tree(("A.", 0, -1.0, 20.0, "stop"), ("B.", 0, -1.0 - 1e-8, 20.0, "stop"))  # but for rounding
    assert set(sentence_scores(flat, CalibrationSpec(mode="zscore")).values()) == {0.0}


def test_the_same_sentence_twice_has_the_same_place():
    made = tree(("A.", 0, -0.4, 20.0, "stop"), ("A.", 0, -0.4 - 1e-9, 20.0, "stop"), ("B.", 0, -0.9, 30.0, "stop"))
    scores = sentence_scores(made, CalibrationSpec(weight=0.5))
    assert scores == {1: pytest.approx(-(1.5 + 2.5) / 6), 2: scores[1], 3: pytest.approx(-(3 + 1) / 6)}


def test_answers_whose_sums_differ_by_rounding_alone_are_no_pair():
    """The same places on two paths, in other company: -0.6375 and -0.6375000000000001."""
    made = tree(
        ("A.", 0, -0.2, 2.0, None),
        ("B.", 0, -0.1, 2.0, None),
        ("A0.", 1, -0.1, 2.0, "stop"),
        ("A1.", 1, -0.2, 1.0, None),
        ("B0.", 2, -0.2, 2.0, "stop"),
        ("B1.", 2, -0.1, 1.0, None),
    )
    totals = [path_score(path, sentence_scores(made, CalibrationSpec()), CalibrationSpec()) for path in made.answers()]
    assert totals[0] > totals[1]
    assert pair_of(made, CalibrationSpec()) == Unpaired(id="p", reason="scores too near")


def test_pruning_keeps_one_of_the_best_and_two_of_the_worst_of_many_and_all_of_few():
    assert kept(range(15), 5) == [0, 13, 14]
    assert kept(range(4), 5) == [0, 1, 2, 3]
    assert kept(range(5), 5) == [0, 3, 4]
    assert kept(range(9), 8) == [0, 1, 2, 5, 6, 7, 8]


def test_junk_and_ends_of_turn_count_for_nothing():
    made = tree(
        ("A.", 0, -0.2, 24.0, None), ("", 1, -0.1, None, "stop"), ("tttt", 0, -0.1, None, None),
        ("B.", 0, -0.9, 20.0, "stop"), ("...", 1, -0.3, None, None),
    )  # fmt: skip
    made = replace(made, nodes=tuple(replace(n, junk="run") if n.text == "tttt" else n for n in made.nodes))
    scores = sentence_scores(made, CalibrationSpec(weight=1.0))
    assert scores == {1: -0.5, 4: -1.0}  # two siblings, not three
    pair = pair_of(made, CalibrationSpec(weight=1.0))
    assert [(r.text, r.reward, r.tokens) for r in pair.responses] == [("A.", -0.5, (1, 2)), ("B.", -1.0, (4,))]


def test_prompts_without_a_pair_say_why_and_are_counted():
    score = CalibrationSpec(mode="raw", weight=1.0)
    cases = {
        "no answer that reached an end": tree(("A.", 0, -0.2, 24.0, None)),
        "every answer is empty": tree(("", 0, -0.2, None, "stop"), ("", 0, -0.2, None, "stop")),
        "one answer alone": tree(("A.", 0, -0.2, 24.0, "stop"), ("", 0, -0.2, None, "stop")),
        "equal texts": tree(("A b.", 0, -0.2, 24.0, "stop"), ("A  b.", 0, -0.3, 23.0, "stop")),
        "scores too near": tree(("A.", 0, -0.2, 24.0, "stop"), ("B.", 0, -0.3, 24.0, "stop")),
    }
    count = PairCount()
    for reason, made in cases.items():
        assert pair_of(made, score) == Unpaired(id="p", reason=reason)
        count.add([pair_of(made, score)])
    near = tree(("A.", 0, -0.2, 24.0, "stop"), ("B.", 0, -0.3, 23.5, "stop"))
    assert pair_of(near, score, CsrPairSpec(min_gap=0.6)) == Unpaired(id="p", reason="scores too near")
    assert isinstance(pair_of(near, score, CsrPairSpec(min_gap=0.5)), Group)
    cut = tree(("A.", 0, -0.2, 24.0, "length"), ("B.", 0, -0.3, 23.5, "length"))
    assert pair_of(cut, score, CsrPairSpec(cut="drop")) == Unpaired(id="p", reason="every answer was cut")
    assert [r.finish_reason for r in pair_of(cut, score).responses] == ["length", "length"]
    longer = tree(("A b c.", 0, -0.2, 20.0, "stop"), ("A.", 0, -0.2, 30.0, None), ("D.", 2, -0.1, 29.0, "stop"))
    count.add([pair_of(longer, score), pair_of(near, score)])
    assert count.figures() == {
        "pairs": 2,
        "dropped": dict.fromkeys(sorted(cases), 1),
        "lengths": {"chosen_tokens": 1.5, "chosen_words": 1.5, "rejected_tokens": 1.0, "rejected_words": 2.0},
        "chosen_shorter": 0.0,
        "rewards": {"chosen": pytest.approx((29.5 + 24) / 2), "rejected": pytest.approx((20 + 23.5) / 2)},
    }

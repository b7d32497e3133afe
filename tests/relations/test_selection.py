"""OViP's rule against the vectors of its specification; pairs that say nothing about length; the best answer."""

import statistics
from dataclasses import replace

import pytest
from test_scores import ends, scored

from sightline.errors import DataError
from sightline.recipes.preferences import SelectionSpec
from sightline.relations.scores import RELATIONS, best, length_balanced
from sightline.relations.selection import check_references, ovip, relation_of
from sightline.types import Group, Prompt, Response

REFERENCE, NONE, RELAXED = (SelectionSpec(fallback=name) for name in ("reference", "none", "relaxed"))


def with_reference(*rewards):
    group = scored(*map(float, rewards))
    return replace(group, prompts=tuple(replace(p, facts={"answer": "a red ball"}) for p in group.prompts))


def pairs(group):
    """Rewards of winner and loser; ``ref`` is the reference answer."""
    told = [r.reward if r.reward is not None else "ref" for r in group.responses]
    return [(told[edge.winner], told[edge.loser]) for edge in group.edges]


SIXTEEN = (9, 9, 8, 8, 7, 7, 6, 6, 6, 5, 5, 4, 4, 3, 2, 2)


@pytest.mark.parametrize(
    ("rewards", "spec", "expected"),
    [
        (SIXTEEN, REFERENCE, [(9, 2), (9, 2), (8, 3)]),
        ((7,) * 8 + (6,) * 8, REFERENCE, []),
        ((5, 5, 4, 4, 4, 3, 3, 3, 2, 2), REFERENCE, [("ref", 2)]),
        ((5, 5, 4, 4, 4, 3, 3, 3, 2, 2), NONE, []),
        ((5, 5, 4, 4, 4, 3, 3, 3, 2, 2), RELAXED, [(5, 2)]),
        ((10, 10, 9, 9, 9, 8, 8, 2), REFERENCE, [(10, 2)]),
        ((8,) * 7 + (5,), REFERENCE, [("ref", 5)]),
        ((8,) * 7 + (5,), RELAXED, [(8, 5)]),
        ((10, 9, 9, 9, 1, 1, 1, 0), REFERENCE, [(10, 0)]),
        ((9, 7, 6, 4), REFERENCE, [(9, 4)]),
        ((7, 6, 5), REFERENCE, [("ref", 5)]),
        ((7,), REFERENCE, []),
        ((4,), REFERENCE, [("ref", 4)]),  # one answer has nobody but the reference beside it
        ((4,), RELAXED, []),
        ((4, 4), replace(RELAXED, relaxed_gap=0.0), []),  # a tie is never a pair
        ((), REFERENCE, []),
        ((9.1, 5.1), REFERENCE, [(9.1, 5.1)]),  # 3.9999999999999996 apart, and 4 is the least
        ((0.7 - 0.4, 0.0), replace(NONE, good=0.3, small_gap=0.1), [(0.7 - 0.4, 0.0)]),  # 0.29999999999999993 is good
        ((0.5, 0.1 + 0.2), replace(RELAXED, good=1, bad=0.3, relaxed_gap=0.1), [(0.5, 0.1 + 0.2)]),  # and bad
        ((9.1, 9.1, 9.1, 9.1, 6.1), REFERENCE, []),  # 3 apart, and more than 3 is asked for
    ],
)  # fmt: skip
def test_golden_vectors(rewards, spec, expected):
    assert pairs(ovip(with_reference(*rewards), spec)) == expected
    backwards = ovip(with_reference(*reversed(rewards)), spec)
    assert pairs(backwards) == expected


def test_the_deviation_is_that_of_the_sample():
    assert statistics.stdev(SIXTEEN) == pytest.approx(2.2721, abs=5e-5)
    # three pairs differ by 7, 7 and 5, the fourth by 4: the bound lies between
    bound = SelectionSpec(deviations=5.001 / statistics.stdev(SIXTEEN))
    assert pairs(ovip(with_reference(*SIXTEEN), bound)) == [(9, 2), (9, 2)]


def test_answers_of_the_same_words_count_once_and_failed_ones_not_at_all():
    group = with_reference(9, 9, 7, 7, 7, 4)
    texts = ("a", " a", "b", "b", "c", "d")
    same = replace(group, responses=tuple(replace(r, text=t) for r, t in zip(group.responses, texts, strict=True)))
    assert ends(ovip(same)) == [(0, 5)]  # four answers: a small group
    failed = replace(same, responses=(*same.responses, replace(same.responses[0], text="e", reward=None)))
    assert ends(ovip(failed)) == [(0, 5)]


def test_a_reference_is_no_better_than_itself():
    group = with_reference(4)
    said = replace(group, responses=(replace(group.responses[0], text=f" {group.prompts[0].facts['answer']} "),))
    assert ovip(said) == said


def test_scores_of_another_scale_have_their_own_thresholds():
    spec = SelectionSpec(good=0.6, small_gap=0.4, bad=0.5, least_deviation=0.15)
    assert pairs(ovip(with_reference(*(score / 10 for score in SIXTEEN)), spec)) == [(0.9, 0.2), (0.9, 0.2), (0.8, 0.3)]


def test_a_reference_is_a_text_among_the_facts():
    bare = scored(7.0, 6.0, 5.0)
    with pytest.raises(DataError, match=r"prompt '0' has no fact 'answer'.*fallback: relaxed or none"):
        ovip(bare)
    with pytest.raises(DataError, match="has no fact 'answer'"):
        check_references([bare], REFERENCE)
    check_references([bare], NONE)
    number = replace(bare, prompts=(replace(bare.prompts[0], facts={"answer": 3}),))
    with pytest.raises(DataError, match="no text as fact 'answer'"):
        check_references([number], REFERENCE)
    other = replace(bare, prompts=(replace(bare.prompts[0], facts={"caption": "it"}),))
    assert ovip(other, SelectionSpec(reference="caption")).responses[3] == Response(text="it")


def worded(*answers):
    responses = tuple(
        Response(text="word " * (n - 1) + f"{reward:07.3f}", reward=float(reward)) for n, reward in answers
    )
    return Group(prompts=(Prompt(id="a", messages=()),), responses=responses)


def test_the_chosen_answer_is_longer_as_often_as_shorter():
    # best over worst would choose the longer one: 0 over 3
    group = worded((9, 10), (4, 6), (8, 3), (2, 0))
    assert ends(length_balanced(group)) == [(0, 3), (1, 2)]
    long, short = ([len(group.responses[i].text) for i in ends(length_balanced(group))[k]] for k in (0, 1))
    assert long[0] > long[1] and short[0] < short[1]
    assert ends(length_balanced(group, 4.0)) == []  # no pair of a gap of 4 chooses the shorter one


def test_without_both_only_answers_of_equal_length_are_compared():
    assert ends(length_balanced(worded((9, 3), (5, 2), (2, 1)))) == []
    assert ends(length_balanced(worded((9, 3), (5, 2), (5, 0)))) == [(1, 2)]
    assert ends(length_balanced(worded((3, 1), (5, 1)))) == ends(length_balanced(worded((3, 1)))) == []


def test_length_is_in_tokens_where_every_answer_has_them():
    group = worded((2, 2), (1, 0), (1, 1))
    tokens = ((1,), (1, 2), (1, 2, 3))
    sampled = replace(
        group, responses=tuple(replace(r, tokens=t) for r, t in zip(group.responses, tokens, strict=True))
    )
    assert ends(length_balanced(group)) == [(2, 1)]  # in words the better ones are never shorter
    assert ends(length_balanced(sampled)) == [(2, 1), (0, 1)]
    one_bare = replace(sampled, responses=(*sampled.responses[:2], group.responses[2]))
    assert ends(length_balanced(one_bare)) == [(2, 1)]


def test_over_many_groups_length_says_nothing():
    import random

    draw = random.Random(0)
    groups = [worded(*((draw.randint(1, 9), draw.random() + 0.3 * n) for n in range(6))) for _ in range(200)]
    signs = {"length_balanced": 0, "best_worst": 0}
    for name in signs:
        for group in groups:
            group = replace(
                group, responses=tuple(replace(r, reward=r.reward + len(r.text) / 20) for r in group.responses)
            )
            for winner, loser in ends(RELATIONS[name](group)):
                longer = len(group.responses[winner].text) - len(group.responses[loser].text)
                signs[name] += (longer > 0) - (longer < 0)
    assert signs["length_balanced"] == 0 and signs["best_worst"] > 100  # the reward likes long answers


def test_the_best_answer_stays_alone():
    group = scored(0.5, None, 2.0, 2.0, 1.0, prompts=[0, 0, 0, 0, 1])
    kept = best(group)
    assert [(r.text, r.prompt) for r in kept.responses] == [("2", 0), ("4", 1)] and not kept.edges
    assert [r.text for r in best(group, 1.5).responses] == ["2"]  # one answer is above nothing
    assert [r.text for r in best(scored(1.0, 1.0)).responses] == ["0"]
    assert best(scored(1.0, 1.0), 0.1).responses == best(scored(None)).responses == ()


def test_relations_by_name():
    group = with_reference(9, 7, 6, 4)
    assert ends(relation_of("ranked", 3.0)(group)) == [(0, 2), (0, 3), (1, 3)]
    assert ends(relation_of("ovip", 0.0, SelectionSpec(small_gap=6, fallback="none"))(group)) == []
    assert ends(relation_of("ovip")(group)) == [(0, 3)]

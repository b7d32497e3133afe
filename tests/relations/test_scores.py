import itertools
from dataclasses import replace

from sightline.relations.scores import RELATIONS, best, best_worst, only_compared, ranked
from sightline.train.rollout_stats import all_equal
from sightline.types import Edge, Group, Prompt, Response


def scored(*rewards, prompts=None):
    prompts = prompts or [0] * len(rewards)
    answers = tuple(
        Response(text=str(i), reward=r, prompt=p) for i, (r, p) in enumerate(zip(rewards, prompts, strict=True))
    )
    return Group(prompts=tuple(Prompt(id=str(p), messages=()) for p in sorted(set(prompts))), responses=answers)


def ends(group):
    return [(edge.winner, edge.loser) for edge in group.edges]


def test_best_over_worst_and_the_first_of_equals():
    assert ends(best_worst(scored(0.5, 1.0, 0.0, 1.0, 0.0))) == [(1, 2)]


def test_a_tie_gives_no_edge():
    assert ends(best_worst(scored(1.0, 1.0))) == ends(ranked(scored(1.0, 1.0))) == []


def test_a_gap_that_is_too_small_gives_no_edge():
    assert ends(best_worst(scored(0.0, 0.25), 0.5)) == []
    assert ends(best_worst(scored(0.0, 0.5), 0.5)) == [(1, 0)]


def test_a_gap_is_that_of_the_numbers_that_were_meant():
    """0.7 - 0.4 is below 0.3 in binary, and 0.1 + 0.2 above it."""
    assert ends(best_worst(scored(0.4, 0.7), 0.3)) == ends(ranked(scored(0.4, 0.7), 0.3)) == [(1, 0)]
    assert ends(best_worst(scored(0.3, 0.1 + 0.2))) == ends(ranked(scored(0.3, 0.1 + 0.2))) == []
    assert [r.text for r in best(scored(0.4, 0.7), 0.3).responses] == ["1"]


def test_of_rewards_that_differ_by_rounding_the_first_counts():
    assert ends(best_worst(scored(0.3, 0.1 + 0.2, 0.0))) == [(0, 2)]
    assert ends(best_worst(scored(1.0, 0.1 + 0.2, 0.3))) == [(0, 1)]
    assert [r.text for r in best(scored(0.3, 0.1 + 0.2)).responses] == ["0"]


def test_what_is_left_of_parts_that_cancel_each_other_is_a_tie():
    """0.1 + 0.2 - 0.3 is not 0 in binary, and no part of it is that small."""
    parts = ({"a": 0.1, "b": 0.2, "c": -0.3}, {"a": 0.0, "b": 0.3, "c": -0.3})
    group = scored(*(sum(part.values()) for part in parts))
    alike = replace(group, responses=tuple(replace(r, rewards=p) for r, p in zip(group.responses, parts, strict=True)))
    assert group.responses[0].reward != group.responses[1].reward
    assert ends(ranked(alike)) == ends(RELATIONS["length_balanced"](alike)) == ends(best_worst(alike)) == []
    assert all_equal(alike) and ends(best_worst(scored(1e-17, 0.0))) == [(0, 1)]


def test_an_order_of_near_rewards_is_one():
    """The middle one is as near to either as rounding is, and cannot be level with both."""
    for rewards in ((1.0, 1.0 + 4e-10, 1.0 + 1.2e-9), (-1.0, -1.0 - 4e-10, -1.0 - 1.2e-9)):
        found = set(ends(ranked(scored(*rewards))))
        for one, two, three in itertools.permutations(range(3)):
            assert (one, two) not in found or (one, three) in found or (three, two) in found


def test_an_answer_is_not_compared_with_itself_whatever_two_asks_of_it_gave():
    group = scored(1.0, 0.0, 0.5)
    same = replace(group, responses=(*(replace(r, text="a cat") for r in group.responses[:2]), group.responses[2]))
    assert ends(best_worst(same)) == [] and ends(ranked(same)) == [(0, 2), (2, 1)]
    cut = replace(same, responses=(*(replace(r, tokens=(n,)) for n, r in enumerate(same.responses)),))
    assert ends(best_worst(cut)) == [(0, 1)]  # one of them ends its turn, and the other was cut


def test_ranked_compares_all_that_differ_enough():
    assert ends(ranked(scored(0.0, 2.0, 1.0, 2.0))) == [(1, 2), (1, 0), (3, 2), (3, 0), (2, 0)]
    assert ends(ranked(scored(0.0, 2.0, 1.0), 1.5)) == [(1, 0)]


def test_only_answers_to_the_same_prompt_are_compared():
    assert ends(best_worst(scored(0.0, 3.0, 1.0, 2.0, prompts=[0, 1, 0, 1]))) == [(2, 0), (1, 3)]


def test_a_response_without_a_reward_is_left_out():
    assert ends(best_worst(scored(None, 1.0, 2.0))) == [(2, 1)]
    assert ends(best_worst(scored(None, 1.0))) == []


def test_none_removes_edges():
    group = best_worst(scored(0.0, 1.0))
    assert RELATIONS["none"](group, 0.0).edges == ()


def test_responses_without_an_edge_are_left_out_and_edges_follow():
    group = only_compared(best_worst(scored(0.5, 0.0, 0.7, 1.0)))
    assert [response.text for response in group.responses] == ["1", "3"]
    assert group.edges == (Edge(winner=1, loser=0),)

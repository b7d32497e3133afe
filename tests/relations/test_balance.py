"""RLAIF-V's comparisons: two drawn to a prompt, and as many shortened ones left out as make the lengths equal."""

import itertools
import random

import pytest

from sightline.relations.balance import Balance, balanced, drawn_pairs
from sightline.relations.scores import ranked
from sightline.types import Edge, Group, Prompt, Response


def group(id, *pairs):
    """Comparisons of answers of so many words: (chosen, rejected)."""
    texts = [" ".join(f"w{n}" for n in range(words)) for pair in pairs for words in pair]
    edges = tuple(Edge(winner=2 * n, loser=2 * n + 1) for n in range(len(pairs)))
    return Group(
        prompts=(Prompt(id=id, messages=({"role": "user", "content": "?"},)),),
        responses=tuple(Response(text=text) for text in texts),
        edges=edges,
    )


def test_the_share_is_the_one_whose_means_are_nearest():
    """Chosen over rejected words 12/10, 9/10, 5/10, 2/10: shortened by -0.2, 0.1, 0.5 and 0.8. Kept up to 0: 12 over
    10, 0.2 apart; up to 0.1: 21 over 20, 0.05; up to 0.5: 26 over 30, 0.13; all: 28 over 40, 0.3."""
    groups = [group("a", (12, 10), (2, 10)), group("b", (9, 10), (5, 10))]
    left, told = balanced(groups, 0.02)
    assert [one.edges for one in left] == [(Edge(winner=0, loser=1),), (Edge(winner=0, loser=1),)]
    assert told == Balance(shortening=pytest.approx(0.1), pairs=4, kept=2, chosen_words=10.5, rejected_words=10.0)
    same, told = balanced(groups, None)
    assert same == groups and told == Balance(shortening=None, pairs=4, kept=4, chosen_words=7.0, rejected_words=10.0)


def published(pairs):
    """The search as the authors' script describes it: every share of 0.00 to 0.98, the first of the nearest."""
    found = []
    for number in range(50):
        kept = [(c, r) for c, r in pairs if (r - c) / r <= number * 0.02]
        if kept:
            chosen, rejected = (sum(side) / len(kept) for side in zip(*kept, strict=True))
            found.append((abs(chosen - rejected) / rejected, number, kept))
    return min(found, key=lambda one: one[:2])


@pytest.mark.parametrize("seed", range(20))
def test_it_is_the_search_of_the_published_code(seed):
    rng = random.Random(seed)
    pairs = [(rng.randint(1, 40), rng.randint(1, 50)) for _ in range(60)]
    left, told = balanced([group(str(n), pair) for n, pair in enumerate(pairs)], 0.02)
    apart, number, kept = published(pairs)
    assert [pair for pair, one in zip(pairs, left, strict=True) if one.edges] == kept
    assert told.shortening == pytest.approx(number * 0.02) and told.kept == len(kept)
    assert abs(told.chosen_words - told.rejected_words) / told.rejected_words == pytest.approx(apart)


def test_nothing_is_divided_by_nothing():
    assert balanced([group("a")], 0.02)[1].kept == 0
    left, told = balanced([group("a", (3, 0))], 0.02)
    assert left[0].edges and (told.kept, told.rejected_words) == (1, 0.0)


def test_two_comparisons_to_a_prompt_are_drawn_by_seed_and_id_and_none_of_equal_words():
    rewards = (0.0, -1.0, -1.0, -3.0, -4.0)
    texts = ("best", "second", " best ", "fourth", "worst")
    answers = tuple(Response(text=text, reward=reward) for text, reward in zip(texts, rewards, strict=True))
    prompt = Prompt(id="a", messages=({"role": "user", "content": "?"},))
    scored = ranked(Group(prompts=(prompt,), responses=answers), 1.0)
    apart = [(w, r) for w, r in itertools.permutations(range(5), 2) if rewards[w] - rewards[r] >= 1]
    every = [pair for pair in apart if pair != (0, 2)]
    assert [(e.winner, e.loser) for e in drawn_pairs(scored, None, 0).edges] == every
    draws = [drawn_pairs(scored, 2, seed).edges for seed in range(50)]
    assert all(len(set(edges)) == 2 and set(edges) <= set(scored.edges) for edges in draws)
    assert len(set(draws)) > 10 and draws[7] == drawn_pairs(scored, 2, 7).edges
    assert {(e.winner, e.loser) for edges in draws for e in edges} == set(every)

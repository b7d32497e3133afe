"""What answers give away by their lengths, doubles, labels and scores, in numbers counted by hand."""

from __future__ import annotations

import pytest

from sightline.data.inspect.answers import AnswerCounter, AnswerFigures
from sightline.types import Edge, Group, Prompt, Response


def pair(number: int, chosen: str, rejected: str, *rewards: float) -> Group:
    prompt = Prompt(id=f"{number}", messages=({"role": "user", "content": "?"},))
    scores = rewards or (None, None)
    answers = tuple(Response(text=text, reward=one) for text, one in zip((chosen, rejected), scores, strict=True))
    return Group(prompts=(prompt,), responses=answers, edges=(Edge(winner=0, loser=1),), source=f"rows.jsonl:{number}")


def counted(*groups: Group, lengths: list[list[int]] | None = None) -> AnswerFigures:
    counter = AnswerCounter("words" if lengths is None else "tokens")
    for place, group in enumerate(groups):
        counter.add(group, None if lengths is None else lengths[place])
    return counter.figures()


def test_length_bias_counts_words_and_gives_equal_lengths_half() -> None:
    found = counted(
        pair(1, "a b c", "a"),
        pair(2, "a b c d", "a c"),
        pair(3, "a b", "c d"),
        pair(4, "a", "b c d"),
    ).bias
    assert found is not None
    assert (found.unit, found.pairs, found.longer, found.shorter) == ("words", 4, 2, 1)
    assert found.share.value == (1 + 1 + 0.5 + 0) / 4
    assert found.difference.value == (2 + 2 + 0 - 2) / 4
    assert found.rule == 0.625 and not found.certain


def test_thirty_longer_answers_are_a_sure_sign_and_thirty_shorter_ones_as_well() -> None:
    longer = counted(*(pair(n, f"{n} a b", f"{n}") for n in range(30))).bias
    shorter = counted(*(pair(n, f"{n}", f"{n} a b") for n in range(30))).bias
    assert longer is not None and shorter is not None
    assert (longer.share.value, longer.rule, longer.certain) == (1.0, 1.0, True)
    assert (shorter.share.value, shorter.rule, shorter.certain) == (0.0, 1.0, True)
    two = counted(*(pair(n, f"{n} a b", f"{n}") for n in range(2))).bias
    assert two is not None and two.rule == 1.0 and not two.certain


def test_lengths_in_tokens_are_taken_where_they_are_given() -> None:
    found = counted(pair(1, "a b c", "a"), lengths=[[2, 9]]).bias
    assert found is not None
    assert (found.unit, found.longer, found.difference.value) == ("tokens", 0, -7.0)


def test_the_comparisons_of_a_ranked_list_are_one_row() -> None:
    """Three answers, three pairs that all say the same: as sure as one pair."""
    prompt = Prompt(id="0", messages=({"role": "user", "content": "?"},))
    edges = tuple(Edge(winner=a, loser=b) for a, b in ((0, 1), (0, 2), (1, 2)))
    texts = ("a b c", "a b", "a")
    ranked = [
        Group(
            prompts=(prompt,),
            responses=tuple(Response(text=f"{n} {t}") for t in texts),
            edges=edges,
            source=f"rows.jsonl:{n}",
        )
        for n in range(3)
    ]
    lists = counted(*ranked).bias
    pairs = counted(*(pair(n, f"{n} b", f"{n}") for n in range(3))).bias
    assert lists is not None and pairs is not None
    assert (lists.pairs, pairs.pairs) == (9, 3)
    assert lists.share.low == pytest.approx(pairs.share.low)


def test_same_but_for_white_space_and_case_is_named() -> None:
    found = counted(pair(1, "A red  circle", "a red circle"), pair(2, "a", "b")).same
    assert (found.count, found.rows) == (1, ("rows.jsonl:1: 'A red  circle'",))


def test_an_answer_on_both_sides_of_different_rows_is_counted() -> None:
    found = counted(
        pair(1, "yes", "no"), pair(2, "no", "maybe"), pair(3, "a", "b"), pair(4, " no ", "c"), pair(5, "c", "d")
    )
    # "no" (rows 1, 2, 4) and "c" (rows 4, 5)
    assert found.shared_answers == 2
    assert found.both_sides.rows == tuple(f"rows.jsonl:{n}" for n in (1, 2, 4, 5))


def test_one_row_with_the_same_answer_on_both_sides_shares_nothing() -> None:
    prompt = Prompt(id="0", messages=({"role": "user", "content": "?"},))
    chain = Group(
        prompts=(prompt,),
        responses=(Response(text="a"), Response(text="b"), Response(text="c")),
        edges=(Edge(winner=0, loser=1), Edge(winner=1, loser=2)),
        source="rows.jsonl:1",
    )
    found = counted(chain)
    assert (found.shared_answers, found.both_sides.count) == (0, 0)


def test_labels_scores_and_preferences_against_them() -> None:
    prompt = Prompt(id="0", messages=({"role": "user", "content": "?"},))
    labelled = [Group(prompts=(prompt,), responses=(Response(text="x", label=on),)) for on in (True, True, False)]
    rated = [pair(1, "a", "b", 0.2, 0.9), pair(2, "a", "c", 1.0, -1.0)]
    found = counted(*labelled, *rated)
    assert (found.desirable, found.undesirable) == (2, 1)
    assert found.scores is not None
    assert (found.scores.count, found.scores.least, found.scores.most) == (4, -1.0, 1.0)
    assert found.scores.mean == pytest.approx(0.275)
    assert (found.against_scores.count, found.against_scores.rows) == (1, ("rows.jsonl:1: 0.2 over 0.9",))


def test_comparisons_of_pictures_say_nothing_about_lengths() -> None:
    group = pair(1, "a b c", "a")
    visual = Group(**{**vars(group), "edges": (Edge(winner=0, loser=1, kind="image"),)})
    assert counted(visual).bias is None

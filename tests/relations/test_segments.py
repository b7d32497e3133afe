from dataclasses import replace

import pytest

from sightline.errors import DataError
from sightline.recipes.schema import SegmentSpec
from sightline.relations.segments import segment_weights, weigh_segments
from sightline.rendered import RenderedGroup, RenderedPrompt, RenderedResponse
from sightline.types import Edge, Group, Prompt, Response


def rendered(tokens, edges):
    """One prompt; responses of these token ids."""
    return RenderedGroup(
        group=Group(
            prompts=(Prompt(id="a", messages=()),),
            responses=tuple(Response(text="x") for _ in tokens),
            edges=edges,
        ),
        prompts=(RenderedPrompt(tokens=(1,)),),
        responses=tuple(RenderedResponse(prompt=0, tokens=ids, trained=(True,) * len(ids)) for ids in tokens),
        images=(),
    )


def weights_of(group):
    return [response.weights for response in group.group.responses]


def test_tokens_that_only_one_answer_has_weigh_more():
    # "a red circle ." against "a blue circle and a star ."
    made = weigh_segments(rendered([(1, 2, 3, 9), (1, 4, 3, 5, 1, 6, 9)], (Edge(winner=0, loser=1),)), SegmentSpec())
    assert weights_of(made) == [(1.0, 5.0, 1.0, 1.0), (1.0, 5.0, 1.0, 5.0, 5.0, 5.0, 1.0)]
    assert [response.tokens for response in made.group.responses] == [(1, 2, 3, 9), (1, 4, 3, 5, 1, 6, 9)]


def test_shared_zero_trains_differences_only():
    made = weigh_segments(
        rendered([(1, 2, 9), (1, 3, 9)], (Edge(winner=0, loser=1),)), SegmentSpec(corrected=1, shared=0)
    )
    assert weights_of(made) == [(0.0, 1.0, 0.0), (0.0, 1.0, 0.0)]


def test_one_answer_under_two_pictures_keeps_one_set_of_weights():
    # responses 0 and 2 are the same answer; the comparison of pictures alone would find no difference
    edges = (Edge(winner=0, loser=1), Edge(winner=0, loser=2, kind="image"))
    made = weigh_segments(rendered([(1, 2, 9), (1, 3, 9), (1, 2, 9)], edges), SegmentSpec())
    assert weights_of(made) == [(1.0, 5.0, 1.0)] * 3


def test_of_several_comparisons_the_largest_weight_counts():
    edges = (Edge(winner=0, loser=1), Edge(winner=0, loser=2))
    made = weigh_segments(rendered([(1, 2, 3), (1, 4, 3), (1, 2, 5)], edges), SegmentSpec(corrected=3))
    assert weights_of(made) == [(1.0, 3.0, 3.0), (1.0, 3.0, 1.0), (1.0, 1.0, 3.0)]


def test_answers_that_are_not_compared_or_mismatched_get_none():
    made = weigh_segments(rendered([(1, 2), (3, 4)], (Edge(winner=0, loser=1, kind="mismatched"),)), SegmentSpec())
    assert weights_of(made) == [None, None]


def test_both_answers_agree_on_what_they_share():
    # two alignments are as long: whichever is taken, both sides take it
    one, two = (1, 2, 1), (2, 1, 2)
    found = [segment_weights(*pair, corrected=5.0, shared=1.0) for pair in ((one, two), (two, one))]
    shared = [
        [token for token, weight in zip(ids, weights, strict=True) if weight == 1]
        for ids, weights in zip((one, two), found, strict=True)
    ]
    assert shared[0] == shared[1] and len(shared[0]) == 2


def test_weights_of_the_data_are_not_overwritten():
    group = rendered([(1, 2), (1, 3)], (Edge(winner=0, loser=1),))
    own = replace(group.group.responses[0], tokens=(1, 2), weights=(1.0, 2.0))
    group = replace(group, group=replace(group.group, responses=(own, group.group.responses[1]), source="f:3"))
    with pytest.raises(DataError, match=r"f:3: .*token weights"):
        weigh_segments(group, SegmentSpec())

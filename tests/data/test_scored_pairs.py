"""Rewards that stand in a preference row: what a reward model's margin is made of."""

import pytest

from sightline.data.load import groups_from_records
from sightline.errors import DataError
from sightline.recipes.schema import DataSpec

PAIR = {"prompt": "what?", "chosen": "a kite", "rejected": "a dog", "source": "web"}


def read(**columns):
    (group,) = groups_from_records([PAIR | columns], DataSpec(path="rows"))
    return group


@pytest.mark.parametrize("names", [("chosen_score", "rejected_score"), ("score_chosen", "score_rejected")])
def test_scores_are_the_rewards_of_the_two_answers(names):
    group = read(**dict(zip(names, (4, 1.5), strict=True)))
    assert [response.reward for response in group.responses] == [4.0, 1.5]
    assert group.prompts[0].facts == {"source": "web"}  # no fact that a reward model could read off
    assert [response.reward for response in read().responses] == [None, None]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"chosen_score": 1.0}, "found the scores chosen_score, expected one of chosen and one of rejected"),
        ({"chosen_score": 1.0, "score_rejected": 0.0}, "found the scores chosen_score, score_rejected"),
        ({"chosen_score": "high", "rejected_score": 0}, "'chosen_score' is 'high', expected a finite number"),
        ({"chosen_score": 1.0, "rejected_score": float("nan")}, "'rejected_score' is nan"),
    ],
)
def test_scores_that_cannot_be_read_are_refused(columns, message):
    with pytest.raises(DataError, match=message):
        read(**columns)

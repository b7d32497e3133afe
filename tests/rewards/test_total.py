"""The weighted sum: parts kept apart, failures that are never zero, terms for some prompts."""

import logging
import threading
import time
from dataclasses import replace

import pytest
from answers import asked
from reward_server import RewardServer

from sightline.errors import DataError, ServiceError
from sightline.recipes.terms import JudgeSpec, ServiceSpec
from sightline.rewards.base import reward_groups, score_groups
from sightline.rewards.build import build_term
from sightline.rewards.terms import Failure
from sightline.rewards.total import TRIES, Part, WeightedSum
from sightline.types import Group


class Lengths:
    """Counts characters; does what ``before`` does first."""

    remote = False

    def __init__(self, before=lambda groups: None):
        self.before, self.calls = before, []

    def check(self, groups):
        pass

    def give_up(self):
        pass

    def values(self, groups):
        self.calls.append([group.id for group in groups])
        self.before(groups)
        return [[float(len(response.text)) for response in group.responses] for group in groups]


class Fixed(Lengths):
    """Gives what it is made with to each answer."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def values(self, groups):
        return [[self.value] * len(group.responses) for group in groups]


def summed(**terms):
    return WeightedSum([Part(name=name, term=term, weight=weight) for name, (weight, term) in terms.items()])


def test_parts_are_kept_before_their_weights_and_summed_after():
    reward = summed(size=(0.5, Lengths()), bonus=(-2.0, Fixed(3.0)), logged=(0.0, Fixed(7.0)))
    (group,) = reward_groups(reward, [asked("four", "of")])
    assert [response.rewards for response in group.responses] == [
        {"size": 4, "bonus": 3, "logged": 7},
        {"size": 2, "bonus": 3, "logged": 7},
    ]
    assert [response.reward for response in group.responses] == [-4.0, -5.0]


def test_terms_see_all_groups_at_once():
    term = Lengths()
    groups = [asked("a", id="one"), asked("b", id="two")]
    assert [g.responses[0].reward for g in reward_groups(summed(size=(1.0, term)), groups)] == [1, 1]
    assert term.calls == [["one", "two"]]


def test_an_answer_that_one_term_cannot_judge_has_no_reward_and_says_why(caplog):
    class Picky(Lengths):
        def values(self, groups):
            return [[1.0 if r.text else Failure(reason="nothing to read") for r in g.responses] for g in groups]

    with caplog.at_level(logging.WARNING):
        (group,) = summed(size=(1.0, Lengths()), picky=(1.0, Picky())).rewards([asked("a", "")])
    assert group.responses[0].reward == 2 and group.responses[0].reward_error is None
    failed = group.responses[1]
    assert (failed.reward, failed.rewards, failed.reward_error) == (None, {"size": 0.0}, "picky: nothing to read")
    assert "1 of 2 answers have no reward; first, of p: picky: nothing to read" in caplog.text


def test_no_answer_is_no_answer_to_any_term():
    group = asked("a", "b")
    group = replace(group, responses=(replace(group.responses[0], finish_reason="error"), group.responses[1]))
    (scored,) = summed(size=(1.0, Lengths())).rewards([group])
    assert [(r.reward, r.reward_error) for r in scored.responses] == [(None, "there is no answer"), (1.0, None)]


def test_a_term_that_raises_is_asked_group_by_group_and_fails_for_its_group_alone():
    def breaks(groups):
        if any(group.id == "bad" for group in groups):
            raise ConnectionError("gone")

    term = Lengths(breaks)
    groups = [asked("a", "bb", id="bad"), asked("ccc", id="good")]
    bad, good = summed(size=(1.0, term)).rewards(groups)
    assert good.responses[0].reward == 3
    assert [r.reward_error for r in bad.responses] == ["size: ConnectionError: gone"] * 2
    assert [r.reward for r in bad.responses] == [None, None]
    assert term.calls == [["bad", "good"], *[["bad"]] * TRIES, ["good"]]


def test_a_fault_that_goes_away_costs_nothing():
    left = [ConnectionError("gone")]

    def breaks(groups):
        if left:
            raise left.pop()

    (group,) = summed(size=(1.0, Lengths(breaks))).rewards([asked("a")])
    assert group.responses[0].reward == 1 and not left


def test_a_service_that_is_away_fails_answers_and_wrong_data_ends_the_work():
    def away(groups):
        raise ServiceError("answers nothing", source="http://host")

    term = Lengths(away)
    (group,) = summed(judge=(1.0, term)).rewards([asked("a")])
    assert group.responses[0].reward_error == "judge: http://host: answers nothing"
    assert len(term.calls) == 1  # it had its own tries

    def wrong(groups):
        raise DataError("has no facts", source="f:1", remedy="Add them")

    with pytest.raises(DataError, match=r"^f:1: reward judge: has no facts. Add them"):
        summed(judge=(1.0, Lengths(wrong))).rewards([asked("a")])


@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_refused(odd):
    with pytest.raises(DataError, match=r"f\.jsonl:3: reward odd: the term gave (nan|inf). Give None"):
        summed(odd=(1.0, Fixed(odd))).rewards([asked("a")])


def test_a_term_that_loses_an_answer_is_refused():
    class Short(Lengths):
        def values(self, groups):
            return [[1.0]]

    with pytest.raises(DataError, match="reward short: the term gave 1 values"):
        summed(short=(1.0, Short())).rewards([asked("a", "b")])


def test_services_work_while_other_terms_do():
    """Each waits for the other: one after the other would never end."""
    meeting = threading.Barrier(3, timeout=60)

    def term(remote):
        made = Lengths(lambda groups: meeting.wait())
        made.remote = remote
        return made

    reward = summed(a=(1.0, term(True)), b=(1.0, term(True)), c=(1.0, term(False)))
    assert reward.rewards([asked("a")])[0].responses[0].reward == 3


@pytest.mark.parametrize("own", ["service", "judge"])
def test_wrong_data_does_not_wait_for_a_service_that_is_away(own):
    """The service would be waited for ten minutes."""
    with RewardServer(lambda *_: (200, {})) as server:
        pass
    specs = {
        "service": ServiceSpec(url=server.url),
        "judge": JudgeSpec(judge=server.url, options={"model": "m", "tries": 50}),
    }

    def wrong(groups):
        time.sleep(0.3)
        raise DataError("is wrong", source="f:1")

    reward = summed(away=(1.0, build_term(specs[own])), wrong=(1.0, Lengths(wrong)))
    started = time.monotonic()
    with pytest.raises(DataError, match="f:1: reward wrong: is wrong"):
        reward.rewards([asked("a", id=str(n)) for n in range(30)])
    assert time.monotonic() - started < 60


def of_kinds(term, **where):
    rest = Part(name="all", term=Fixed(10.0), weight=1.0)
    return WeightedSum([Part(name="some", term=term, weight=2.0, where=where), rest])


def test_a_term_judges_the_prompts_that_it_names():
    term = Lengths()
    groups = [asked("a", id="one", kind="caption", n=1), asked("a", id="two", kind="yes_no", n=2)]
    one, two = of_kinds(term, kind=("caption", "story")).rewards(groups)
    assert (one.responses[0].rewards, one.responses[0].reward) == ({"some": 1, "all": 10}, 12)
    assert (two.responses[0].rewards, two.responses[0].reward) == ({"all": 10}, 10)
    assert term.calls == [["one"]]
    assert of_kinds(term, n=("2",)).rewards(groups)[1].responses[0].reward == 12
    assert of_kinds(Lengths(), seen=("true",)).rewards([asked("a", seen=True)])[0].responses[0].reward == 12


def test_several_prompts_of_a_group_may_be_of_different_kinds():
    first, second = asked("a", kind="x"), asked("bb", "ccc", kind="y")
    group = Group(
        prompts=(*first.prompts, *second.prompts),
        responses=(first.responses[0], *(replace(r, prompt=1) for r in second.responses)),
    )
    (scored,) = of_kinds(Lengths(), kind=("y",)).rewards([group])
    assert [response.rewards for response in scored.responses] == [
        {"all": 10},
        {"some": 2, "all": 10},
        {"some": 3, "all": 10},
    ]


def test_prompts_without_the_key_or_without_a_term_are_refused():
    with pytest.raises(DataError, match=r"f\.jsonl:3: prompt 'p' has no fact 'knd', by which some chooses"):
        of_kinds(Lengths(), knd=("caption",)).rewards([asked("a", kind="caption")])
    alone = WeightedSum([Part(name="some", term=Lengths(), weight=1.0, where={"kind": ("caption",)})])
    with pytest.raises(DataError, match=r"f\.jsonl:3: no term of the reward judges prompt 'p'"):
        alone.check([asked("a", kind="yes_no")])


def test_groups_are_scored_together_and_by_themselves_where_that_fails():
    class Reward:
        def __init__(self):
            self.asked = []

        def reward(self, group):
            return self.rewards([group])[0]

        def rewards(self, groups):
            self.asked.append([group.id for group in groups])
            if any(group.id == "bad" for group in groups):
                raise OSError("gone")
            return [replace(g, responses=tuple(replace(r, reward=1.0) for r in g.responses)) for g in groups]

    reward = Reward()
    good, bad = score_groups(reward, [asked("a", id="good"), asked("a", id="bad")], tries=3)
    assert good.responses[0].reward == 1 and bad == "OSError: gone"
    assert reward.asked == [["good", "bad"], ["good"], *[["bad"]] * 3]

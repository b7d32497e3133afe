import sys
import types
from dataclasses import replace

import pytest

from sightline.errors import DataError, RecipeError
from sightline.rewards.base import Reward, load_reward, reward_groups
from sightline.types import Group, Prompt, Response


class Shortness:
    """Rewards short answers."""

    def reward(self, group):
        return replace(group, responses=tuple(replace(r, reward=-float(len(r.text))) for r in group.responses))


class Turned:
    """Does to the group what ``turn`` does."""

    def __init__(self, turn):
        self.turn = turn

    def reward(self, group):
        return self.turn(group)


class Silent:
    """Has no method ``reward``."""


@pytest.fixture
def my_rewards(monkeypatch):
    module = types.ModuleType("my_rewards")
    module.Shortness, module.shortness, module.Silent = Shortness, Shortness(), Silent
    monkeypatch.setitem(sys.modules, "my_rewards", module)


@pytest.mark.parametrize("name", ["my_rewards:Shortness", "my_rewards:shortness"])
def test_a_class_or_an_object_is_found_by_its_path(my_rewards, name):
    reward = load_reward(name)
    assert isinstance(reward, Reward)
    group = Group(prompts=(Prompt(id="p", messages=()),), responses=(Response(text="four"), Response(text="of")))
    assert [response.reward for response in reward.reward(group).responses] == [-4.0, -2.0]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("scnes", ["'scnes'", "scenes", "package.module:Name"]),
        ("no_such_package.module:Judge", ["no_such_package", "cannot be imported"]),
        ("my_rewards:Judge", ["my_rewards defines no Judge"]),
        ("my_rewards:Silent", ["not a reward", "reward(group)"]),
    ],
)
def test_errors_say_what_to_write(my_rewards, name, words):
    with pytest.raises(RecipeError) as error:
        load_reward(name)
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize(
    ("turn", "words"),
    [
        (lambda group: None, "gave back other answers than it got, or none"),
        (lambda group: replace(group, responses=group.responses[:1]), "gave back other answers"),
        (lambda group: replace(group, responses=group.responses[::-1]), "gave back other answers"),
        (
            lambda group: replace(group, responses=(replace(group.responses[0], reward=float("nan")),) * 2),
            "other answers",
        ),
        (
            lambda group: replace(group, responses=tuple(replace(r, reward=float("nan")) for r in group.responses)),
            "the reward Turned gave nan. Leave the reward None",
        ),
        (
            lambda group: replace(
                group, responses=tuple(replace(r, rewards={"x": float("inf")}) for r in group.responses)
            ),
            "the reward Turned gave inf",
        ),
    ],
)
def test_a_reward_that_loses_answers_or_gives_no_number_is_refused(turn, words):
    responses = (Response(text="four"), Response(text="of"))
    group = Group(prompts=(Prompt(id="p", messages=()),), responses=responses, source="f:3")
    with pytest.raises(DataError, match=f"^f:3: .*{words}"):
        reward_groups(Turned(turn), [group])
    unjudged = reward_groups(Turned(lambda group: group), [group])
    assert unjudged == [group]


def test_a_reward_that_loses_a_group_is_refused():
    class Half(Shortness):
        def rewards(self, groups):
            return [self.reward(group) for group in groups[1:]]

    group = Group(prompts=(Prompt(id="p", messages=()),), responses=(Response(text="four"),))
    with pytest.raises(DataError, match=r"the reward Half gave back 1 of 2 groups. Return every group"):
        reward_groups(Half(), [group, group])

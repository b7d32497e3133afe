import sys
import types
from dataclasses import replace

import pytest

from sightline.errors import RecipeError
from sightline.rewards.base import Reward, load_reward
from sightline.types import Group, Prompt, Response


class Shortness:
    """Rewards short answers."""

    def reward(self, group):
        return replace(group, responses=tuple(replace(r, reward=-float(len(r.text))) for r in group.responses))


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

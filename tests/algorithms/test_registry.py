import sys
import types
from dataclasses import dataclass

import pytest

from sightline.algorithms.dpo import DPO
from sightline.algorithms.registry import BUILT_IN, build_algorithm
from sightline.algorithms.sft import SFT
from sightline.errors import RecipeError
from sightline.types import Algorithm


def test_builds_what_the_options_say():
    assert build_algorithm({"name": "sft"}) == SFT()
    built = build_algorithm({"name": "dpo", "beta": 0.2, "link": "robust", "label_smoothing": 0.1})
    assert built == DPO(beta=0.2, link="robust", label_smoothing=0.1)
    mixed = build_algorithm({"name": "dpo", "link": {"sigmoid": 0.8, "bco_pair": 0.2}})
    assert mixed == DPO(link={"sigmoid": 0.8, "bco_pair": 0.2})


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_name_stands_for_an_algorithm(name):
    assert isinstance(build_algorithm({"name": name}), Algorithm)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, ["no name", "sft, dpo"]),
        ({"name": "dpoo"}, ["'dpoo'", "Did you mean 'dpo'"]),
        ({"name": "dpo", "betta": 0.1}, ["algorithm.betta", "Did you mean 'beta'"]),
        ({"name": "dpo", "beta": "much"}, ["algorithm.beta", "'much'", "number"]),
        ({"name": "dpo", "beta": -1}, ["algorithm.beta", "-1"]),
        ({"name": "dpo", "beta": "0.5"}, ["algorithm.beta", "'0.5'", "number"]),
        ({"name": "dpo", "beta": True}, ["algorithm.beta", "True", "number"]),
        ({"name": "dpo", "beta": float("inf")}, ["algorithm.beta of dpo is inf", "finite"]),
        ({"name": "aot", "paired": 1}, ["algorithm.paired", "boolean"]),
        ({"name": "..aot:AOT"}, ["'..aot:AOT'", "package.module:Class"]),
        ({"name": "dpo", "link": "ipoo"}, ["algorithm.link", "'ipoo'", "'ipo'"]),
        ({"name": "no_such_package.module:Loss"}, ["no_such_package", "cannot be imported"]),
        ({"name": "sightline.algorithms.dpo:Dpo"}, ["defines no Dpo"]),
        ({"name": "sightline.types:Term"}, ["not an algorithm"]),
    ],
)
def test_errors_say_what_was_found_and_what_to_write(options, words):
    with pytest.raises(RecipeError) as error:
        build_algorithm(options)
    assert all(word in str(error.value) for word in words)


@dataclass(frozen=True, kw_only=True)
class Margin(Algorithm):
    least: float
    unit: str = "pair"


def test_third_party_algorithm_by_its_path(monkeypatch):
    module = types.ModuleType("my_losses")
    module.Margin = Margin
    monkeypatch.setitem(sys.modules, "my_losses", module)
    assert build_algorithm({"name": "my_losses:Margin", "least": 2}) == Margin(least=2.0)
    with pytest.raises(RecipeError, match=r"algorithm\.least"):
        build_algorithm({"name": "my_losses:Margin"})

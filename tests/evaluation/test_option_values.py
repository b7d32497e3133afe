"""Options of benchmarks: the value, or an error that names benchmark, option and value."""

import pytest

from sightline.errors import DataError
from sightline.evaluation.option_values import count_option, names_option, number_option, text_option


def test_values_and_defaults():
    given = {"a": "table", "b": 0.5, "c": 3, "d": "x, y", "e": ["x"]}
    assert text_option("amber", given, "a", "nltk", ("table", "nltk")) == "table"
    assert text_option("amber", {}, "a", "nltk") == "nltk"
    assert number_option("amber", given, "b", 0.8, least=0, most=1) == 0.5
    assert number_option("amber", {}, "b", 0.8, least=0, most=1) == 0.8
    assert count_option("amber", given, "c", 1) == 3
    assert names_option("pope", given, "d") == ["x", "y"] and names_option("pope", given, "e") == ["x"]
    assert names_option("pope", {}, "d") is None


@pytest.mark.parametrize("value", [None, "", 3, ["table"], "tagger"])
def test_a_text_must_be_a_known_one(value):
    with pytest.raises(DataError, match=r"amber: a is .* Choose table or nltk"):
        text_option("amber", {"a": value}, "a", "nltk", ("table", "nltk"))


@pytest.mark.parametrize("value", [None, "abc", "0.5", True, -0.1, 1.1, float("nan"), [1]])
def test_a_number_must_be_one_within_its_limits(value):
    with pytest.raises(DataError, match=r"amber: b is .* Give a number from 0 to 1"):
        number_option("amber", {"b": value}, "b", 0.8, least=0, most=1)


@pytest.mark.parametrize("value", [None, 0, -1, 1.5, "3", True])
def test_a_count_must_be_a_whole_number(value):
    with pytest.raises(DataError, match=r"object_halbench: c is .* at least 1"):
        count_option("object_halbench", {"c": value}, "c", 1)


@pytest.mark.parametrize("value", [3, [], "", "x,,y", [1], {"x": 1}])
def test_names_must_be_texts(value):
    with pytest.raises(DataError, match=r"pope: d is .* separated by commas"):
        names_option("pope", {"d": value}, "d")

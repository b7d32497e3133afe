"""Tokens are NLTK's, with their places."""

import pytest

from sightline.evaluation.words import treebank_words


def texts(text):
    return [word.text for word in treebank_words(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A cat/dog isn't here.", ["A", "cat/dog", "is", "n't", "here", "."]),
        ("stop, light; 3,000 e-books", ["stop", ",", "light", ";", "3,000", "e-books"]),
        ("The dogs' bowl and John's", ["The", "dogs", "'", "bowl", "and", "John", "'s"]),
        ("a dog.The end...", ["a", "dog.The", "end", "..."]),
        ('She said "bus." (really)', ["She", "said", '"', "bus", ".", '"', "(", "really", ")"]),
        ("**bus** -- x—y", ["*", "*", "bus", "*", "*", "--", "x", "—", "y"]),
        ("", []),
        (".", ["."]),
    ],
)
def test_tokens_are_cut_by_the_treebank_rules(text, expected):
    assert texts(text) == expected


def test_every_token_knows_its_place():
    text = "  Two dogs' bowls, isn't it?\n(A cat.) "
    words = treebank_words(text)
    assert all(text[word.start : word.end] == word.text for word in words)
    assert "".join(text.split()) == "".join(word.text for word in words)

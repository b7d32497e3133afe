"""Tokens are NLTK's, with their places."""

import pytest

from sightline.evaluation.words import Word, as_written, treebank_words


def texts(text):
    return [word.text for word in treebank_words(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A cat/dog isn't here.", ["A", "cat/dog", "is", "n't", "here", "."]),
        ("stop, light; 3,000 e-books", ["stop", ",", "light", ";", "3,000", "e-books"]),
        ("The dogs' bowl and John's", ["The", "dogs", "'", "bowl", "and", "John", "'s"]),
        ("a dog.The end...", ["a", "dog.The", "end", "..."]),
        # a full stop comes off at the end of a sentence only, and of several ends in a chunk only the last counts
        ("A car. A bus.) A van.' A cab", ["A", "car", ".", "A", "bus", ".", ")", "A", "van", ".", "'", "A", "cab"]),
        ("a dog.? A cow., a cat.-x (a pig.", ["a", "dog.", "?", "A", "cow.", ",", "a", "cat.-x", "(", "a", "pig", "."]),
        ("car.)bus. end", ["car.", ")", "bus", ".", "end"]),
        ("car.)bus.", ["car", ".", ")", "bus", "."]),
        ("**A bus.** x", ["*", "*", "A", "bus", ".", "*", "*", "x"]),
        ("bus.& x", ["bus.", "&", "x"]),
        ("bus.” “car", ["bus", ".", "”", "“", "car"]),
        # blanks that sentences are not sought by
        ("A car.\u3000It's. x", ["A", "car.", "It", "'s", ".", "x"]),
        ("a\u00a0dog", ["a", "dog"]),
        (
            "A sign 'stop' and 'it's' o'clock 'll",
            ["A", "sign", "'", "stop", "'", "and", "'", "it", "'s", "'", "o'clock", "'ll"],
        ),
        (
            "x's' dog'd Ridern't's they'LL they'Ll",
            ["x", "'s", "'", "dog", "'d", "Rider", "n't", "'s", "they", "'LL", "they'Ll"],
        ),
        ("x's' y's'! z's'* w's'", ["x", "'s", "'", "y", "'s", "'", "!", "z's", "'", "*", "w's", "'"]),
        ("a,,b a, 1,5 3:x", ["a", ",", ",b", "a", ",", "1,5", "3", ":", "x"]),
        ("--- `a` ``b''", ["--", "-", "`", "a", "`", "``", "b", "''"]),
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


def test_words_of_the_lower_case_stand_where_the_text_has_them():
    """``İ`` is two characters in lower case."""
    text = "İİ A dog, İ a cat"
    words = as_written(text, treebank_words(text.lower()))
    assert [text[word.start : word.end] for word in words] == ["İİ", "A", "dog", ",", "İ", "a", "cat"]
    assert as_written(text, [Word("none", 0, 0)]) == [Word("none", 0, 0)]

"""Where sentences end, and which are none."""

from __future__ import annotations

import re

import pytest

from sightline.relations.junk import junk, plain
from sightline.relations.sentence_end import ends, may_end


def cut(pieces):
    """Sentences of a text that comes in these pieces."""
    found, text = [], ""
    for piece in pieces:
        if ends(text, piece):
            found.append(text.strip())
            text = ""
        text += piece
    return [*found, text.strip()]


def characters(text):
    return list(text)


def words(text):
    return re.findall(r"\n| ?[^\s]+", text)


TEXTS = {
    "A dog sits there. Two cats look on! Is it late? Yes": 4,
    "It weighs 3.5 kg and costs $4.20. Nice.": 2,
    "Dr. Who and Mr. J. R. Smith live in the U.S. since 1990. They smile.": 2,
    "There are animals, e.g. dogs, i.e. pets vs. wild ones. End.": 2,
    'He says "Stop." She does. (It is a sign.) Good': 4,
    "Well... then it goes on. Next": 3,
    "Look at them?! They run. Fast": 3,
    "1. A red ball. 2. A blue one.": 2,
    "A title\nA line. Another": 3,
    "He is taller than I. She waves. End": 3,
    "El camión es marrón. Der Ball ist grün. Die Katze schläft. Hay un avión": 4,
    "It is bus No. 5. A Ph.D. student waits. Is it late? No. He waves": 5,
}


@pytest.mark.parametrize("pieces", [characters, words], ids=["by character", "by word"])
@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_cut_where_its_sentences_end(text, pieces):
    found = cut(pieces(text))
    assert len(found) == TEXTS[text], found
    assert " ".join(" ".join(found).split()) == " ".join(text.split())


def test_marks_without_blanks_end_where_the_script_has_none():
    assert cut(characters("这是一只狗。它在跑！真的吗？是")) == ["这是一只狗。", "它在跑！", "真的吗？", "是"]
    assert cut(characters("她说「停。」他停了。")) == ["她说「停。」", "他停了。"]
    assert cut(characters("यह कुत्ता है। वह बिल्ली है।")) == ["यह कुत्ता है।", "वह बिल्ली है।"]
    assert cut(characters("ما هذا؟ قطة")) == ["ما هذا؟", "قطة"]


def test_what_follows_decides():
    assert may_end("It weighs 3.") and not ends("It weighs 3.", "5") and ends("It weighs 3.", " It")
    assert not ends("A dog", " runs") and not ends("A dog.", ".") and not ends("A dog.", '"')
    assert not ends("...", " A") and not ends("", " A")  # nothing is said yet
    assert ends("A dog.\n", "A") and ends("A dog. ", "A")
    assert not ends("A dog.", "") and not ends("A dog.", "\ufffd")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("A red ball lies there.", None),
        ("Ja.", "short"),
        ("...!!", "short"),
        ("이것은 개입니다.", "korean"),
        ("これは犬です。", "japanese"),
        ("Это собака.", "cyrillic"),
        ("A dog \U0001f436 runs.", "emoji"),
        ("A&nbsp;&nbsp;dog runs.", "nbsp"),
        ("A&nbsp;dog runs.", None),
        ("a red red red red red red ball", "repeated word"),
        ("a red red red red red ball", None),
        ("no" + "o" * 10, "repeated character"),
        ("x x x x x x x x x x x x", "repeated word"),
        ("a - - - - - - - - - - - b", "repeated character"),
        ("hittttt", "run"),
        ("a dog, , , , a cat", "run"),
        ("one\n\n\n\n\n\ntwo", "line ends"),
        ("one\n\n\n\n\ntwo", None),
    ],
)
def test_junk_is_named(text, reason):
    assert junk(text) == reason


def test_relevance_is_asked_of_words_and_common_punctuation():
    assert plain("  A *red*\n ball → 3.5 kg, it's “new”! ") == "A red ball 3.5 kg, it's new!"

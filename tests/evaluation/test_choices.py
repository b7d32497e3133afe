"""Letters read out of answers: the traps of each suite's rule, by hand."""

import pytest

from sightline.evaluation.choices import (
    cambrian_letter,
    cambrian_word,
    lmms_leading_letter,
    lmms_letter,
    mmstar_hit,
    ovip_equal,
    ovip_hit,
    vlmeval_option,
    vlmeval_prompt,
)

OPTIONS = {"A": "a red car", "B": "a dog", "C": "the blue bird", "D": "nan"}


@pytest.mark.parametrize(
    ("answer", "letter", "hit"),
    [
        ("A", "A", True),
        ("a) the cat", "A", True),
        ("Apple", "A", True),  # nothing needs to follow the letter
        ("Answer: A", "A", True),  # begins with an a
        ("Answer: B", "B", False),
        ("(B) two", "B", True),
        ("( B)", "B", False),
        ("Option C.", "C", True),
        ("option  C", "C", False),  # two blanks
        ("The answer is D", "D", True),
        ("The answer is: D", "D", False),
        ("The\nanswer is d", "D", True),  # line ends are blanks
        ("  \nB", "B", True),
        ("The best is B", "B", False),
        ("", "A", False),
        ("(", "A", False),
        ("option", "A", False),
    ],
)
def test_mmstar_looks_at_the_first_character(answer, letter, hit):
    assert mmstar_hit(answer, letter) is hit


@pytest.mark.parametrize(
    ("answer", "letter", "hit"),
    [
        ("(A)", "A", True),
        ("((. a", "A", True),
        ("Don't know", "D", True),
        ("Option A", "A", False),
        ("The answer is A", "A", False),
        ("not really", "no", True),
        ("", "A", False),
    ],
)
def test_ovip_begins_with(answer, letter, hit):
    assert ovip_hit(answer, letter) is hit


def test_ovip_compares_the_first_four_characters():
    assert ovip_equal("A. foo", "A", first=4) is False  # "a. f" becomes "af"
    assert ovip_equal("A.", "A", first=4) is True
    assert ovip_equal("(A)", "A", first=4) is True
    assert ovip_equal("A\n\n\nlong", "A", first=4) is True
    assert ovip_equal("Turn left.", "turn left", first=None) is True
    assert ovip_equal("Turn left.", "turn left", first=4) is False


def test_ovip_keeps_full_stops_on_cv_bench():
    assert ovip_equal("C", "(C)", first=4, keep_stops=True) is True
    assert ovip_equal("( C )", "(C)", first=4, keep_stops=True) is True
    assert ovip_equal("C.", "(C)", first=4, keep_stops=True) is False
    assert ovip_equal("(C) 1", "(C)", first=4, keep_stops=True) is True  # "(c) " is all that is seen
    assert ovip_equal("(C)x", "(C)", first=4, keep_stops=True) is False
    assert ovip_equal("C 12", "(C)", first=4, keep_stops=True) is False


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("b", ""),  # upper case only
        ("I considered A and C. The answer is B.", "B"),
        ("Option A is tempting. After checking, the final answer is (B).", "B"),
        ("A is wrong, so it must be C", "A"),  # the start is trusted more than the end
        ("It is A or it is (C)", "C"),
        ("Maybe (A). Or (B) then", "B"),  # the last one among equals
        ("Apple", "A"),  # found anywhere, as there is nothing else
        ("The answer is Blue", "B"),
        ("'C'", "C"),
        ("B.,", "B"),
        ("", ""),
        ("   ", ""),
        ("none", ""),
    ],
)
def test_lmms_takes_the_most_trusted_form(answer, letter):
    assert lmms_letter(answer) == letter


def test_lmms_reads_any_leading_letter_on_cv_bench():
    assert lmms_leading_letter("The second") == "T"
    assert lmms_leading_letter(" ( b) foo") == "B"
    assert lmms_leading_letter("C.") == "C"
    assert lmms_leading_letter("1") == ""


@pytest.mark.parametrize(
    ("answer", "option"),
    [
        ("B", "B"),
        ("(B).", "B"),
        ("I think it is B", "B"),
        ("B is what I see in it", ""),  # the letter is six words from the end
        ("A or B", ""),
        ("a dog", "B"),
        ("It is a dog", "B"),
        ("a dog and a red car", ""),
        ("Z", "Z"),
        ("Cannot determine the answer B", "Z"),
        ("nan", "D"),
        ("x" * 60 + " a dog", ""),  # longer than twice all options
        ("Although B is close, the answer is A", "A"),
        ("Answer is B. No wait, A", "B"),  # the first place
        ("A and C are wrong. The correct answer is **C**, as can be seen from the picture.", "C"),
        ("THE ANSWER IS b, and not what is told by A or by any of the others", "B"),
        ("A, B, C: the answer is E or so", ""),  # no option
        ("A or B: the answer is E. The answer is B, I mean, as it can be seen.", ""),  # the first place alone
        ("A or B? the answer is Blue", ""),
        ("A or B? the answer is: B, is it not, or is it", ""),
        ("", ""),
    ],
)
def test_vlmeval_infers_one_option_or_none(answer, option):
    assert vlmeval_option(answer, OPTIONS) == option


def test_vlmeval_asks_with_listed_options():
    expected = "Hint: h\nQuestion: q\nOptions:\nA. x\nB. y\nPlease select the correct answer from the options above. \n"
    assert vlmeval_prompt("q", {"A": "x", "B": "y"}, hint="h") == expected


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("(B) two", "b"),
        ("The answer is B.", "b"),
        ("Answer:C", "c"),
        ("The answer is: B", ":"),  # "answer is" comes first and leaves the colon
        ("The answer", "t"),
        ("", ""),
    ],
)
def test_cambrian_takes_the_first_character(answer, letter):
    assert cambrian_letter(answer) == letter


def test_cambrian_strips_more_on_omni3d():
    assert cambrian_letter("()", ".:,") == ""
    assert cambrian_letter("(:", ".") == ":"
    assert cambrian_letter("(:", ".:,") == ""


def test_cambrian_takes_the_first_word_on_realworldqa():
    assert cambrian_word("The answer is Two.") == "two"
    assert cambrian_word("A.") == "a"
    assert cambrian_word("A. The left one") == "a."
    assert cambrian_word("Yes, it is") == "yes,"
    assert cambrian_word("") == ""

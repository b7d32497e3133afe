"""How each suite reads yes or no, accident by accident."""

import pytest

from sightline.evaluation.yes_no import (
    cambrian_word,
    lmms_word,
    pope_yes,
    strip_punctuation,
    vlmeval_yes_no,
    yes_no_counts,
    yes_no_figures,
)

POPE_YES = ["Yes", "NO", "No!", "No\nfoo", "nope", "isn't it", "none", "", "maybe", "Yes. No.", "cannot"]
POPE_NO = ["No", "no", "No.", "No, there is", "There is not", "Yes, no doubt", "not sure", " no"]


@pytest.mark.parametrize("answer", POPE_YES)
def test_pope_reads_yes(answer):
    assert pope_yes(answer)


@pytest.mark.parametrize("answer", POPE_NO)
def test_pope_reads_no(answer):
    assert not pope_yes(answer)


def test_pope_deletes_commas_without_a_blank():
    assert pope_yes("It is,no")  # becomes "It isno"
    assert not pope_yes("It is ,no")


def test_lmms_takes_the_whole_answer():
    assert lmms_word(" Yes\n") == "yes"
    assert lmms_word("Yes.") == "yes."


@pytest.mark.parametrize(
    ("answer", "word"), [("Yes, it is", "yes"), ("No.", "no"), ("no.:,", "no"), ("Yes!", "yes!"), ("", ""), ("\n", "")]
)
def test_cambrian_takes_the_first_word(answer, word):
    assert cambrian_word(answer) == word


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        ("Yes.", "yes"),
        ("No, there is none", "no"),
        ("yes and no", "unknown"),
        ("NO!", "no"),
        ("yes/no", "unknown"),
        ("no-one", "no"),  # the hyphen touches no blank, so it becomes one
        ("a no-one there - no", "no"),
        ("nope", "unknown"),
        ("", "unknown"),
    ],
)
def test_vlmeval_wants_exactly_one_of_the_two(answer, read):
    assert vlmeval_yes_no(answer) == read


def test_marks_are_deleted_where_one_of_them_touches_a_blank():
    assert strip_punctuation("a-b") == "a b"
    assert strip_punctuation("a-b -c") == "ab c"
    assert strip_punctuation("a-b 1,000") == "ab 1000"
    assert strip_punctuation("3.5 m. Yes.") == "3.5 m Yes"
    assert strip_punctuation("." * 40) == "." * 8, "re.UNICODE is taken for a count of 32"


def test_figures_from_cells():
    answers = [(True, True)] * 3 + [(True, False)] + [(False, False)] * 4 + [(False, True)] * 2
    cells = [yes_no_counts(says_yes=said, says_no=not said, label_yes=label) for said, label in answers]
    sums = {name: sum(cell[name] for cell in cells) for name in cells[0]}
    figures = yes_no_figures(sums, len(answers))
    assert figures == pytest.approx(
        {"accuracy": 0.7, "precision": 0.75, "recall": 0.6, "f1": 2 * 0.75 * 0.6 / 1.35, "yes_ratio": 0.4}
    )


def test_nothing_to_divide_by_is_zero():
    cell = yes_no_counts(says_yes=False, says_no=True, label_yes=False)
    assert yes_no_figures(cell, 1) == {"accuracy": 1, "precision": 0, "recall": 0, "f1": 0, "yes_ratio": 0}

"""Rules against numbers worked out by hand, and what each refuses."""

from dataclasses import replace

import pytest
from answers import asked, sampled

from sightline.errors import DataError, RecipeError
from sightline.recipes.terms import (
    ExactSpec,
    FormatSpec,
    LengthSpec,
    MultipleChoiceSpec,
    NoEndSpec,
    NumericSpec,
    OverlongSpec,
    RepetitionSpec,
    SymbolicSpec,
    YesNoSpec,
)
from sightline.rewards.build import build_term
from sightline.rewards.rules import numbers


def values(spec, group, max_new_tokens=None):
    (found,) = build_term(spec, max_new_tokens).values([group])
    return found


def value(spec, group, max_new_tokens=None):
    (found,) = values(spec, group, max_new_tokens)
    return found


def test_multiple_choice():
    spec = MultipleChoiceSpec(right=2.0, wrong=-1.0, unread=-0.5)
    texts = ("B", "(B)", "The answer is B.", "C", "A dog.", "none of these", "")
    assert values(spec, asked(*texts, answer="(B)")) == [2, 2, 2, -1, -1, -0.5, -0.5]
    assert values(MultipleChoiceSpec(reader="mmstar"), asked("Bananas", "option b", "C", answer="B")) == [1, 1, 0]
    assert values(MultipleChoiceSpec(reader="ovip"), asked("(b) it", "it", answer="b")) == [1, 0]
    assert values(MultipleChoiceSpec(letters="ABCDE", fact="label"), asked("E", "D", label="E")) == [1, 0]


@pytest.mark.parametrize("answer", ["E", "", "dog", 2, ["A"]])
def test_multiple_choice_refuses_what_is_no_letter(answer):
    with pytest.raises(DataError, match=r"f\.jsonl:3: fact 'answer' of prompt 'p' is .*one of the letters A, B, C, D"):
        values(MultipleChoiceSpec(), asked("A", answer=answer))


def test_yes_and_no_count_alike_in_both_directions():
    spec = YesNoSpec(right=1.0, wrong=-1.0)
    texts = ("Yes", "yes, it is", "No.", "No! It is not", "Perhaps", "There is no dog")
    assert values(spec, asked(*texts, answer="yes")) == [1, 1, -1, -1, 0, 0]
    assert values(spec, asked(*texts, answer="No")) == [-1, -1, 1, 1, 0, 0]
    assert values(spec, asked("Yes", "No", answer=True)) == [1, -1]
    assert values(YesNoSpec(reader="only"), asked("It is: no", "no, yes", answer="no")) == [1, 0]
    assert values(YesNoSpec(reader="pope"), asked("There is not", "Perhaps", answer="no")) == [1, 0]
    with pytest.raises(DataError, match="fact 'answer' of prompt 'p' is 'maybe'"):
        values(spec, asked("Yes", answer="maybe"))


def test_exact():
    texts = ("the Dog", "dog.", "dogs", " ")
    assert values(ExactSpec(unread=-1.0), asked(*texts, answer=["cat", "dog"])) == [1, 1, 0, -1]
    assert values(ExactSpec(normalize="none"), asked("dog ", "Dog", answer="dog")) == [1, 0]
    assert values(ExactSpec(), asked("three", "4", answer=3)) == [1, 0]
    people = ["dog", "dog", *["cat"] * 7, "cow"]  # two of ten: 0.6 by the metric's table
    found = values(ExactSpec(score="vqa", right=2.0, wrong=0.0), asked("dog", "cat", "cow", "hen", answer=people))
    assert found == pytest.approx([1.2, 2.0, 0.6, 0.0])
    for answer in ([], {"a": 1}, [None]):
        with pytest.raises(DataError, match="a text, or a list of texts that is not empty"):
            values(ExactSpec(), asked("a", answer=answer))


def test_numeric():
    assert values(NumericSpec(), asked("3", "between 1 and 3", "3 of 4", "three", answer=3)) == [1, 1, 0, 0]
    assert values(NumericSpec(take="first"), asked("3 of 4", "4 of 3", answer="3")) == [1, 0]
    assert values(NumericSpec(absolute=0.5), asked("2.5", "3.5", "3.51", answer=3)) == [1, 1, 0]
    assert values(NumericSpec(relative=0.01), asked("1,010", "$989", "1011", answer="1,000")) == [1, 0, 0]
    assert values(NumericSpec(), asked("-2", "2", "1e1", answer=-2)) == [1, 0, 0]
    for answer in ("three", True, None, "3 or 4", float("inf")):
        with pytest.raises(DataError, match="fact 'answer'"):
            values(NumericSpec(), asked("3", answer=answer))


def test_numbers_of_a_text():
    assert numbers("-3 to 1,250.5 (2e3), not A4, 3-5, .5, 50%, 42.") == [-3, 1250.5, 2000, 3, 5, 0.5, 50, 42]
    assert numbers("1e999 is no number, and none is here") == []


def test_the_answer_may_stand_within_a_tag():
    spec = ExactSpec(within="answer", unread=-1.0)
    texts = ("<answer>dog</answer>", "<answer>cat</answer> or <answer>\ndog</answer>", "dog", "<answer>dog")
    assert values(spec, asked(*texts, answer="dog")) == [1, 1, -1, -1]


def test_format():
    tags = FormatSpec(tags=("think", "answer"))
    good = "<think>It\nbarks.</think>\n<answer>dog</answer>\n"
    bad = (
        "dog", f"So: {good}", "<answer>dog</answer><think>It barks.</think>", f"{good}<answer>cat</answer>",
        "<think>a<think>b</think></think><answer>c</answer>", "<think>a</think><answer>b",
    )  # fmt: skip
    assert values(tags, asked(good, *bad)) == [1, *[0] * len(bad)]
    assert values(FormatSpec(pattern=r"[A-D]\..*"), asked("B. a\nb", "B", "so B. a")) == [1, 0, 0]


def test_length_is_signed_by_the_prompt_as_in_llava_rlhf():
    """Check (c) of its specification, and the table's 90 tokens: with weight -10, -5.0, +2.5 and -1.004."""
    spec = LengthSpec(weight=-10.0)
    assert value(spec, sampled(448), 896) == 0.5
    assert value(spec, sampled(448, length_bonus=-0.5), 896) == -0.25
    assert value(spec, sampled(896, length_bonus=1), 896) == 1.0
    assert spec.weight * value(spec, sampled(90), 896) == pytest.approx(-1.004, abs=1e-3)
    assert value(LengthSpec(weight=1.0, unit="words", limit=8), asked("two words")) == 0.25
    assert value(LengthSpec(weight=1.0, unit="characters", limit=8), asked("four")) == 0.5


def test_length_refuses_what_it_cannot_measure():
    with pytest.raises(DataError, match=r"f\.jsonl:3: an answer to prompt 'p' has no 'tokens'"):
        value(LengthSpec(weight=1.0), asked("text"), 8)
    with pytest.raises(DataError, match="fact 'length_bonus' of prompt 'p' is 'long'"):
        value(LengthSpec(weight=1.0), sampled(3, length_bonus="long"), 8)
    with pytest.raises(RecipeError, match="length has no limit"):
        build_term(LengthSpec(weight=1.0))


def test_repetition():
    assert values(RepetitionSpec(n=1), asked("a b a B", "a b c", "")) == [-0.5, 0, 0]
    # a b a, b a b, a b a, b a b, a b a: 2 distinct of 5
    assert values(RepetitionSpec(), asked("a b a b a b a", "a b", "a b c a b d")) == [2 / 5 - 1, 0, 0]


def test_no_end():
    """Check (e) of LLaVA-RLHF: with weight 8 an answer that does not end loses 8."""
    spec = NoEndSpec(weight=8.0)
    assert [spec.weight * value(spec, sampled(4, finish=finish)) for finish in ("stop", "length")] == [0, -8]
    asks = NoEndSpec(texts=("?",))
    assert [value(asks, sampled(4, text=text)) for text in ("A dog.", "A dog?")] == [0, -1]
    group = asked("a")
    group = replace(group, responses=(replace(group.responses[0], finish_reason=None),))
    with pytest.raises(DataError, match="has no 'finish_reason'"):
        value(spec, group)


def test_overlong_is_dapos_formula():
    """Limit 20,480 and cache 4,096, as the paper has them: 0 to 16,384, then evenly down to -1."""
    spec = OverlongSpec(limit=20480, cache=4096)
    lengths = (1, 16384, 17408, 18432, 20479, 20480, 20481)
    expected = [0, 0, -0.25, -0.5, -4095 / 4096, -1, -1]
    assert [value(spec, sampled(length)) for length in lengths] == pytest.approx(expected)
    assert value(OverlongSpec(cache=4), sampled(7), 8) == -0.75
    with pytest.raises(RecipeError, match="cache 9 and limit 8"):
        build_term(OverlongSpec(cache=9), 8)
    with pytest.raises(DataError, match="has no 'tokens'"):
        value(spec, asked("a"))


def test_symbolic_is_the_reward_of_fact_rlhf():
    """Check (d) of its specification, with weight 2: MCQ 2 and 0; on a question whose truth is no, No +1 and Yes -1;
    where the truth is yes, 0 always."""
    spec = SymbolicSpec(weight=2.0)

    def rewards(kind, *texts, **options):
        return [spec.weight * one for one in values(replace(spec, **options), asked(*texts, caption_type=kind))]

    assert rewards(3, "B. winter", "winter", "So the correct option is B.", "A. summer", "B winter") == [2, 0, 2, 0, 0]
    assert rewards(5, "D. x", "B. x") == [2, 0]
    assert rewards(6, "Yes, there is", "No, there is not", "There is not") == [-1, 1, 0]
    assert rewards(7, "Yes, there is", "No, there is not") == [0, 0]
    assert rewards(7, "Yes, there is", "No, there is not", "Both", both=True) == [1, -1, 0]
    assert rewards(1, "B. Yes") == [0]
    for kind in (0, 8, "6", True, 2.0):
        with pytest.raises(DataError, match="a whole number from 1 to 7"):
            rewards(kind, "a")


def test_the_sum_of_llava_rlhf():
    """R = r + 8 * no_end - 10 * m * n / 896 + 2 * c for an answer of 448 tokens that is cut: 0 - 8 - 5 + 2."""
    from sightline.rewards.build import build_reward

    terms = {"no_end": NoEndSpec(weight=8.0), "length": LengthSpec(weight=-10.0), "symbolic": SymbolicSpec(weight=2.0)}
    group = sampled(448, finish="length", text="C. a", caption_type=4)
    (response,) = build_reward(terms, max_new_tokens=896).reward(group).responses
    assert response.rewards == {"no_end": -1, "length": 0.5, "symbolic": 1}
    assert response.reward == -11


@pytest.mark.parametrize(
    "spec", [MultipleChoiceSpec(), YesNoSpec(), ExactSpec(), NumericSpec(), SymbolicSpec()], ids=lambda spec: spec.kind
)
def test_a_missing_fact_is_an_error_that_names_row_and_key(spec):
    group = asked("a", other=1)
    message = rf"f\.jsonl:3: prompt 'p' has no fact '{spec.fact}'; it has other. Add it"
    with pytest.raises(DataError, match=message):
        values(spec, group)
    with pytest.raises(DataError, match=message):
        build_term(spec).check([replace(group, responses=())])

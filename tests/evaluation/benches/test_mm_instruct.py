"""MM-Instruct: verdicts from two orders, win rates, and the baselines."""

import pytest

from evaluation.benches.accuracy_checks import Judge, check_grading, check_round_trip, invented
from sightline.errors import DataError
from sightline.evaluation.bench import JudgeReply
from sightline.evaluation.benches.mm_instruct import BENCH, verdict
from sightline.evaluation.formulas import evaluate
from sightline.evaluation.results import measure


@pytest.mark.parametrize(
    ("first", "second", "found"),
    [
        ("A", "B", "win"),
        ("B", "A", "loss"),
        ("A", "A", "tie"),  # position bias
        ("B", "B", "tie"),
        ("C", "C", "tie"),
        ("A", "C", "win"),  # one clear letter is enough
        ("C", "B", "win"),
        ("C", "A", "loss"),
        ("B", "C", "loss"),
        (" A\n", "A", "tie"),
        ("A.", "A", "loss"),  # the replies differ, and only the second is a letter
        ("A", "A.", "win"),
        ("none", "none", "ignored"),  # a tie of two texts that say nothing, to the script
        ("A.", "C", "ignored"),
        ("I prefer A", "B is worse", "ignored"),
    ],
)
def test_verdicts(first, second, found):
    assert verdict(first, second) == found


def test_a_judge_that_always_prefers_the_first_ties(shared_data):
    result = check_grading(BENCH, shared_data / "mm_instruct", "official", judge=lambda request: "A")
    assert result.metrics == {"wins": 0, "losses": 0, "ties": 99, "win_or_half_tie_rate": 50}


def test_counts_and_rates(shared_data):
    """By question: 0 to 57 win, 58 to 77 lose, the rest ties: 58 / 78."""
    data = shared_data / "mm_instruct"

    def reply(request):
        number, order = request.id.split("/")
        wins, loses = int(number) < 58, 58 <= int(number) < 78
        return {(True, "first"): "A", (True, "swapped"): "B"}.get((wins, order)) or (
            ("B" if order == "first" else "A") if loses else "C"
        )

    result = check_grading(BENCH, data, "official", judge=reply)
    assert result.metrics_printed == {
        "wins": "58",
        "losses": "20",
        "ties": "21",
        "win_rate": "74.36",
        "win_or_half_tie_rate": "69.19",
    }
    assert {name: evaluate(formula, result.graded) for name, formula in result.formulas.items()} == result.metrics
    wins = measure(result).intervals["wins"]
    # 99 draws with 58 wins: binomial, 58 +- 1.96 * sqrt(99 * 58/99 * 41/99)
    assert (wins.low, wins.high) == pytest.approx((58 - 9.6, 58 + 9.6), abs=1.5)


def test_both_orders_and_the_picture_go_to_the_judge(shared_data):
    data = shared_data / "mm_instruct"
    answers = invented(BENCH, data)
    judge = Judge(lambda request: "C")
    BENCH.grade(data, answers, "official", {"baseline": "gpt4v"}, judge)
    first, swapped = judge.requests[:2]
    baseline = BENCH.read_export(data / "baseline_answers/gpt4v.json")[0].text
    text = first.messages[-1]["content"]
    assert text.index(f"Answer A:\n{answers[0].text}") < text.index(f"Answer B:\n{baseline}")
    assert f"Answer A:\n{baseline}" in swapped.messages[-1]["content"]
    assert first.images == (str(data / "images/sa_1419.jpg"),) and first.temperature == 0.2


def test_text_only_shows_the_caption_instead(shared_data):
    data = shared_data / "mm_instruct"
    judge = Judge(lambda request: "C")
    result = BENCH.grade(data, invented(BENCH, data), "official", {"text_only": "true"}, judge)
    assert judge.requests[0].images == ()
    assert "A model wearing a white suit walks on the runway" in judge.requests[0].messages[-1]["content"]
    assert "unofficial" in result.notes[1]


def test_failures_are_counted_and_left_out(shared_data):
    data = shared_data / "mm_instruct"

    def reply(request):
        number, order = request.id.split("/")
        if number == "0":
            return JudgeReply(text=None, error="timeout")
        if number == "1":
            return "A." if order == "first" else "well"
        return "A" if order == "first" else "B"

    result = BENCH.grade(data, invented(BENCH, data), "official", {}, Judge(reply))
    assert (result.failures, result.metrics["wins"], result.metrics["win_or_half_tie_rate"]) == (2, 97, 100)


def test_baselines(shared_data):
    data = shared_data / "mm_instruct"
    with pytest.raises(DataError, match=r"llava-v1\.5-13b, llava-v1\.5-7b, or a file"):
        BENCH.grade(data, invented(BENCH, data), "official", {"baseline": "gpt5"}, Judge(lambda request: "C"))


def test_round_trip(shared_data, tmp_path):
    check_round_trip(BENCH, shared_data / "mm_instruct", tmp_path / "answers.jsonl")

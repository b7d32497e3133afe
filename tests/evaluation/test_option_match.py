"""Options by inference and by a judge: who is asked, how often, and what a judge that cannot tell costs."""

from evaluation.benches.accuracy_checks import Judge
from sightline.evaluation.accuracy import Row
from sightline.evaluation.bench import Answer, JudgeReply
from sightline.evaluation.option_match import match_options

OPTIONS = {"A": "a red car", "B": "a dog"}
TEXTS = ("B", "the animal", "Cannot determine the answer", "who knows")
ROWS = [Row(id=str(n), text=f"q{n}", truth="B", options=OPTIONS) for n in range(4)]
ANSWERS = [Answer(id=row.id, text=text) for row, text in zip(ROWS, TEXTS, strict=True)]


def test_without_a_judge_what_names_no_option_stays_open():
    match = match_options(ROWS, ANSWERS)
    assert match.letters == {"0": "B", "1": "", "2": "Z", "3": ""} and match.failures == 0
    assert match.notes == ("exact matching without a judge: 2 answers named no option and count as wrong",)


def test_a_judge_is_asked_about_open_answers_only_and_at_most_three_times():
    def reply(request):
        if request.id == "1":
            return "(B)." if request.attempt else JudgeReply(text=None, error="timeout")
        return "I cannot say"

    judge = Judge(reply)
    match = match_options(ROWS, ANSWERS, judge)
    assert match.letters == {"0": "B", "1": "B", "2": "Z", "3": ""} and match.failures == 1
    assert [(one.id, one.attempt) for one in judge.requests] == [("1", 0), ("3", 0), ("1", 1), ("3", 1), ("3", 2)]
    content = judge.requests[0].messages[0]["content"]
    assert "Question: q1\nOptions:\nA. a red car\nB. a dog\nAnswer: the animal\n" in content
    assert "asked about 2 answers, 1 without a letter" in match.notes[0]


def test_a_judge_that_says_none_is_no_failure():
    match = match_options(ROWS, ANSWERS, Judge(lambda request: "Z"))
    assert match.letters["3"] == "Z" and match.failures == 0

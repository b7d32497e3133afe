"""What every benchmark must do: round trip, order independence, errors that name ids, and formulas."""

import random

import pytest

from sightline.errors import DataError
from sightline.evaluation.bench import Answer, JudgeReply
from sightline.evaluation.formulas import evaluate

WORDS = ("A", "B", "(C)", "D.", "Yes", "no, not at all", "The answer is B", "2", "it is\na red car", "", " A ")


class Judge:
    """Answers each request by a function of it."""

    name = "fake"

    def __init__(self, reply):
        self.reply, self.requests = reply, []

    def ask(self, requests):
        self.requests += requests
        return [
            reply if isinstance(reply := self.reply(one), JudgeReply) else JudgeReply(text=reply) for one in requests
        ]


def invented(bench, data, seed=0):
    """Answers drawn from a few words."""
    draw = random.Random(seed)
    return [Answer(id=question.id, text=draw.choice(WORDS)) for question in bench.questions(data)]


def check_grading(bench, data, protocol, *, options=None, judge=None, texts=None):
    """Order independence, formulas, and errors for ids; returns the result."""
    answers = texts or invented(bench, data)
    options = options or {}
    result = bench.grade(data, answers, protocol, options, judge and Judge(judge))
    shuffled = random.Random(1).sample(answers, len(answers))
    again = bench.grade(data, shuffled, protocol, options, judge and Judge(judge))
    assert again.metrics == result.metrics and again.by_category == result.by_category
    assert [row.id for row in again.graded] == [row.id for row in result.graded]
    for name, formula in result.formulas.items():
        if name in result.metrics:
            assert evaluate(formula, result.graded) == pytest.approx(result.metrics[name], abs=0.02)
    assert set(result.metrics_printed) == set(result.metrics)
    for wrong, message in (
        (answers[1:], answers[0].id),
        ([*answers, answers[2]], "twice"),
        ([*answers, Answer(id="stranger", text="A")], "stranger"),
    ):
        with pytest.raises(DataError, match=message):
            bench.grade(data, wrong, protocol, options, judge and Judge(judge))
    with pytest.raises(DataError, match="unknown options colour"):
        bench.grade(data, answers, protocol, {"colour": 1}, judge and Judge(judge))
    with pytest.raises(DataError, match="protocol 'nobody'"):
        bench.grade(data, answers, "nobody", options, judge and Judge(judge))
    return result


def check_round_trip(bench, data, path):
    """Answers -> official format -> answers, whatever order they came in."""
    answers = invented(bench, data)
    bench.export(data, answers[::-1], path)
    assert bench.read_export(path) == answers

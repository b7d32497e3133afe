"""Answers of every benchmark through its official submission format: the same texts, the same figures."""

import random

import pytest
from slices import Slices

from sightline.errors import DataError
from sightline.evaluation.answers import read_responses
from sightline.evaluation.bench import Answer, JudgeReply
from sightline.evaluation.benches import MODULES, load_bench
from sightline.evaluation.stages import GradeSpec, grade_answers

TEXTS = (
    *("Yes", "No", "A", "(B) a dog", "", " yes ", "NaN", "null", "1e5", "007", "=SUM(A1)"),
    *('A dog and\na cat sit "here", on a star.', "Die Katze ✓ 图片 \u2028 Ende"),
)
SUFFIX = {"mme": "", "pope": "", "mmstar": ".xlsx"}
"""Of a submission that is a folder or a spreadsheet; others are JSON lines."""


class Judge:
    """Says the same to everything."""

    name = "always"

    def __init__(self, reply):
        self.reply = reply

    def ask(self, requests):
        return [JudgeReply(text=self.reply) for _ in requests]


REPLIES = {
    "mmhal": "Rating: 4",
    "object_halbench": '["dog"]',
    "hallusionbench": "Correct.",
    "llava_bench": "8 7\nBecause.",
    "llava_bench_coco": "8 7\nBecause.",
    "reefknot": "entailment",
    "mm_instruct": "A",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("slices")
    Slices(root).everything()
    return root


@pytest.mark.parametrize("name", MODULES)
def test_answers_survive_the_official_format(name, data, tmp_path):
    bench = load_bench(name)
    chosen = random.Random(name)
    for number in range(6):
        answers = [Answer(id=one.id, text=chosen.choice(TEXTS)) for one in bench.questions(data / name)]
        path = tmp_path / f"{number}{SUFFIX.get(name, '.jsonl')}"
        bench.export(data / name, answers, path)
        again = read_responses(bench, path)
        # MME's format has no ids: a line is told by its question, and grading finds it
        read = {"#".join(one.id.split("#")[:2]) if name == "mme" else one.id: flat(one.text, name) for one in again}
        assert read == {one.id: flat(one.text, name) for one in answers}
        graded = [
            grade_answers(bench, data / name, some, GradeSpec(judge=Judge(REPLIES.get(name))))
            for some in (answers, again)
        ]
        assert graded[0].metrics == pytest.approx(graded[1].metrics, nan_ok=True)
        assert graded[0].metrics_printed == graded[1].metrics_printed


@pytest.mark.parametrize("name", MODULES)
def test_only_whole_sets_of_answers_are_exported(name, data, tmp_path):
    """CHAIR describes whatever pictures are answered."""
    bench = load_bench(name)
    answers = [Answer(id=one.id, text="Yes") for one in bench.questions(data / name)]
    wrong = {"double": [*answers, answers[0]], "unknown": [*answers[1:], Answer(id="zzz", text="Yes")]}
    if name != "chair":
        wrong["missing"] = answers[1:]
    for kind, some in wrong.items():
        with pytest.raises(DataError):
            bench.export(data / name, some, tmp_path / f"{kind}{SUFFIX.get(name, '.jsonl')}")
            pytest.fail(kind)


def flat(text, name):
    """MME's files hold an answer in a cell of a line."""
    return " ".join(text.split()) if name == "mme" else text

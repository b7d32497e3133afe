"""RealWorldQA: letters and short answers under each suite's rule."""

import json

import pytest

from evaluation.benches.accuracy_checks import check_grading, check_round_trip
from sightline.errors import DataError
from sightline.evaluation.bench import Answer
from sightline.evaluation.benches.realworldqa import BENCH

LETTER = "Which?\nA. x\nB. y\nPlease answer directly with only the letter of the correct option and nothing else."
SHORT = "How many?\nPlease answer directly with a single word or number."


@pytest.fixture
def folder(tmp_path):
    rows = [(LETTER, "A"), (SHORT, "Turn left"), (SHORT, "2")]
    lines = [
        json.dumps({"question_id": str(number), "image": f"{number}.webp", "text": text, "answer": answer})
        for number, (text, answer) in enumerate(rows, start=1)
    ]
    (tmp_path / "llava_test_realworldqa.jsonl").write_text("\n".join(lines))
    return tmp_path


def hits(folder, protocol, *texts):
    answers = [Answer(id=str(number), text=text) for number, text in enumerate(texts, start=1)]
    return [row.counts["correct"] for row in BENCH.grade(folder, answers, protocol, {}, None).graded]


@pytest.mark.parametrize("protocol", ["ovip", "lmms-eval", "cambrian"])
def test_full_size(shared_data, protocol):
    result = check_grading(BENCH, shared_data / "realworldqa", protocol)
    assert {name: values["answers"] for name, values in result.by_category.items()} == {
        "letter": 438,
        "short answer": 327,
    }


def test_round_trip(shared_data, tmp_path):
    check_round_trip(BENCH, shared_data / "realworldqa", tmp_path / "answers.jsonl")


def test_clean_answers_are_right_under_all(folder):
    for protocol in ("ovip", "lmms-eval"):
        assert hits(folder, protocol, "A", "turn left", "2.") == [1, 1, 1]
    assert hits(folder, "cambrian", "A.", "turn left", "2.") == [1, 0, 1]  # one word only


def test_rules_differ(folder):
    texts = ("A. x", "( Turn Left )", "The answer is 2")
    assert hits(folder, "ovip", *texts) == [0, 1, 0]  # "a. x" is cut to four characters: "ax"
    assert hits(folder, "lmms-eval", *texts) == [1, 0, 0]
    assert hits(folder, "cambrian", *texts) == [0, 0, 1]


def test_figures_as_printed(folder):
    answers = [Answer(id=str(number), text=text) for number, text in enumerate(("A", "no", "2"), start=1)]
    printed = {name: BENCH.grade(folder, answers, name, {}, None) for name in ("ovip", "lmms-eval", "cambrian")}
    assert printed["ovip"].metrics_printed == {"accuracy": "0.667"}
    assert printed["lmms-eval"].metrics_printed == {"accuracy": "0.6667"}
    assert printed["cambrian"].metrics_printed == {"accuracy": "66.66666666666667"}


def test_vlmevalkit_needs_its_own_file(folder, tmp_path):
    with pytest.raises(DataError, match=r"RealWorldQA\.tsv"):
        hits(folder, "vlmevalkit", "A", "B", "C")
    tsv = tmp_path / "tsv"
    tsv.mkdir()
    (tsv / "RealWorldQA.tsv").write_text("index\tquestion\tA\tB\tanswer\n1\tIs it red?\tyes\tno\tB\n")
    assert hits(tsv, "vlmevalkit", "It is no") == [1]
    assert "Options:\nA. yes\nB. no\n" in BENCH.questions(tsv)[0].prompt.messages[0]["content"][1]["text"]
    with pytest.raises(DataError, match="do not go together"):
        hits(tsv, "ovip", "B")

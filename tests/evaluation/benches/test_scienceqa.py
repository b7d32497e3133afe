"""ScienceQA with pictures: LLaVA's reading of an answer, and the three layouts."""

import base64
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from evaluation.benches.accuracy_checks import Judge, check_grading, check_round_trip
from sightline.errors import DataError
from sightline.evaluation.bench import Answer
from sightline.evaluation.benches.scienceqa import BENCH, read_official

PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
PROBLEMS = {
    "1": {"question": "q1", "choices": ["red", "blue"], "answer": 0, "hint": "", "image": "image.png", "subject": "s"},
    "2": {"question": "q2", "choices": ["x", "y", "z"], "answer": 2, "hint": "h", "image": "image.png", "subject": "t"},
    "3": {"question": "q3", "choices": ["x", "y"], "answer": 1, "hint": "", "image": None, "subject": "t"},
    "4": {"question": "q4", "choices": ["x", "y"], "answer": 1, "hint": "", "image": "image.png", "subject": "t"},
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "problems.json").write_text(json.dumps(PROBLEMS))
    (tmp_path / "pid_splits.json").write_text(json.dumps({"train": ["4"], "test": ["1", "2", "3"]}))
    return tmp_path


def hits(folder, protocol, *texts):
    answers = [Answer(id=id, text=text) for id, text in zip(("1", "2"), texts, strict=True)]
    return [row.counts["correct"] for row in BENCH.grade(folder, answers, protocol, {}, None).graded]


@pytest.mark.parametrize("protocol", BENCH.protocols)
def test_real_rows(shared_data, protocol):
    assert len(check_grading(BENCH, shared_data / "vision_llm_alignment", protocol).graded) == 60


def test_real_rows_have_pictures_options_and_labels(shared_data):
    data = shared_data / "vision_llm_alignment"
    questions = BENCH.questions(data)
    assert all(len(q.prompt.images) == 1 and (data / q.prompt.images[0]).is_file() for q in questions)
    answers = [Answer(id=q.id, text=q.prompt.facts["answer"]) for q in questions]
    assert BENCH.grade(data, answers, "official", {}, None).metrics_printed == {"accuracy": "100.00%"}


def test_round_trip(shared_data, tmp_path):
    check_round_trip(BENCH, shared_data / "vision_llm_alignment", tmp_path / "answers.jsonl")


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("A", "A"),
        (" B", "FAILED"),  # nothing is stripped
        ("B\n", "FAILED"),
        ("A. red", "A"),
        ("A. ", "A"),
        ("A.", "FAILED"),  # a full stop needs a blank behind it
        ("A.\nred", "FAILED"),
        ("A) red", "FAILED"),
        ("The answer is C.", "C"),
        ("The answer is C", "FAILED"),  # one more character must follow
        ("The answer is C\n", "FAILED"),  # but no line end
        ("I think. The answer is D because", "D"),
        ("The answer is Downhill.", "D"),
        ("The answer is A. Or rather: The answer is B.", "FAILED"),  # it must be said once
        ("The answer is F.", "F"),
        ("the answer is A.", "FAILED"),
        ("a", "FAILED"),
        ("AB", "FAILED"),
        ("F", "FAILED"),
        ("", "FAILED"),
    ],
)
def test_llavas_reading(answer, letter):
    assert read_official(answer) == letter


def test_only_the_test_split_with_pictures(folder):
    first, second = BENCH.questions(folder)
    assert (first.id, second.id) == ("1", "2")
    assert first.prompt.images == (str(folder / "images/test/1/image.png"),)
    instruction = "Answer with the option's letter from the given choices directly."
    assert second.prompt.messages[0]["content"][1]["text"] == f"Context: h\nq2\nA. x\nB. y\nC. z\n{instruction}"


def test_rules_differ(folder):
    assert hits(folder, "official", "A. red", "The answer is C.") == [1, 1]
    assert hits(folder, "lmms-eval", "A. red", "The answer is C.") == [1, 0]
    assert hits(folder, "cambrian", "A. red", "The answer is C.") == [1, 1]
    assert hits(folder, "official", "Red!", "z") == [0, 0]
    assert hits(folder, "cambrian", "Red!", "z") == [1, 1]
    assert hits(folder, "lmms-eval", " a\n", "C.") == [1, 1], "stripped, lower case"
    assert hits(folder, "lmms-eval", "a. red", " C.z") == [0, 1], "with text behind it the letter must be upper case"
    assert hits(folder, "lmms-eval", "A) red", "C z") == [0, 0]


def test_vlmevalkit_finds_the_letter_or_the_text(folder):
    assert hits(folder, "vlmevalkit", "(A) red", "The answer is C") == [1, 1]
    assert hits(folder, "vlmevalkit", "Red!", "z!") == [1, 1], "one option's text"
    assert hits(folder, "vlmevalkit", "A or B", "x y z") == [0, 0]
    answers = [Answer(id="1", text="A"), Answer(id="2", text="A")]
    result = BENCH.grade(folder, answers, "vlmevalkit", {}, None)
    assert result.metrics_printed == {"accuracy": "0.5"} and "0 answers named no option" in result.notes[1]
    asked = Judge(lambda request: "C")
    result = BENCH.grade(folder, [answers[0], Answer(id="2", text="the last")], "vlmevalkit", {}, asked)
    assert result.metrics == {"accuracy": 1} and [request.id for request in asked.requests] == ["2"]
    prompts = [question.meta["prompts"]["vlmevalkit"] for question in BENCH.questions(folder)]
    end = "Please select the correct answer from the options above. \n"
    assert prompts[0] == f"Question: q1\nOptions:\nA. red\nB. blue\n{end}"
    assert prompts[1] == f"Hint: h\nQuestion: q2\nOptions:\nA. x\nB. y\nC. z\n{end}"


def test_a_letter_beyond_the_choices_is_wrong(folder):
    assert hits(folder, "official", "C", "C") == [0, 1]


def test_categories_and_figure(folder):
    answers = [Answer(id="1", text="A"), Answer(id="2", text="A")]
    result = BENCH.grade(folder, answers, "official", {}, None)
    assert result.by_category == {"s": {"accuracy": 100, "answers": 1}, "t": {"accuracy": 0, "answers": 1}}
    assert result.metrics_printed == {"accuracy": "50.00%"}


def test_a_parquet_file_with_rows_without_a_picture(tmp_path):
    rows = {
        "image": [None, {"bytes": PICTURE}],
        "question": ["q1", "q2"],
        "choices": [["x", "y"], ["u", "v"]],
        "answer": [0, 1],
        "hint": ["", ""],
    }
    (tmp_path / "data").mkdir()
    pyarrow.parquet.write_table(pyarrow.table(rows), tmp_path / "data/test-00000-of-00001.parquet")
    (question,) = BENCH.questions(tmp_path)
    assert question.id == "2" and Path(question.prompt.images[0]).read_bytes() == PICTURE
    result = BENCH.grade(tmp_path, [Answer(id="2", text="B")], "official", {}, None)
    assert result.metrics == {"accuracy": 100}


def test_missing_splits_are_an_error(folder):
    (folder / "pid_splits.json").unlink()
    with pytest.raises(DataError, match=r"pid_splits\.json: is missing"):
        BENCH.questions(folder)

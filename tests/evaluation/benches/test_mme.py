"""MME: pairs, accuracy+, the words within four characters, and three layouts of the same data."""

import pyarrow
import pyarrow.parquet
import pytest

from evaluation.benches.accuracy_checks import check_grading
from sightline.errors import DataError
from sightline.evaluation.bench import Answer
from sightline.evaluation.benches.mme import (
    BENCH,
    COGNITION,
    PERCEPTION,
    TASKS,
    parse_lmms,
    parse_official,
    parse_vlmeval,
)

QUESTION = "Is there a cat? Please answer yes or no."


@pytest.fixture
def folder(tmp_path):
    """The release: some tasks keep pictures and questions apart, some together."""
    for task in TASKS:
        apart = task in ("celebrity", "scene")
        for number in range(3):
            place = tmp_path / task
            questions = place / "questions_answers_YN" if apart else place
            images = place / "images" if apart else place
            questions.mkdir(parents=True, exist_ok=True)
            images.mkdir(parents=True, exist_ok=True)
            (images / f"{number}.png").write_bytes(b"")
            (questions / f"{number}.txt").write_text(f"{QUESTION}\tYes\n{QUESTION[:-1]}!\tNo\n")
    return tmp_path


@pytest.fixture
def one_task(tmp_path):
    rows = {
        "question_id": ["OCR/1.jpg", "OCR/1.jpg", "OCR/2.jpg", "OCR/2.jpg"],
        "image": [{"bytes": b"x"}] * 4,
        "question": [QUESTION] * 4,
        "answer": ["Yes", "No", "Yes", "No"],
        "category": ["OCR"] * 4,
    }
    (tmp_path / "data").mkdir()
    pyarrow.parquet.write_table(pyarrow.table(rows), tmp_path / "data/test-00000-of-00001.parquet")
    return tmp_path


def grade(data, protocol, *texts):
    ids = [f"OCR/{number}.jpg#{half}" for number in (1, 2) for half in (1, 2)]
    answers = [Answer(id=id, text=text) for id, text in zip(ids, texts, strict=True)]
    return BENCH.grade(data, answers, protocol, {}, None)


@pytest.mark.parametrize("protocol", BENCH.protocols)
def test_whole_release(folder, protocol):
    result = check_grading(BENCH, folder, protocol)
    assert len(result.graded) == 14 * 6 and set(result.by_category) == set(TASKS)


def test_all_right_is_2800(folder):
    answers = [Answer(id=q.id, text=q.prompt.facts["answer"]) for q in BENCH.questions(folder)]
    result = BENCH.grade(folder, answers, "official", {}, None)
    assert result.metrics == {"perception": 200.0 * len(PERCEPTION), "cognition": 200.0 * len(COGNITION), "total": 2800}
    assert result.metrics_printed["perception"] == "2000.0"
    yes = [Answer(id=answer.id, text="Yes") for answer in answers]
    assert BENCH.grade(folder, yes, "official", {}, None).metrics["total"] == 14 * 50


def test_round_trip(folder, tmp_path):
    """The format has no room for line ends: answers without them come back as they were."""
    answers = [Answer(id=q.id, text=f"yes {number}") for number, q in enumerate(BENCH.questions(folder))]
    BENCH.export(folder, answers[::-1], tmp_path / "out")
    BENCH.export(folder, BENCH.read_export(tmp_path / "out"), tmp_path / "again")
    assert {path.name: path.read_text() for path in (tmp_path / "again").iterdir()} == {
        path.name: path.read_text() for path in (tmp_path / "out").iterdir()
    }
    assert sum(len(path.read_text().splitlines()) for path in (tmp_path / "out").iterdir()) == len(answers)
    line = (tmp_path / "out/OCR.txt").read_text().splitlines()[0].split("\t")
    assert line[:3] == ["0.png", QUESTION, "Yes"]
    odd = [Answer(id=answer.id, text="no\nway\there") for answer in answers]
    BENCH.export(folder, odd, tmp_path / "odd")
    assert BENCH.read_export(tmp_path / "odd")[0].text == "no way here"


def test_accuracy_plus_needs_both_answers_about_a_picture(one_task):
    result = grade(one_task, "official", "yes", "no", "yes", "yes")
    assert result.by_category == {"OCR": {"score": 125.0, "accuracy": 75.0, "accuracy_plus": 50.0}}
    assert result.metrics == {"perception": 125.0, "cognition": 0.0, "total": 125.0}
    assert "no questions of existence" in result.notes[1]


@pytest.mark.parametrize(
    ("answer", "official", "lmms", "vlmeval"),
    [
        ("Yes", "yes", "yes", "yes"),
        ("No, there is not.", "no", "no", "no"),
        ("no.", "no", "no", "no"),
        ("  yes", "other", "yes", "yes"),  # nothing is stripped: "  ye"
        (" yes", "yes", "yes", "yes"),
        ("I say yes", "other", "other", "yes"),
        ("know", "no", "no", "other"),
        ("None", "no", "no", "other"),
        ("Not sure", "no", "no", "other"),
        ("y", "other", "yes", "other"),
        ("N.", "other", "no", "other"),
        ("Yes and no", "yes", "yes", "other"),
        ("", "other", "other", "other"),
    ],
)
def test_reading_yes_and_no(answer, official, lmms, vlmeval):
    assert (parse_official(answer), parse_lmms(answer), parse_vlmeval(answer)) == (official, lmms, vlmeval)


def test_prompt(folder):
    question = BENCH.questions(folder)[0]
    text = "Is there a cat?\nAnswer the question using a single word or phrase."
    assert question.prompt.messages[0]["content"][1]["text"] == text
    assert question.prompt.images == (str(folder / "existence/0.png"),)


def test_a_picture_with_one_question_is_an_error(folder):
    (folder / "OCR/0.txt").write_text(f"{QUESTION}\tYes\n")
    with pytest.raises(DataError, match=r"OCR/0\.png"):
        BENCH.questions(folder)


def test_answers_that_are_neither_are_counted(one_task):
    assert grade(one_task, "official", "yes", "no", "a cat", "").notes[0].startswith("2 answers are neither")


def test_a_folder_without_answers_is_an_error(tmp_path):
    with pytest.raises(DataError, match="found no answers"):
        BENCH.read_export(tmp_path)
    (tmp_path / "OCR.txt").write_text("a\tb\tc\n")
    with pytest.raises(DataError, match=r"OCR\.txt:1: has 3 columns"):
        BENCH.read_export(tmp_path)


def test_the_sum_is_added_in_the_order_of_the_protocols_script(tmp_path):
    """In floating point the order shows: 2/3, 1/3 and 1/7 right are added task by task."""
    shares = {"existence": (2, 3), "count": (1, 3), "OCR": (1, 7), "artwork": (5, 6)}
    texts = {}
    for task, (right, pictures) in shares.items():
        (tmp_path / task).mkdir()
        for number in range(pictures):
            (tmp_path / task / f"{number}.txt").write_text(f"{QUESTION}\tYes\n{QUESTION}\tYes\n")
            texts |= {f"{task}/{number}.jpg#{half}": "Yes" if number < right else "No" for half in (1, 2)}
    answers = [Answer(id=id, text=text) for id, text in texts.items()]
    two_thirds, third, seventh, rest = (right / asked * 100 + right / asked * 100 for right, asked in shares.values())
    official = BENCH.grade(tmp_path, answers, "official", {}, None).metrics["perception"]
    kit = BENCH.grade(tmp_path, answers, "vlmevalkit", {}, None).metrics["perception"]
    # in the official list OCR is the last of these, by the alphabet it is the first
    assert official == two_thirds + third + rest + seventh
    assert kit == seventh + rest + third + two_thirds
    assert official != kit


def test_the_release_asks_with_its_own_instruction(folder):
    question = BENCH.questions(folder)[0]
    assert question.prompt.messages[0]["content"][1]["text"].startswith("Is there a cat?\nAnswer the question using")
    assert question.meta["prompts"] == {"official": QUESTION, "vlmevalkit": QUESTION}


def test_a_question_may_hold_other_line_ends_of_unicode(tmp_path):
    (tmp_path / "OCR").mkdir()
    (tmp_path / "OCR/1.txt").write_text("Is it 'a\u2028b'? Please answer yes or no.\tYes\r\nIs it c?\x85\tNo\r\n")
    assert [question.prompt.facts["answer"] for question in BENCH.questions(tmp_path)] == ["Yes", "No"]


def test_lines_about_a_picture_that_changed_places_go_to_their_questions(folder, tmp_path):
    """The release and the hub's parquet files do not order them alike: they were graded crosswise."""
    answers = [Answer(id=q.id, text=q.prompt.facts["answer"]) for q in BENCH.questions(folder)]
    BENCH.export(folder, answers, tmp_path / "out")
    for path in (tmp_path / "out").iterdir():
        path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    assert BENCH.grade(folder, BENCH.read_export(tmp_path / "out"), "official", {}, None).metrics["total"] == 2800
    path.write_text(path.read_text().replace("a cat", "a dog", 1))
    with pytest.raises(DataError, match=r"asks 'Is there a dog.*', and no question about this picture does"):
        BENCH.grade(folder, BENCH.read_export(tmp_path / "out"), "official", {}, None)

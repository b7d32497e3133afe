"""MMStar: the published figure of a real submission, and each protocol by hand."""

import json

import pytest

from evaluation.benches.accuracy_checks import check_grading, check_round_trip
from sightline.errors import DataError
from sightline.evaluation.bench import Answer
from sightline.evaluation.benches.mmstar import BENCH, inline_options
from sightline.evaluation.formulas import evaluate

ROWS = [
    ("coarse perception", "image emotion", "A"),
    ("coarse perception", "image emotion", "B"),
    ("coarse perception", "image emotion", "C"),
    ("math", "geometry", "D"),
]


@pytest.fixture
def folder(tmp_path):
    lines = [
        {
            "index": number,
            "question": "Which?\nOptions: A: red, B: blue, green, C: old car, D: nan",
            "answer": answer,
            "category": category,
            "l2_category": axis,
        }
        for number, (category, axis, answer) in enumerate(ROWS)
    ]
    (tmp_path / "mmstar.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def answers(*texts):
    return [Answer(id=str(number), text=text) for number, text in enumerate(texts)]


def test_official_figure_of_the_authors_submission(shared_data):
    data = shared_data / "mmstar"
    submission = BENCH.read_export(data / "llava_next_yi_34b_MMStar.jsonl")
    result = check_grading(BENCH, data, "official", texts=submission)
    assert result.metrics_printed == {"accuracy": "0.5206666666666667"}  # published: 52.1
    assert result.by_category["coarse perception"] == {"accuracy": 0.656, "answers": 250}
    assert len(result.by_category) == 6 + 18
    assert not result.notes


@pytest.mark.parametrize("protocol", BENCH.protocols)
def test_full_size(shared_data, protocol):
    assert len(check_grading(BENCH, shared_data / "mmstar", protocol).graded) == 1500


@pytest.mark.parametrize("suffix", [".xlsx", ".jsonl"])
def test_round_trip(shared_data, tmp_path, suffix):
    check_round_trip(BENCH, shared_data / "mmstar", tmp_path / f"submission{suffix}")


def test_protocols_differ_on_the_same_answers(folder):
    texts = answers("Apple", "(B) blue, green", "old car", "the answer is D")
    figures = {name: BENCH.grade(folder, texts, name, {}, None) for name in BENCH.protocols}
    assert figures["official"].metrics["accuracy"] == 3 / 4
    assert figures["ovip"].metrics["accuracy"] == 2 / 4
    assert figures["cambrian"].metrics["accuracy"] == 0
    assert figures["ovip"].metrics_printed["accuracy"] == "2/4 = 0.5"
    assert figures["vlmevalkit"].metrics["accuracy"] == 2 / 4  # by the texts of B and C; D is no option: nan
    assert figures["lmms-eval"].metrics["accuracy"] == (2 / 3 + 1) / 2  # mean of two axes, not of four answers
    assert figures["lmms-eval"].metrics_printed["accuracy"] == "0.8333"
    assert "4 of the 1,500" in figures["official"].notes[0]


def test_gain_and_leakage(folder, tmp_path):
    for name, texts in (("blind", "AZZD"), ("base", "AZZZ")):
        lines = [json.dumps({"id": str(number), "text": text}) + "\n" for number, text in enumerate(texts)]
        (tmp_path / f"{name}.answers").write_text("".join(lines))
    options = {"without_image": str(tmp_path / "blind.answers"), "llm_base": str(tmp_path / "base.answers")}
    result = BENCH.grade(folder, answers("A", "B", "C", "X"), "official", options, None)
    assert result.metrics == {"accuracy": 0.75, "multi_modal_gain": 0.25, "leakage": 0.25}
    for protocol in BENCH.protocols:
        result = BENCH.grade(folder, answers("A", "B", "C", "X"), protocol, options, None)
        values = {name: evaluate(formula, result.graded) for name, formula in result.formulas.items()}
        uncut = {name: value for name, value in result.metrics.items() if name != "leakage" or value}
        assert values == pytest.approx(uncut) and "multi_modal_gain" in values, protocol
    swapped = {"without_image": options["llm_base"], "llm_base": options["without_image"]}
    result = BENCH.grade(folder, answers("A", "B", "C", "X"), "official", swapped, None)
    assert result.metrics["leakage"] == 0 and "leakage" not in result.formulas


def test_options_of_a_question():
    assert inline_options("Q?\nOptions: A: red, B: blue, green, C: c") == {"A": "red", "B": "blue, green", "C": "c"}
    assert inline_options("Q?\nChoices:\n(A) 4\n(B) 5") == {"A": "4", "B": "5"}


def test_options_that_are_nan_are_none_to_vlmevalkit(tmp_path):
    """The hub's rows fill up with "nan", which pandas reads as an empty cell of VLMEvalKit's file."""
    row = {
        "index": 9,
        "question": "What?\nOptions: A: red, B: blue, C: nan, D: None",
        "answer": "B",
        "category": "math",
        "l2_category": "geometry",
    }
    (tmp_path / "mmstar.jsonl").write_text(json.dumps(row))
    grade = [
        BENCH.grade(tmp_path, [Answer(id="9", text=text)], "vlmevalkit", {}, None).metrics["accuracy"]
        # "banana" holds "nan"; the second is longer than twice all options; D is no option
        for text in ("a blue banana", "the blue banana", "B, not D")
    ]
    assert grade == [1, 0, 1]
    (question,) = BENCH.questions(tmp_path)
    kit = "Question: What?\nOptions:\nA. red\nB. blue\nPlease select the correct answer from the options above. \n"
    assert question.meta["prompts"]["vlmevalkit"] == kit


def test_the_wordings_of_other_protocols(folder):
    prompts = BENCH.questions(folder)[1].meta["prompts"]
    assert prompts["lmms-eval"].endswith("D: nan\nAnswer with the option's letter from the given choices directly")
    assert prompts["vlmevalkit"].startswith("Question: ") and "nan" not in prompts["vlmevalkit"]


@pytest.mark.parametrize(
    ("answer", "accuracy"),
    [("A", 100), ("a.", 100), ("A: red", 100), ("(A)", 0), ("The answer is A", 0), ("A)", 0), ("", 0)],
)
def test_cambrian_compares_the_first_word(folder, answer, accuracy):
    texts = answers(answer, "B", "C", "D")
    result = BENCH.grade(folder, texts, "cambrian", {}, None)
    assert result.metrics["accuracy"] == 75 + accuracy / 4 and result.metrics_printed["accuracy"] == str(
        75 + accuracy / 4
    )


def test_prompt_and_truth(folder):
    question = BENCH.questions(folder)[1]
    assert question.prompt.messages[0]["content"][1]["text"].endswith(
        "D: nan\nAnswer with the option's letter from the given choices directly."
    )
    assert question.prompt.facts == {"answer": "B"} and question.prompt.images == (str(folder / "images/1.jpg"),)


def test_a_tsv_of_vlmevalkit(tmp_path):
    (tmp_path / "MMStar.tsv").write_text(
        "index\tquestion\tA\tB\tanswer\tcategory\tl2_category\n5\tWhich?\tred\tblue\tB\tmath\tgeometry\n"
    )
    (question,) = BENCH.questions(tmp_path)
    assert "Which?\nOptions: A: red, B: blue\n" in question.prompt.messages[0]["content"][1]["text"]
    assert BENCH.grade(tmp_path, [Answer(id="5", text="blue")], "vlmevalkit", {}, None).metrics["accuracy"] == 1


def test_a_wrong_row_is_named(folder):
    for answer in ("E", "AB", " "):
        row = {"index": 9, "question": "q", "answer": answer, "category": "math", "l2_category": "geometry"}
        (folder / "mmstar.jsonl").write_text(json.dumps(row))
        with pytest.raises(DataError, match=rf"mmstar\.jsonl:1: answer '{answer.strip()}' is no letter"):
            BENCH.questions(folder)

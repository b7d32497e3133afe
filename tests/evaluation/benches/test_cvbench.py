"""CV-Bench: the weighted formula and each protocol's letter rule."""

import json

import pytest

from evaluation.benches.accuracy_checks import check_grading, check_round_trip
from sightline.errors import DataError
from sightline.evaluation.bench import Answer
from sightline.evaluation.benches.cvbench import BENCH

ROWS = [("ADE20K", "Count", "(A)"), ("ADE20K", "Count", "(B)"), ("COCO", "Relation", "(B)"), ("Omni3D", "Depth", "(A)")]


@pytest.fixture
def folder(tmp_path):
    lines = [
        {
            "idx": number,
            "type": "3D" if source == "Omni3D" else "2D",
            "task": task,
            "image": f"x/{number}.png",
            "question": "q",
            "choices": ["4", "two cars"] if source != "Omni3D" else ["table", "lamp"],
            "answer": answer,
            "prompt": "q\n(A) 4\n(B) two cars",
            "source": source,
            "source_filename": f"{source}.jpg",
        }
        for number, (source, task, answer) in enumerate(ROWS)
    ]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def grade(folder, protocol, *texts):
    answers = [Answer(id=str(number), text=text) for number, text in enumerate(texts)]
    return BENCH.grade(folder, answers, protocol, {}, None)


@pytest.mark.parametrize("protocol", BENCH.protocols)
def test_full_size(shared_data, protocol):
    result = check_grading(BENCH, shared_data / "cvbench", protocol)
    counts = {name: int(values["answers"]) for name, values in result.by_category.items()}
    sources = {"ADE20K": 633, "COCO": 805, "Omni3D": 1200}
    assert counts == sources | {"Count": 788, "Relation": 650, "Depth": 600, "Distance": 600}


def test_the_right_letters_score_1_everywhere(shared_data):
    data = shared_data / "cvbench"
    answers = [Answer(id=q.id, text=q.prompt.facts["answer"]) for q in BENCH.questions(data)]
    assert all(BENCH.grade(data, answers, name, {}, None).metrics["accuracy"] == 1 for name in BENCH.protocols)


def test_round_trip(shared_data, tmp_path):
    check_round_trip(BENCH, shared_data / "cvbench", tmp_path / "answers.jsonl")


def test_sources_weigh_equally(folder):
    result = grade(folder, "official", "A", "A", "B", "A")
    assert result.metrics == {"accuracy": (0.75 + 1) / 2, "2d": 0.75, "3d": 1}
    assert result.metrics_printed == {"accuracy": "0.8750", "2d": "0.7500", "3d": "1.0000"}
    assert grade(folder, "ovip", "A", "A", "B", "A").metrics_printed["accuracy"] == "0.875"
    plain = grade(folder, "lmms-eval", "A", "A", "B", "A")
    assert plain.metrics["accuracy"] == 3 / 4 and plain.metrics["weighted_accuracy"] == 0.875


def test_rules_differ(folder):
    texts = ("A.", "two cars", "(B) two cars", "The answer is (A)")
    hits = {name: [row.counts["correct"] for row in grade(folder, name, *texts).graded] for name in BENCH.protocols}
    assert hits["official"] == hits["cambrian"] == [1, 0, 1, 1]
    assert hits["ovip"] == [0, 0, 1, 0]  # full stops stay; only "(B) " of the third answer is seen
    assert hits["lmms-eval"] == [1, 0, 1, 0]  # T of "two" and of "The"
    assert hits["vlmevalkit"] == [1, 1, 1, 1]


def test_pictures_of_the_hub_layout(folder):
    question = BENCH.questions(folder)[0]
    assert question.prompt.images == (str(folder / "img/x/0.png"),)
    assert grade(folder, "official", "A", "B", "B", "A").graded[0].cluster == "ADE20K.jpg"


def test_a_missing_source_is_an_error(folder):
    lines = (folder / "test.jsonl").read_text().splitlines()[:3]
    (folder / "test.jsonl").write_text("\n".join(lines))
    with pytest.raises(DataError, match="no rows of Omni3D"):
        BENCH.questions(folder)


def test_the_wordings_of_other_protocols(folder):
    prompts = BENCH.questions(folder)[0].meta["prompts"]
    note = "Note: You only need to respond with A, B without providing any additional information."
    assert prompts == {"lmms-eval": f"{note}\n\nq\n(A) 4\n(B) two cars", "vlmevalkit": "q\n(A) 4\n(B) two cars"}

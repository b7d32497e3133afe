"""Reefknot: OViP's rules, entailment by a judge, and the approximation without one."""

import json

import pytest

from evaluation.benches.accuracy_checks import Judge, check_grading, check_round_trip, invented
from sightline.errors import DataError
from sightline.evaluation.bench import Answer, JudgeReply
from sightline.evaluation.benches.reefknot import BENCH, relation_phrase

FORMAT = "What is the relation? Please answer in the following format:cat is <relation> table."


@pytest.fixture
def folder(tmp_path):
    def write(name, kind, rows):
        lines = [
            json.dumps({"image_id": "7", "query_prompt": q, "label": a, "type": kind, "relation_type": r})
            for q, a, r in rows
        ]
        (tmp_path / name).write_text("\n".join(lines))

    write("YESNO.jsonl", "Yes/No", [("Is it?", "no", "perception"), ("Is it?", "yes", "cognitive")])
    write("Multichoice.jsonl", "Multichoice", [("Which? A. on B. in", "D", "perception")])
    write("VQA.jsonl", "VQA", [(FORMAT, "cat is on table.", "perception"), (FORMAT, "cat is near table.", "cognitive")])
    return tmp_path


def grade(folder, texts, judge=None, **options):
    ids = ("yn-1", "yn-2", "mcq-1", "vqa-1", "vqa-2")
    answers = [Answer(id=id, text=text) for id, text in zip(ids, texts, strict=True)]
    return BENCH.grade(folder, answers, "ovip", options, judge and Judge(judge))


@pytest.mark.parametrize("how", ["nli", "relation", "skip"])
def test_real_rows(shared_data, how):
    judge = (lambda request: "entailment" if "5" in request.id else "neutral") if how == "nli" else None
    result = check_grading(BENCH, shared_data / "reefknot", "ovip", options={"open": how}, judge=judge)
    assert len(result.graded) == (600 if how == "skip" else 800)


def test_the_labels_are_right(shared_data):
    data = shared_data / "reefknot"
    answers = [Answer(id=q.id, text=q.prompt.facts["answer"]) for q in BENCH.questions(data)]
    result = BENCH.grade(data, answers, "ovip", {"open": "relation"}, None)
    assert len(result.by_category) == 6
    assert all(
        figures["accuracy"] == 1 and figures["hallucination_rate"] == 0 for figures in result.by_category.values()
    )


def test_round_trip(shared_data, tmp_path):
    check_round_trip(BENCH, shared_data / "reefknot", tmp_path / "answers.jsonl")


def test_a_file_without_ids_is_counted_by_task(folder, tmp_path):
    lines = [{"text": "b", "task_type": "Multichoice"}, {"text": "x", "type": "VQA"}, {"text": "y", "type": "VQA"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [answer.id for answer in BENCH.read_export(tmp_path / "a.jsonl")] == ["mcq-1", "vqa-1", "vqa-2"]


def test_rules_and_the_small_number_in_the_denominator(folder):
    result = grade(folder, ("Not really", "maybe yes", "Don't know", "The cat is on the table", "x"), open="relation")
    assert [row.counts["correct"] for row in result.graded] == [1, 0, 1, 1, 0]
    assert result.metrics["perception_yn"] == 1 / 1.0001
    assert result.metrics_printed["perception_yn"] == str(1 / 1.0001)
    assert result.metrics["mean_accuracy"] == (1 + 0 + 1 + 1 + 0) / 5
    assert result.by_category["cognitive_yn"] == {"accuracy": 0, "hallucination_rate": 1, "answers": 1}


def test_entailment_must_hold_both_ways(folder):
    texts = ("no", "yes", "D", "cat is upon table", "cat is far")

    def judge(request):
        premise = request.messages[-1]["content"].split("\n")[0]
        return "Entailment." if "on table" in premise or "near" in premise else "contradiction"

    result = grade(folder, texts, judge)
    assert [row.counts["correct"] for row in result.graded] == [1, 1, 1, 1, 0]


def test_a_judge_that_says_nothing_is_a_failure(folder):
    def judge(request):
        if request.id.startswith("vqa-2"):
            return "neutral"
        return JudgeReply(text=None, error="timeout") if request.id == "vqa-1/back" else "neutral or entailment"

    result = grade(folder, ("no", "yes", "D", "x", "y"), judge)
    assert [row.id for row in result.graded if "problem" in row.details] == ["vqa-1"] and result.failures == 1
    with pytest.raises(DataError, match="none of 2 answers could be graded"):
        grade(folder, ("no", "yes", "D", "x", "y"), lambda request: "neutral or entailment")


def test_open_questions_need_a_judge_or_an_option(folder):
    with pytest.raises(DataError, match="open=relation"):
        grade(folder, ("no", "yes", "D", "x", "y"))
    with pytest.raises(DataError, match="option open is 'maybe'"):
        grade(folder, ("no", "yes", "D", "x", "y"), open="maybe")


@pytest.mark.parametrize(
    ("answer", "same"),
    [
        ("cat is on table.", True),
        ("The cat is on the table", True),
        ("on", True),
        ("The cat is under the table.", False),
        ("cat is sitting on table", False),
    ],
)
def test_relation_phrases(answer, same):
    assert (relation_phrase(FORMAT, answer) == relation_phrase(FORMAT, "cat is on table.")) is same


def test_prompts(folder):
    questions = {question.id: question for question in BENCH.questions(folder)}
    choice = questions["mcq-1"].prompt
    assert choice.messages[0]["content"][1]["text"].endswith("letter from the given choices directly.")
    assert choice.images == (str(folder / "VG_100K/7.jpg"),)
    assert questions["yn-1"].prompt.messages[0]["content"][1]["text"] == "Is it?"


def test_invented_answers_need_no_picture(folder):
    assert len(invented(BENCH, folder)) == 5


def test_rows_without_ids_in_another_order_are_refused(folder, tmp_path):
    rows = [(q.prompt.messages[0]["content"][-1]["text"], q) for q in BENCH.questions(folder)]
    kinds = {"yn": "Yes/No", "mcq": "Multichoice", "vqa": "VQA"}
    lines = [
        {"prompt": f"<image>\n{text}", "text": q.prompt.facts["answer"], "type": kinds[q.id.split("-")[0]]}
        for text, q in rows
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = BENCH.grade(folder, BENCH.read_export(path), "ovip", {"open": "relation"}, None)
    assert [row.counts["correct"] for row in result.graded] == [1] * 5
    lines[2]["prompt"] = "<image>\nWhich? A. under B. over"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(DataError, match=r"row mcq 1 asks '<image>.nWhich. A. under B. over'"):
        BENCH.grade(folder, BENCH.read_export(path), "ovip", {"open": "relation"}, None)

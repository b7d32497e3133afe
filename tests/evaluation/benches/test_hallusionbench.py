"""HallusionBench: pairs, figures, forgiveness and the diagnosis by hand, under each protocol."""

import json
import math

import pytest

from evaluation.benches.scripted_judge import ScriptedJudge
from sightline.errors import DataError
from sightline.evaluation.bench import Answer
from sightline.evaluation.benches.hallusionbench import BENCH, read_verdict
from sightline.evaluation.formulas import evaluate

ROWS = [
    # category, subcategory, visual_input, set, figure, question, truth
    ("VD", "ocr", "1", 0, 0, 0, "1"),
    ("VD", "ocr", "1", 0, 0, 1, "0"),
    ("VD", "ocr", "1", 0, 1, 0, "0"),
    ("VD", "ocr", "1", 0, 1, 1, "1"),
    ("VS", "map", "0", 0, 0, 0, "1"),
    ("VS", "map", "1", 0, 1, 0, "0"),
    ("VS", "ocr", "2", 0, 1, 0, "1"),
]
IDS = ["_".join(map(str, (row[0], row[1], *row[3:6]))) for row in ROWS]


@pytest.fixture
def data(tmp_path):
    rows = [
        {
            "category": category,
            "subcategory": sub,
            "visual_input": visual,
            "set_id": str(set_id),
            "figure_id": str(figure),
            "question_id": str(question),
            "question": f"Q{question}?",
            "gt_answer": truth,
            "gt_answer_details": "It is so.",
            "filename": f"./hallusion_bench/{category}/{sub}/{set_id}_{figure}.png" if visual != "0" else None,
        }
        for category, sub, visual, set_id, figure, question, truth in ROWS
    ]
    (tmp_path / "HallusionBench.json").write_text(json.dumps(rows))
    return tmp_path


def grade(data, verdicts, protocol="official", same="different"):
    """``same``: what the judge says of every pair of answers."""
    judge = ScriptedJudge(dict(zip(IDS, verdicts, strict=True)), default=same)
    answers = [Answer(id=id, text=f"to {id}") for id in IDS]
    return BENCH.grade(data, answers, protocol, {}, judge), judge


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("correct", "correct"),
        ("Incorrect.", "incorrect"),
        ("The answer is correct, not incorrect", "incorrect"),
        ("CORRECT", "correct"),
        ("unclear", "unclear"),
        ("", None),
        ("<think>", None),
    ],
)
def test_verdicts(reply, verdict):
    assert read_verdict(reply) == verdict


def test_pairs_and_figures_are_right_where_all_their_questions_are(data):
    verdicts = ["correct", "correct", "correct", "incorrect", "unclear", "correct", "unclear"]
    result, _ = grade(data, verdicts)
    # right: 5 of 7; not knowing is right without a figure only
    assert dict(list(result.metrics.items())[:5]) == pytest.approx(
        {
            "question_acc": 100 * 5 / 7,
            "pair_acc": 100 * 2 / 4,  # VD 0 and VS map 0; not VD 1, VS ocr 0
            "figure_acc": 100 * 2 / 4,  # VD 0, VS map 1; not VD 1, VS ocr 1; the map without figure is none
            "easy_acc": 100,  # VD 0, VD 1, VS map 0 on original figures
            "hard_acc": 100 * 2 / 4,
        }
    )
    assert result.metrics_printed["question_acc"] == "71.4286"
    assert result.by_category["VD"]["pair_acc"] == pytest.approx(50)
    assert result.by_category["VS/map"]["question_acc"] == 100


def test_a_reply_without_a_verdict_is_a_failure_and_stands_as_the_script_has_it(data):
    result, _ = grade(data, ["correct"] * 3 + ["well", "unclear", "correct", None])
    assert result.failures == 2 and len(result.graded) == 6
    assert result.metrics["question_acc"] == pytest.approx(100 * 5 / 6)
    assert "1 of 7 replies hold no verdict: taken for unclear, as the script does" in result.notes
    assert result.graded[3].details["problem"] == "no verdict in 'well'" and "problem" not in result.graded[4].details


def test_an_original_figure_of_the_visual_kind_is_not_forgiven(data):
    result, _ = grade(data, ["unclear"] * 7)
    assert result.metrics["question_acc"] == pytest.approx(100 / 7)


def test_the_diagnosis(data):
    verdicts = ["correct", "unclear", "incorrect", "correct", "incorrect", "incorrect", "incorrect"]
    result, judge = grade(data, verdicts, same="They say the Same.")
    # VD 1/0 repeats a right answer on the edited figure: mixed; VS map with a figure repeats the wrong one: language
    assert [request.id for request in judge.requests[7:]] == ["VD_ocr_0_1_0/same", "VS_map_0_1_0/same"]
    faults = [row.details.get("fault") for row in result.graded]
    # the last has no question without a figure to compare with
    assert faults == [None, "vision", "mixed", None, "language", "language", "unknown"]
    assert "1 wrong answers are not attributed: verdict on the original or comparison missing" in result.notes
    # pair VD 0: mixed; VD 1: vision; VS map: language; VS ocr: not known
    assert result.notes[-1] == "wrong pairs by fault: language 1, vision 1, mixed 1"
    shown = result.metrics_printed
    assert (shown["language_hallucination"], shown["visual_illusion"], shown["mixed"]) == ("50.0", "25.0", "25.0")
    # figures: VD 0 half right, VD 1 half right, VS map and VS ocr wrong
    assert (shown["consistency_correct"], shown["consistency_inconsistent"]) == ("0.0", "50.0")
    assert shown["consistency_wrong"] == "50.0" and shown["figure_acc"] == "0.0"
    # taken for yes: right where yes is true (2 of 4), wrong where no is true (all 3 of 3)
    assert shown["yes_diff"] == str(5 / 7 - 4 / 7) and result.metrics["yes_diff"] == pytest.approx(1 / 7)
    # of 5 wrong answers, 3 are to questions whose truth is no
    assert shown["fp_ratio"] == "0.6"
    assert result.by_category["VD"]["mixed"] == 50 and result.by_category["VS"]["language_hallucination"] == 100
    assert result.better["yes_diff"] == "neither" and result.better["consistency_wrong"] == "lower"


def test_another_answer_on_the_edited_figure_is_a_fault_of_vision(data):
    result, _ = grade(data, ["correct"] * 2 + ["incorrect"] + ["correct"] * 4)
    assert result.metrics["visual_illusion"] == 100 and result.metrics["mixed"] == 0


def test_what_the_judge_did_not_compare_is_not_attributed(data):
    result, _ = grade(data, ["correct"] * 2 + ["incorrect"] + ["correct"] * 4, same=None)
    assert math.isnan(result.metrics["mixed"]) and result.metrics["fp_ratio"] == 1 and result.failures == 0
    assert result.notes[-2].startswith("1 wrong answers are not attributed")


def test_without_an_error_there_is_nothing_to_attribute(data):
    result, judge = grade(data, ["correct"] * 7)
    assert len(judge.requests) == 7 and result.metrics["yes_diff"] == 0
    assert all(math.isnan(result.metrics[name]) for name in ("fp_ratio", "language_hallucination", "mixed"))


def test_a_truth_that_is_neither_yes_nor_no_is_refused(data):
    rows = json.loads((data / "HallusionBench.json").read_text())
    rows[3]["gt_answer"] = "maybe"
    (data / "HallusionBench.json").write_text(json.dumps(rows))
    with pytest.raises(DataError, match=r"json:4: gt_answer is 'maybe'"):
        grade(data, ["correct"] * 7)


def test_other_protocols_take_the_questions_with_a_figure(data):
    result, judge = grade(data, ["correct"] * 4 + ["incorrect"] + ["correct"] * 2, "lmms-eval")
    assert len(judge.requests) == 6 and result.metrics == {"question_acc": 100, "pair_acc": 100, "figure_acc": 100}


def test_vlmevalkit_reads_yes_and_no_without_a_judge(data):
    said = ["Yes.", "No", "no way", "perhaps", "", "No, it is not", "yes or no"]
    answers = [Answer(id=id, text=text) for id, text in zip(IDS, said, strict=True)]
    result = BENCH.grade(data, answers, "vlmevalkit", {}, None)
    assert result.metrics == pytest.approx({"question_acc": 400 / 6, "pair_acc": 50, "figure_acc": 50})
    assert result.metrics_printed["question_acc"] == str(4 / 6 * 100) == "66.66666666666666", "not 100 * 4 / 6"
    without = [answer for answer in answers if answer.id != "VS_map_0_0_0"]
    assert BENCH.grade(data, without, "vlmevalkit", {}, None).metrics == result.metrics


def test_what_the_judge_did_not_judge_is_left_out_and_counted(data):
    result, _ = grade(data, [None, *["correct"] * 6])
    assert result.failures == 1 and len(result.graded) == 6
    assert result.metrics["question_acc"] == 100


@pytest.mark.parametrize("protocol", ["official", "lmms-eval"])
def test_figures_follow_from_the_counts(data, protocol):
    result, _ = grade(data, ["correct", "correct", "correct", "incorrect", "unclear", "correct", "unclear"], protocol)
    assert set(result.formulas) == set(result.metrics)
    for name, formula in result.formulas.items():
        assert evaluate(formula, result.graded) == pytest.approx(result.metrics[name], nan_ok=True), name


def test_the_judge_sees_question_truth_and_answer(data):
    _, judge = grade(data, ["correct"] * 7)
    message = judge.requests[1].messages[-1]["content"]
    assert len(judge.requests) == 7
    assert "Q1?" in message and "It is so." in message and "to VD_ocr_0_0_1" in message


def test_questions_without_a_figure_have_no_picture(data):
    questions = BENCH.questions(data)
    assert [question.id for question in questions] == IDS
    assert questions[4].meta["protocols"] == ["official"] and questions[5].meta["protocols"] == list(BENCH.protocols)
    assert questions[4].prompt.images == () and len(questions[4].prompt.messages[0]["content"]) == 1
    assert questions[0].prompt.images == (str(data / "hallusion_bench/VD/ocr/0_0.png"),)


def test_ids_and_judge_are_insisted_on(data):
    answers = [Answer(id=id, text="") for id in IDS]
    with pytest.raises(DataError, match="none was given"):
        BENCH.grade(data, answers, "official", {}, None)
    with pytest.raises(DataError, match=r"1 of 7 questions have no answer \(VD_ocr_0_0_0\)"):
        BENCH.grade(data, answers[1:], "official", {}, ScriptedJudge({}))


def test_answers_survive_the_official_format(data, tmp_path):
    answers = [Answer(id=id, text=f"to {id}") for id in IDS]
    BENCH.export(data, answers[::-1], tmp_path / "result.json")
    rows = json.loads((tmp_path / "result.json").read_text())
    assert rows[0]["model_prediction"] == "to VD_ocr_0_0_0" and rows[0]["gt_answer"] == "1"
    assert BENCH.read_export(tmp_path / "result.json") == answers

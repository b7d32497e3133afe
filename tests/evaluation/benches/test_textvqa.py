"""TextVQA: soft scores, both normalisations, prompts with OCR tokens, and both submission formats."""

import json

import numpy as np
import pytest

from evaluation.benches.accuracy_checks import check_grading, check_round_trip
from sightline.errors import DataError
from sightline.evaluation.bench import Answer
from sightline.evaluation.benches.textvqa import BENCH, asked_question

HUMANS = [["stop"] * 3 + ["go"] * 7, ["1."] * 2 + ["1"] * 8]


@pytest.fixture
def folder(tmp_path):
    rows = [
        {"question": "what is IT?", "image_id": f"pic{number}", "question_id": 10 + number, "answers": humans}
        for number, humans in enumerate(HUMANS)
    ]
    (tmp_path / "TextVQA_0.5.1_val.json").write_text(json.dumps({"data": rows}))
    return tmp_path


def grade(folder, protocol, *texts):
    answers = [Answer(id=str(10 + number), text=text) for number, text in enumerate(texts)]
    return BENCH.grade(folder, answers, protocol, {}, None)


@pytest.mark.parametrize("protocol", BENCH.protocols)
def test_full_size(shared_data, protocol):
    result = check_grading(BENCH, shared_data / "textvqa", protocol)
    assert len(result.graded) == 1000
    assert result.notes == ["the prompts of this folder are with OCR tokens"]


def test_most_common_answers_score_alike_in_lmms_eval(shared_data):
    data = shared_data / "textvqa"
    answers = [
        Answer(id=q.id, text=max(q.prompt.facts["answers"], key=q.prompt.facts["answers"].count))
        for q in BENCH.questions(data)
    ]
    official = BENCH.grade(data, answers, "official", {}, None)
    lmms = BENCH.grade(data, answers, "lmms-eval", {}, None)
    assert official.metrics["accuracy"] == pytest.approx(100 * lmms.metrics["accuracy"])
    assert 80 < official.metrics["accuracy"] < 100


@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_round_trip(shared_data, tmp_path, suffix):
    check_round_trip(BENCH, shared_data / "textvqa", tmp_path / f"answers{suffix}")


def test_soft_scores(folder):
    result = grade(folder, "official", "Stop!", "one")
    assert [row.counts["correct"] for row in result.graded] == pytest.approx([0.9, 1])
    assert result.metrics_printed == {"accuracy": "95.00%"}
    # VLMEvalKit keeps "1." as it is: two of the ten answers do not match "1" any more
    kit = grade(folder, "vlmevalkit", "Stop!", "1.")
    assert [row.counts["correct"] for row in kit.graded] == pytest.approx([0.9, 0.6])
    assert grade(folder, "official", "Stop!", "1.").metrics["accuracy"] == pytest.approx(95)


def test_prompts_without_and_with_ocr_tokens(folder):
    plain = BENCH.questions(folder)[0]
    text = "What is it?\nAnswer the question using a single word or phrase."
    assert plain.prompt.messages[0]["content"][1]["text"] == text and plain.meta["ocr"] is False
    prompt = "What is IT?\nReference OCR token: STOP, GO\nAnswer the question using a single word or phrase."
    line = {"question_id": "pic0", "image": "pic0.jpg", "text": prompt}
    (folder / "llava_textvqa_val_v051_ocr.jsonl").write_text(json.dumps(line) + "\n")
    first, second = BENCH.questions(folder)
    assert first.prompt.messages[0]["content"][1]["text"] == prompt and first.meta["ocr"] is True
    assert second.meta["ocr"] is False


def test_a_file_that_llava_wrote(folder, tmp_path):
    """It names picture and prompt, not the question's id."""
    lines = [
        {"question_id": f"pic{number}", "prompt": "What is it?\nAnswer ...", "text": text, "answer_id": "x"}
        for number, text in enumerate(("go", "1"))
    ]
    (tmp_path / "llava.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    answers = BENCH.read_export(tmp_path / "llava.jsonl")
    assert BENCH.grade(folder, answers, "official", {}, None).metrics["accuracy"] == 100


def test_where_llava_looks_for_the_question():
    ocr = "Reference OCR token: A, B"
    assert asked_question(f"Who?\n{ocr}\nAnswer") == "who?"
    assert asked_question(f"{ocr}\nWho?\nAnswer") == "who?"
    assert asked_question("OCR tokens: A, B. Question: Who? Short answer:") == "who?"
    with pytest.raises(DataError, match="holds no question"):
        asked_question("Who?")


def test_nine_answers_are_an_error(folder):
    row = {"question": "q", "image_id": "p", "question_id": 1, "answers": ["x"] * 9}
    (folder / "TextVQA_0.5.1_val.json").write_text(json.dumps({"data": [row]}))
    with pytest.raises(DataError, match="has 9 answers, expected 10"):
        BENCH.questions(folder)


def test_vlmevalkit_prints_all_digits_of_numpys_mean(tmp_path):
    """Thirty answers of 0.3: added one by one their mean in percent would be 30.0."""
    rows = [
        {"question": "what?", "image_id": f"p{n}", "question_id": n, "answers": ["stop"] + ["go"] * 9}
        for n in range(30)
    ]
    (tmp_path / "TextVQA_0.5.1_val.json").write_text(json.dumps({"data": rows}))
    answers = [Answer(id=str(n), text="stop") for n in range(30)]
    result = BENCH.grade(tmp_path, answers, "vlmevalkit", {}, None)
    expected = 100 * np.mean([np.mean([0.0] + [1 / 3] * 9)] * 30)
    assert result.metrics_printed == {"accuracy": str(expected)} == {"accuracy": "30.000000000000004"}
    assert result.metrics == {"accuracy": expected}


def test_the_wordings_of_other_protocols(folder):
    """lmms-eval's ``capitalize`` makes the rest small; neither has OCR tokens."""
    prompts = BENCH.questions(folder)[0].meta["prompts"]
    end = "Answer the question using a single word or phrase."
    assert prompts == {"lmms-eval": f"What is it?\n{end}", "vlmevalkit": f"what is IT?\n{end}"}


def test_a_question_that_is_asked_twice_about_a_picture(tmp_path):
    """LLaVA's evaluator keeps the human answers of the last one for both; the others know them apart."""
    rows = [
        {"question": text, "image_id": "p", "question_id": number, "answers": [humans] * 10}
        for number, (text, humans) in enumerate([("What is it?", "stop"), ("what is it?", "go")])
    ]
    (tmp_path / "TextVQA_0.5.1_val.json").write_text(json.dumps({"data": rows}))
    answers = [Answer(id="0", text="stop"), Answer(id="1", text="go")]
    shown = {name: BENCH.grade(tmp_path, answers, name, {}, None).metrics["accuracy"] for name in BENCH.protocols}
    assert shown == {"official": 50, "ovip": 50, "lmms-eval": 1, "vlmevalkit": 100}
    prompt = "What is it?\nAnswer the question using a single word or phrase."
    lines = [{"question_id": "p", "prompt": prompt, "text": text} for text in ("stop", "go")]
    written = tmp_path / "llava.jsonl"
    written.write_text("".join(json.dumps(line) + "\n" for line in lines))
    again = BENCH.grade(tmp_path, BENCH.read_export(written), "lmms-eval", {}, None)
    assert again.metrics == {"accuracy": 1} and [row.details["answer"] for row in again.graded] == ["stop", "go"]
    with pytest.raises(DataError, match=r"p\|what is it\?"):
        BENCH.grade(tmp_path, [*BENCH.read_export(written), Answer(id="p|what is it?", text="")], "official", {}, None)

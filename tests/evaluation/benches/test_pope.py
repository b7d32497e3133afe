"""POPE: figures of small files by hand, pooling by protocol, and the real question files."""

import json
import random
import time
from pathlib import Path

import pytest

from sightline.errors import DataError
from sightline.evaluation.bench import Answer
from sightline.evaluation.benches.pope import BENCH
from sightline.evaluation.formulas import evaluate

DATA = Path(__file__).parents[3] / "../shared/data"
PROTOCOLS = ("official", "lmms-eval", "vlmevalkit", "cambrian")


def write(path, labels, start=1, lines=True):
    rows = [
        {
            "question_id": number,
            "image": f"{number // 2}.jpg",
            "text": f"Is there a {number} in the image?",
            "label": label,
        }
        for number, label in enumerate(labels, start=start)
    ]
    path.write_text("\n".join(map(json.dumps, rows)) if lines else json.dumps(rows))


@pytest.fixture
def data(tmp_path):
    write(tmp_path / "coco_pope_random.json", ["yes", "yes", "no", "no"])
    write(tmp_path / "coco_pope_popular.json", ["yes", "no"])
    return tmp_path


def answers(data, random_answers, popular_answers):
    ids = [f"coco_pope_{name}/{n}" for name, count in (("random", 4), ("popular", 2)) for n in range(1, count + 1)]
    return [Answer(id=id, text=text) for id, text in zip(ids, [*random_answers, *popular_answers], strict=True)]


def test_each_file_is_scored_by_itself_and_the_figures_are_means(data):
    given = answers(data, ["Yes", "No.", "Yes, no doubt", "NO"], ["Yes", "Yes"])
    result = BENCH.grade(data, given, "official", {}, None)
    # random: yes no no yes -> tp 1, fn 1, tn 1, fp 1 ("NO" is read as yes)
    assert result.by_category["coco_pope_random"] == pytest.approx(
        {"accuracy": 0.5, "precision": 0.5, "recall": 0.5, "f1": 0.5, "yes_ratio": 0.5}
    )
    # popular: yes yes -> tp 1, fp 1
    assert result.by_category["coco_pope_popular"] == pytest.approx(
        {"accuracy": 0.5, "precision": 0.5, "recall": 1, "f1": 2 / 3, "yes_ratio": 1}
    )
    assert result.metrics["f1"] == pytest.approx((0.5 + 2 / 3) / 2)
    assert result.metrics["yes_ratio"] == pytest.approx(0.75)


def test_lmms_wants_the_label_itself_and_counts_the_labels_as_answers(data):
    given = answers(data, ["yes", "No.", " NO\n", "yes"], ["Yes.", "no"])
    result = BENCH.grade(data, given, "lmms-eval", {}, None)
    # pooled: tp 1; "No." and "Yes." are neither, so they are in no cell; fp 1; tn 2
    assert result.metrics == pytest.approx(
        {"accuracy": 3 / 6, "precision": 0.5, "recall": 1, "f1": 2 / 3, "yes_ratio": 0.5}
    )
    assert any("2 answers are neither yes nor no" in note for note in result.notes)


def test_vlmevalkit_misses_what_it_cannot_read(data):
    given = answers(data, ["Yes!", "maybe", "no way", "yes and no"], ["yes", "yes"])
    result = BENCH.grade(data, given, "vlmevalkit", {}, None)
    # pooled: tp 2 of 3 labels yes ("maybe" is a missed one), fp 1, right 3 of 6
    assert result.metrics == pytest.approx({"f1": 200 / 3, "accuracy": 50, "precision": 200 / 3, "recall": 200 / 3})


def test_cambrian_takes_the_first_word(data):
    given = answers(data, ["Yes, it is", "no", "No.", "There is none"], ["", "no:"])
    assert BENCH.grade(data, given, "cambrian", {}, None).metrics == {"accuracy": 50.0}


def test_figures_are_printed_as_each_suite_prints_them(tmp_path):
    write(tmp_path / "coco_pope_random.json", ["yes"] * 5 + ["no"] * 7)
    given = [Answer(id=f"coco_pope_random/{n}", text="yes" if n <= 9 else "no") for n in range(1, 13)]
    given[0] = Answer(id="coco_pope_random/1", text="no")  # tp 4, fp 4, tn 3, fn 1

    def printed(protocol):
        return BENCH.grade(tmp_path, given, protocol, {}, None).metrics_printed

    # Cambrian multiplies first and prints all digits, VLMEvalKit divides first
    assert printed("cambrian")["accuracy"] == str(100.0 * 7 / 12) == "58.333333333333336"
    assert printed("vlmevalkit")["accuracy"] == str(7 / 12 * 100) == "58.333333333333336"
    assert printed("official")["precision"] == "0.5" and printed("official")["accuracy"] == str(7 / 12)
    assert printed("lmms-eval")["accuracy"] == "0.5833" and printed("lmms-eval")["f1"] == "0.6154"


def test_without_a_yes_precision_is_zero_and_said_to_be_undefined(data):
    result = BENCH.grade(data, answers(data, ["no"] * 4, ["no"] * 2), "official", {}, None)
    assert result.metrics["precision"] == 0 and result.metrics["f1"] == 0
    assert result.metrics["accuracy"] == 0.5
    assert any("precision is not defined" in note for note in result.notes)


def test_a_label_that_is_not_no_is_yes(data):
    write(data / "coco_pope_popular.json", ["Yes", "unsure"])
    result = BENCH.grade(data, answers(data, ["no"] * 4, ["Yes"] * 2), "official", {}, None)
    assert result.by_category["coco_pope_popular"]["accuracy"] == 1


def test_other_sources_have_their_name_in_front_and_files_can_be_chosen(data):
    write(data / "gqa_pope_seem_random.json", ["yes", "no"], lines=False)
    given = answers(data, ["yes"] * 4, ["yes"] * 2)
    more = [Answer(id=f"gqa_pope_seem_random/{n}", text="no") for n in (1, 2)]
    result = BENCH.grade(data, [*given, *more], "official", {}, None)
    assert (result.metrics["yes_ratio"], result.metrics["gqa_yes_ratio"]) == (1, 0)
    with pytest.raises(DataError, match="2 of 8 questions have no answer"):
        BENCH.grade(data, given, "official", {}, None)
    chosen = BENCH.grade(data, given[:4], "official", {"files": "coco_pope_random"}, None)
    assert set(chosen.by_category) == {"coco_pope_random"}
    with pytest.raises(DataError, match="no question file coco_pope_rare"):
        BENCH.grade(data, given, "official", {"files": "coco_pope_rare"}, None)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_figures_follow_from_the_counts(data, protocol):
    write(data / "gqa_pope_seem_random.json", ["yes", "no"])
    more = [Answer(id=f"gqa_pope_seem_random/{n}", text="yes") for n in (1, 2)]
    given = [*answers(data, ["yes", "No.", "no", "yes"], ["yes", "maybe"]), *more]
    result = BENCH.grade(data, given, protocol, {}, None)
    assert set(result.formulas) == set(result.metrics)
    for name, formula in result.formulas.items():
        assert evaluate(formula, result.graded) == pytest.approx(result.metrics[name]), name


@pytest.mark.parametrize("name", ["answers", "answers.jsonl"])
def test_answers_survive_the_official_format(data, tmp_path, name):
    given = answers(data, ["yes", "No.", "no, not", "yes"], ["yes", "a\nb"])
    BENCH.export(data, given, tmp_path / "out" / name)
    assert sorted(BENCH.read_export(tmp_path / "out" / name), key=repr) == sorted(given, key=repr)
    if name == "answers":
        lines = (tmp_path / "out/answers/coco_pope_random.jsonl").read_text().splitlines()
        assert [json.loads(line)["answer"] for line in lines] == ["yes", "No.", "no, not", "yes"]


def test_llavas_answer_file_is_read(tmp_path):
    (tmp_path / "coco_pope_random.jsonl").write_text('{"question_id": 7, "prompt": "?", "text": "Yes"}\n')
    assert BENCH.read_export(tmp_path) == [Answer(id="coco_pope_random/7", text="Yes")]


def test_the_question_carries_the_instruction_and_the_bare_wording(data):
    question = BENCH.questions(data)[0]
    text = question.prompt.messages[0]["content"][-1]["text"]
    assert text == "Is there a 1 in the image?\nAnswer the question using a single word or phrase."
    assert question.meta["prompts"]["vlmevalkit"] == "Is there a 1 in the image?"
    assert question.prompt.images == (str(data / "val2014/0.jpg"),)


@pytest.mark.real
def test_fifteen_thousand_rows_are_graded_in_seconds_in_any_order(tmp_path):
    if not (DATA / "pope").is_dir():
        pytest.skip("needs ../shared/data/pope")
    folder = DATA / "pope"
    questions = BENCH.questions(folder)
    assert len(questions) == 15000
    draw = random.Random(0)
    given = [Answer(id=one.id, text=draw.choice(["Yes", "No", "No, there is no", "not", "YES"])) for one in questions]
    start = time.process_time()
    figures = {protocol: BENCH.grade(folder, given, protocol, {}, None).metrics for protocol in PROTOCOLS}
    assert time.process_time() - start < 10
    BENCH.export(folder, given, tmp_path / "answers")
    back = BENCH.read_export(tmp_path / "answers")
    draw.shuffle(back)
    assert {protocol: BENCH.grade(folder, back, protocol, {}, None).metrics for protocol in PROTOCOLS} == figures
    always_yes = [Answer(id=one.id, text="Yes") for one in questions]
    assert BENCH.grade(folder, always_yes, "official", {}, None).metrics["f1"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("name", ["question_id", "image", "text", "label"])
def test_a_question_that_lacks_something_is_named(data, name):
    path = data / "coco_pope_popular.json"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    del rows[1][name]
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match=rf"coco_pope_popular\.json:2: has no '{name}'"):
        BENCH.grade(data, answers(data, ["yes"] * 4, ["no"] * 2), "official", {}, None)

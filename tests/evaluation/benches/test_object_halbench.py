"""Object HalBench: how the judge's list is read and reduced, figures by hand, the judge-free mode."""

import base64
import json
import sys
import types

import pytest

from evaluation.benches.scripted_judge import ScriptedJudge
from sightline.errors import DataError
from sightline.evaluation.bench import Answer
from sightline.evaluation.benches.object_halbench import BENCH, read_object_list, read_object_list_ovip
from sightline.evaluation.formulas import evaluate

SYNONYMS = """person, man, woman, brother
dining table, table, coffee table
dog, puppy
tie, bow, bow tie
bus
chair, seat
toilet
motorcycle,  motor bike
"""
CATEGORIES = [line.split(", ")[0] for line in SYNONYMS.splitlines()]
LONG = "There are four or five things: "
"""An answer of more than three words."""


@pytest.fixture
def data(tmp_path):
    (tmp_path / "annotations").mkdir()
    images = [{"id": id, "file_name": f"{id}.jpg"} for id in (11, 12, 13)]
    boxes = [(11, "person"), (11, "dog"), (12, "bus"), (13, "toilet"), (13, "person")]
    instances = {
        "categories": [{"id": number, "name": name} for number, name in enumerate(CATEGORIES)],
        "images": images,
        "annotations": [{"image_id": id, "category_id": CATEGORIES.index(name)} for id, name in boxes],
    }
    captions = {"images": images, "annotations": [{"image_id": 11, "caption": "A man at a table."}]}
    (tmp_path / "annotations/instances_val2014.json").write_text(json.dumps(instances))
    (tmp_path / "annotations/captions_val2014.json").write_text(json.dumps(captions))
    (tmp_path / "synonyms_refine.txt").write_text(SYNONYMS)
    encoded = base64.b64encode(b"a picture").decode()
    rows = [{"image_id": id, "question": f"What is in {id}?", "image": encoded} for id in (11, 12, 13)]
    (tmp_path / "obj_halbench_300_with_image.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def answers(*texts):
    return [Answer(id=str(id), text=text) for id, text in zip((11, 12, 13), texts, strict=True)]


def fenced(*objects):
    return f"Here it is:\n```json\n{json.dumps(objects)}\n```"


def judged(data, replies, protocol="official", texts=(LONG, LONG, LONG), **options):
    judge = ScriptedJudge({str(id): reply for id, reply in zip((11, 12, 13), replies, strict=True)})
    return BENCH.grade(data, answers(*texts), protocol, options, judge), judge


def test_figures_by_hand(data):
    result, _ = judged(data, [fenced("man", "woman", "puppy", "bus"), fenced("sky"), fenced("toilet", "dog")])
    # 11: man woman puppy right, bus not; 12: no COCO object; 13: toilet right, dog not
    assert result.metrics == pytest.approx(
        {
            "response_hall": 100 * 2 / 2,
            "object_hall": 100 * 2 / 6,
            "object_recall": 100 * 3 / 6,  # person dog | | toilet of person dog table | bus | toilet person
            "chair_s": 100 * 2 / 3,
            "response_correct": 0,
            "object_correct": 100 * 4 / 6,
            "average_length": 6,
        }
    )
    assert result.metrics_printed["object_hall"] == "33.33"


def test_rates_are_multiplied_after_the_division_as_the_script_does(data):
    """23 of 160: 14.375 lies between two prints, and 23 / 160 * 100 is a little less."""
    words = " ".join(["man"] * 137 + ["bus"] * 23)
    result = BENCH.grade(data, answers(words, "nothing", "nothing"), "judge-free", {}, None)
    assert result.graded[0].counts["mentions"] == 160 and result.graded[0].counts["hallucinated"] == 23
    assert result.metrics_printed["object_hall"] == "14.37"  # 100 * 23 / 160 would print 14.38
    words = " ".join(["man"] * 93 + ["bus"] * 67)
    result = BENCH.grade(data, answers(words, "nothing", "nothing"), "judge-free", {}, None)
    assert result.metrics_printed["object_correct"] == f"{(1 - 67 / 160) * 100:.2f}" == "58.13"


def test_an_object_is_counted_once_however_often_it_is_listed(data):
    result, _ = judged(data, [fenced("bus", "buses", "the bus", "man", "men"), fenced(), fenced()])
    assert result.graded[0].counts["mentions"] == 2, "bus once, man once; men is the work force"


@pytest.mark.parametrize(
    ("phrase", "categories"),
    [
        ("coffee tables", ["dining table"]),
        ("small wooden table", ["dining table"]),  # the head of the phrase
        ("baby dog", ["dog"]),
        ("motor bike", ["motorcycle"]),  # blanks of the refined list are stripped
        ("dining table and bow tie", ["dining table", "tie"]),  # pairs win over all else
        ("table cloth", []),
        ("toilet seat", ["toilet"]),
        ("", []),
    ],
)
def test_phrases_are_reduced_to_objects(data, phrase, categories):
    result, _ = judged(data, [fenced(), fenced(phrase), fenced()])
    truth, wrong = result.graded[1].details["truth"], result.graded[1].details["hallucinated_categories"]
    assert truth == ["bus"] and wrong == categories


def test_a_seat_is_no_chair_where_a_toilet_is_named(data):
    result, _ = judged(data, [fenced(), fenced(), fenced("seat", "toilet")])
    assert result.graded[2].counts["mentions"] == 1


@pytest.mark.parametrize(
    ("reply", "official", "ovip"),
    [
        ('```json\n["a"]\n```', ["a"], ["a"]),
        ('["a", "b"]', ["a", "b"], ["a", "b"]),
        ('Objects:\n["a"]', ["a"], ["a"]),
        ('["a"]\nThat is all.', None, None),
        ("[]", None, []),
        ("```json\n[]\n```", [], []),
        ('```json["a"]```', None, ["a"]),
        ("()", None, None),
        ('{"a": 1}', None, ["a"]),  # the scripts walk through whatever they get
        ('```json\n{"a": ["b"]}\n```', ["a"], ["a"]),
        ("[1, 2]", None, ["1", "2"]),
        ('["a", 1]', ["a", "1"], ["a", "1"]),
        ("3", None, None),
        ("null", None, None),
        ("no objects", None, None),
    ],
)
def test_lists_are_read_as_each_script_reads_them(reply, official, ovip):
    assert read_object_list(reply) == official
    assert read_object_list_ovip(reply) == ovip


def test_an_unreadable_reply_is_asked_for_again(data):
    result, judge = judged(data, [["what?", None, fenced("dog")], fenced(), fenced()])
    assert [(one.id, one.attempt) for one in judge.requests] == [("11", 0), ("12", 0), ("13", 0), ("11", 1), ("11", 2)]
    assert result.failures == 0 and result.graded[0].counts["mentions"] == 1


def test_what_stays_unreadable_is_left_out_and_counted(data):
    result, judge = judged(data, ["what?", fenced("bus"), None], attempts=2)
    assert result.failures == 2 and [row.id for row in result.graded] == ["12"]
    assert any("1 of 3 replies hold no list of objects: left out" in note for note in result.notes)
    assert len(judge.requests) == 5
    assert result.metrics["object_hall"] == 0


def test_short_answers_name_nothing_and_are_not_asked_about(data):
    result, judge = judged(data, [fenced("dog"), fenced("dog"), fenced("dog")], texts=("A red dog", "", LONG))
    assert [one.id for one in judge.requests] == ["13"]
    assert [row.counts["mentions"] for row in result.graded] == [0, 0, 1]


def test_the_judge_sees_question_and_cleaned_answer(data):
    _, judge = judged(data, [fenced()] * 3, texts=("Assistant: a b c d", LONG, LONG), template=str(template(data)))
    assert judge.requests[0].messages == [{"role": "user", "content": "What is in 11? | a b c d"}]


def template(data):
    path = data / "rubric.txt"
    path.write_text("{{question}} | {{answer}}")
    return path


def test_the_judge_free_mode_takes_all_words_repetitions_kept(data):
    texts = ("A man, a woman and two buses, a bus", "A bus.", "nothing here")
    result = BENCH.grade(data, answers(*texts), "judge-free", {}, None)
    assert [row.counts["mentions"] for row in result.graded] == [4, 1, 0]
    assert result.metrics["object_hall"] == pytest.approx(100 * 2 / 5)
    assert result.metrics["response_hall"] == pytest.approx(50)
    assert result.metrics["average_length"] == pytest.approx((9 + 2 + 2) / 3)


def test_ovip_adds_f1_of_correct_objects_and_recall(data):
    result, _ = judged(data, ['["man", "bus"]', "[]", "[]"], protocol="ovip")
    right, recall = 50, 16.67  # 1 of 6, as printed: its lookup.py reads that
    assert result.metrics["f1"] == 2 * recall * right / (recall + right)
    assert result.metrics_printed["f1"] == "25.00"
    result, _ = judged(data, ['["man", "bus"]', '["bus"]', '["dog"]'], protocol="ovip")
    assert result.metrics_printed["object_correct"] == "50.00" and result.metrics_printed["object_recall"] == "33.33"
    assert result.metrics["f1"] == pytest.approx(39.997600, abs=1e-6), "of 33.33; of a third it is 40"


def test_spacy_reduces_as_the_original(data, monkeypatch):
    tags = {"wooden": "JJ", "a": "DT", "of": "IN"}
    lemmas = {"tables": "table", "dogs": "dog"}

    def model(text):
        return [
            types.SimpleNamespace(lemma_=lemmas.get(word, word), tag_=tags.get(word, "NN")) for word in text.split()
        ]

    module = types.ModuleType("spacy")
    module.load = lambda name: model
    monkeypatch.setitem(sys.modules, "spacy", module)
    result, _ = judged(
        data, [fenced("wooden dogs of bus"), fenced("coffee tables"), fenced("table cloth")], lemmatizer="spacy"
    )
    # runs of nouns: "dog", "bus"; a pair; the run "table cloth" is one object that is not on the list
    assert [row.counts["mentions"] for row in result.graded] == [2, 1, 0]
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(DataError, match="en_core_web_trf"):
        judged(data, [fenced()] * 3, lemmatizer="spacy")


@pytest.mark.parametrize("protocol", ["official", "ovip"])
def test_figures_follow_from_the_counts(data, protocol):
    result, _ = judged(data, ['["man", "bus"]', '["bus"]', '["dog"]'], protocol=protocol)
    assert set(result.formulas) == set(result.metrics)
    for name, formula in result.formulas.items():
        # OViP's f1 is made of figures with two decimals
        assert evaluate(formula, result.graded) == pytest.approx(result.metrics[name], abs=0.01), name


def test_ids_and_judge_are_insisted_on(data):
    with pytest.raises(DataError, match="none was given"):
        BENCH.grade(data, answers("", "", ""), "official", {}, None)
    with pytest.raises(DataError, match=r"1 of 3 questions have no answer \(13\)"):
        BENCH.grade(data, answers("", "", "")[:2], "judge-free", {}, None)
    with pytest.raises(DataError, match="unknown options template"):
        BENCH.grade(data, answers("", "", ""), "judge-free", {"template": "x"}, None)


def test_questions_write_the_pictures_of_the_file(data):
    question = BENCH.questions(data)[1]
    assert question.id == "12" and question.prompt.images == (str(data / "images/12.jpg"),)
    assert (data / "images/12.jpg").read_bytes() == b"a picture"


def test_answers_survive_the_official_format(data, tmp_path):
    given = answers("A dog.", "b\n", "")
    BENCH.export(data, given, tmp_path / "answers.jsonl")
    assert json.loads((tmp_path / "answers.jsonl").read_text().splitlines()[0]) == {
        "image_id": 11,
        "question": "What is in 11?",
        "answer": "A dog.",
    }
    assert BENCH.read_export(tmp_path / "answers.jsonl") == given

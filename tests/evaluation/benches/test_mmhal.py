"""MMHal-Bench: the rating rule with its accidents, figures of each protocol, the 96 real questions."""

import json
from pathlib import Path

import pytest

from evaluation.benches.scripted_judge import ScriptedJudge
from sightline.errors import DataError
from sightline.evaluation.bench import Answer
from sightline.evaluation.benches.mmhal import BENCH, TYPES, read_rating
from sightline.evaluation.formulas import evaluate
from sightline.evaluation.judge import load_judge

DATA = Path(__file__).parents[3] / "../shared/data"


@pytest.fixture
def data(tmp_path):
    rows = [
        {
            "question_type": TYPES[number % 8],
            "question_topic": "t",
            "image_id": f"i{number}",
            "image_src": f"https://host/path/p{number}.jpg",
            "image_content": ["Door", "Cat"],
            "question": f"Q{number}?",
            "gt_answer": f"A{number}.",
            "model_answer": "",
        }
        for number in range(10)
    ]
    (tmp_path / "response_template.json").write_text(json.dumps(rows))
    return tmp_path


def answers(count=10):
    return [Answer(id=f"i{number}", text=f"said {number}") for number in range(count)]


def grade(data, ratings, protocol="official", **options):
    replies = {
        f"i{number}": None if said is None else f"Because.\nRating: {said}" for number, said in enumerate(ratings)
    }
    judge = ScriptedJudge(replies)
    return BENCH.grade(data, answers(), protocol, options, judge), judge


@pytest.mark.parametrize(
    ("reply", "rating"),
    [
        ("Explanation.\nRating: 4", 4),
        ("RATING: 0, not informative", 0),
        ("rating: 10", 1),
        ("rating: 7", None),
        ("Rating:5", None),
        ("**Rating**: 4", None),
        ("**Rating: 4**", 4),
        ("Rating: 4 ... Rating: 4", 4),
        ("Rating: 3 or Rating: 4", None),
        ("no rating", None),
        ("", None),
    ],
)
def test_ratings_are_read_as_the_scripts_read_them(reply, rating):
    assert read_rating(reply) == rating


def test_ovip_reads_a_starred_rating_as_well():
    assert read_rating("**Rating**: 4", starred=True) == 4
    assert read_rating("**Rating**: 4, Rating: 4", starred=True) == 4
    assert read_rating("**Rating**: 4, Rating: 2", starred=True) is None


def test_official_figures(data):
    result, _ = grade(data, [6, 5, 4, 3, 2, 1, 0, 3, 6, 2])
    assert result.metrics["average_score"] == pytest.approx(3.2)
    assert result.metrics["hallucination_rate"] == pytest.approx(0.4)
    assert result.metrics_printed["average_score"] == "3.20"
    assert result.metrics_printed["hallucination_rate"] == "0.40"
    # types take turns: attribute is questions 0 and 8, adversarial 1 and 9
    assert result.metrics["score_attribute"] == 6 and result.metrics_printed["score_adversarial"] == "3.5"
    assert result.by_category["adversarial"] == {"average_score": 3.5, "hallucination_rate": 0.5}


def test_informativeness_differs_between_rlaif_v_and_ovip(data):
    ratings = [6, 5, 4, 3, 2, 1, 0, 3, 6, 2]
    rlaif_v, _ = grade(data, ratings, "rlaif-v")
    assert rlaif_v.metrics["informativeness"] == pytest.approx(100 * (3 + 2 + 1 + 0 + 2 + 1 + 0 + 0 + 3 + 2) / 30)
    ovip, _ = grade(data, ratings, "ovip")
    assert ovip.metrics["informativeness"] == pytest.approx(70)
    assert ovip.metrics["hallucination_rate"] == pytest.approx(40)
    assert ovip.metrics_printed["average_score"] == "3.200"


def test_an_unreadable_rating_scores_zero_and_is_counted(data):
    result, _ = grade(data, [6] * 9 + ["?"])
    assert result.metrics["average_score"] == pytest.approx(5.4)
    assert result.failures == 1
    assert any("1 of 10 replies hold no single rating: scored 0" in note for note in result.notes)


def test_a_judge_that_did_not_reply_gives_no_score(data):
    result, _ = grade(data, [6] * 8 + [None, "?"])
    assert len(result.graded) == 9 and result.metrics["average_score"] == pytest.approx(48 / 9)
    assert result.failures == 2
    assert any("1 of 10 requests got no reply" in note for note in result.notes)


def test_the_judge_sees_labels_or_with_ovip_the_picture(data):
    _, judge = grade(data, [3] * 10)
    message = judge.requests[0].messages[-1]["content"]
    assert "Door, Cat" in message and "Q0?" in message and "A0." in message and "said 0" in message
    assert judge.requests[0].images == [] and judge.requests[0].temperature == 0
    _, judge = grade(data, [3] * 10, "ovip")
    assert "Door, Cat" not in judge.requests[0].messages[-1]["content"]
    assert judge.requests[0].images == [str(data / "images/p0.jpg")]


def test_a_template_of_the_user_replaces_the_rubric(data, tmp_path):
    (tmp_path / "rubric.txt").write_text("{{image_content}}|{{question}}|{{reference}}|{{answer}}")
    _, judge = grade(data, [3] * 10, template=str(tmp_path / "rubric.txt"))
    assert judge.requests[1].messages == [{"role": "user", "content": "Door, Cat|Q1?|A1.|said 1"}]


@pytest.mark.parametrize("protocol", BENCH.protocols)
def test_figures_follow_from_the_counts(data, protocol):
    result, _ = grade(data, [6, 5, 4, 3, 2, 1, 0, 3, 6, 2], protocol)
    assert set(result.formulas) == set(result.metrics)
    for name, formula in result.formulas.items():
        assert evaluate(formula, result.graded) == pytest.approx(result.metrics[name]), name


def test_ids_and_judge_are_insisted_on(data):
    with pytest.raises(DataError, match="none was given"):
        BENCH.grade(data, answers(), "official", {}, None)
    with pytest.raises(DataError, match=r"1 of 10 questions have no answer \(i9\)"):
        BENCH.grade(data, answers(9), "official", {}, ScriptedJudge({}))


def test_answers_survive_the_official_format(data, tmp_path):
    BENCH.export(data, answers()[::-1], tmp_path / "responses.json")
    rows = json.loads((tmp_path / "responses.json").read_text())
    assert [row["image_id"] for row in rows] == [f"i{number}" for number in range(10)], "the order of the template"
    assert rows[0] == {**json.loads((data / "response_template.json").read_text())[0], "model_answer": "said 0"}
    assert BENCH.read_export(tmp_path / "responses.json") == answers()


@pytest.mark.real
def test_the_real_questions_have_twelve_of_each_type(tmp_path):
    if not (DATA / "mmhal").is_dir():
        pytest.skip("needs ../shared/data/mmhal")
    questions = BENCH.questions(DATA / "mmhal")
    assert [question.meta["category"] for question in questions] == [*TYPES] * 12
    given = [Answer(id=question.id, text="Yes.") for question in questions]
    judge = ScriptedJudge({}, default="Rating: 2")
    result = BENCH.grade(DATA / "mmhal", given[::-1], "rlaif-v", {}, judge)
    assert result.metrics_printed["average_score"] == "2.00" and result.metrics["hallucination_rate"] == 1
    assert result.metrics["informativeness"] == pytest.approx(200 / 3)
    assert len(judge.requests) == 96
    BENCH.export(DATA / "mmhal", given, tmp_path / "out.json")
    assert BENCH.read_export(tmp_path / "out.json") == given


def test_stored_verdicts_on_pictures_are_graded_without_the_pictures(tmp_path):
    data = tmp_path / "response_template.json"
    row = {"image_content": ["Cat"], "question": "Q?", "gt_answer": "A.", "question_type": "other", "model_answer": ""}
    data.write_text(json.dumps([{**row, "image_id": "a1", "image_src": "https://pictures/nowhere.jpg"}]))
    (tmp_path / "judge.jsonl").write_text('{"id": "a1", "text": "**Rating**: 4"}\n')
    judge = load_judge(f"replay:{tmp_path / 'judge.jsonl'}")
    result = BENCH.grade(tmp_path, [Answer(id="a1", text="x")], "ovip", {}, judge)
    assert result.metrics_printed["average_score"] == "4.000" and result.failures == 0


@pytest.mark.parametrize(
    ("protocol", "shown"), [("official", "Assistant: Two. "), ("rlaif-v", "Two."), ("ovip", "Two.")]
)
def test_the_rlhf_v_family_removes_the_name_of_the_assistant(tmp_path, protocol, shown):
    row = {"image_content": ["Cat"], "question": "Q?", "gt_answer": "A.", "question_type": "other", "model_answer": ""}
    rows = [{**row, "image_id": "a1", "image_src": "https://pictures/nowhere.jpg"}]
    (tmp_path / "response_template.json").write_text(json.dumps(rows))
    (tmp_path / "rubric.txt").write_text("Answer: <{{answer}}>")
    judge = ScriptedJudge({"a1": "Rating: 4"})
    options = {"template": str(tmp_path / "rubric.txt")}
    BENCH.grade(tmp_path, [Answer(id="a1", text="Assistant: Two. ")], protocol, options, judge)
    assert judge.requests[0].messages[0]["content"] == f"Answer: <{shown}>"

"""LLaVA-Bench: reading scores, ratio of means, the messages to the judge, and failures."""

import json

import pytest

from evaluation.benches.accuracy_checks import Judge, check_grading, check_round_trip, invented
from sightline.errors import DataError
from sightline.evaluation.bench import Answer, JudgeReply
from sightline.evaluation.benches import llava_bench_coco
from sightline.evaluation.benches.llava_bench import BENCH, parse_lmms, parse_lmms_coco, parse_official

COCO = llava_bench_coco.BENCH


@pytest.fixture
def folder(tmp_path):
    def write(name, rows):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    kinds = ("conv", "conv", "detail")
    questions = [
        {"question_id": n, "image": f"{n % 2}.jpg", "text": f"q{n}", "category": k} for n, k in enumerate(kinds)
    ]
    write("questions.jsonl", questions)
    write("answers_gpt4.jsonl", [{"question_id": n, "text": f"ref{n}"} for n in range(3)])
    write("context.jsonl", [{"id": n, "image": f"{n}.jpg", "caption": f"caption {n}"} for n in range(2)])
    return tmp_path


def grade(folder, reviews, protocol="official", **options):
    answers = [Answer(id=str(number), text=f"answer{number}") for number in range(3)]
    judge = Judge(lambda request: reviews[int(request.id)])
    return BENCH.grade(folder, answers, protocol, options, judge), judge


@pytest.mark.parametrize("protocol", BENCH.protocols)
def test_in_the_wild(shared_data, protocol):
    data = shared_data / "llava_bench_wild"

    def reply(request):
        return f"{8 + int(request.id) % 3} {int(request.id) % 7 + 1}\nBecause ..."

    result = check_grading(BENCH, data, protocol, judge=reply)
    assert set(result.by_category) == {"conv", "detail", "complex"} and result.failures == 0
    # ids 0 to 59: the references get 8, 9, 10 in turn; the model 1 to 7 in turn, with 1 to 4 once more
    assert result.metrics["reference_score"] == pytest.approx(90, abs=0.01)
    assert result.metrics["model_score"] == pytest.approx(10 * (8 * 28 + 10) / 60, abs=0.01)


@pytest.mark.parametrize("protocol", COCO.protocols)
def test_coco(shared_data, protocol):
    data = shared_data / "llava_bench_coco"
    options = {
        "context": str(shared_data / "chair/caps_boxes_coco2014_val_80.jsonl"),
        "rule": str(shared_data / "llava_bench_wild/rule.json"),
    }
    judge = Judge(lambda request: "10 9")
    result = COCO.grade(data, invented(COCO, data), protocol, options, judge)
    assert result.bench == "llava_bench_coco" and result.notes[0].startswith("COCO, 90 questions")
    assert len(result.graded) == 90 and result.metrics_printed["score"] == "90.0"
    assert "suitcase: [" in judge.requests[0].messages[1]["content"]  # the boxes stand below the captions


def test_pictures_of_coco_have_their_name_there_or_here(shared_data, tmp_path):
    data = shared_data / "llava_bench_coco"
    for name in ("qa90_questions.jsonl", "qa90_gpt4_answer.jsonl"):
        (tmp_path / name).write_text((data / name).read_text())
    folder = tmp_path / "val2014"
    folder.mkdir()
    (folder / "COCO_val2014_000000441147.jpg").write_bytes(b"x")
    (folder / "000000353536.jpg").write_bytes(b"x")
    images = [question.prompt.images[0] for question in COCO.questions(tmp_path)]
    assert images[0] == str(folder / "COCO_val2014_000000441147.jpg") and images[3] == str(folder / "000000353536.jpg")
    assert images[-1].endswith("images/000000534270.jpg"), "where it lies nowhere, the official place"


def test_the_two_sets_are_two_benchmarks(shared_data):
    with pytest.raises(DataError, match=r"found none of questions\.jsonl"):
        BENCH.questions(shared_data / "llava_bench_coco")
    with pytest.raises(DataError, match=r"found none of qa90_questions\.jsonl"):
        COCO.questions(shared_data / "llava_bench_wild")


def test_round_trip(shared_data, tmp_path):
    check_round_trip(BENCH, shared_data / "llava_bench_wild", tmp_path / "answers.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [line["question_id"] for line in lines] == list(range(60)) and all("answer_id" in line for line in lines)


def test_real_reviews_parse_as_their_authors_did(shared_data):
    """All but six on mathematics, where the judge solved the problem first: those the authors scored by hand."""
    unread = []
    for name in ("review_bard_vicuna-13b.jsonl", "review_alpaca-13b_vicuna-13b.jsonl"):
        for line in (shared_data / "llava_bench_coco" / name).read_text().splitlines():
            row = json.loads(line)
            if parse_official(row["text"]) == (-1, -1):
                unread.append(row["text"][:6])
            else:
                assert parse_official(row["text"]) == tuple(row["score"]) == parse_lmms(row["text"])
    assert unread == ["First,"] * 6


@pytest.mark.parametrize(
    ("review", "official", "lmms"),
    [
        ("8 7.5\nBoth", (8, 7.5), (8, 7.5)),
        ("8,7", (8, 7), (8, 7)),
        ("8, 7", (-1, -1), (8, 7)),  # comma and blank are two blanks: three parts
        ("8 7 ", (-1, -1), (8, 7)),
        ("8/10 7/10", (-1, -1), (8, 10)),  # misread by lmms-eval
        ("\n8 7", (-1, -1), (8, 7)),  # lmms-eval looks for the first line of text
        ("8 to -7", (-1, -1), (8, -7)),
        ("Assistant 1: 8", (-1, -1), (1, 8)),
        ("eight seven", (-1, -1), (-1, -1)),
        ("", (-1, -1), (-1, -1)),
    ],
)
def test_reading_scores(review, official, lmms):
    assert parse_official(review) == official and parse_lmms(review) == lmms


def test_lmms_eval_reads_reviews_of_coco_otherwise():
    assert parse_lmms_coco("\n8 7\nBoth") == parse_lmms_coco("8 7\n") == (8, 7)
    assert parse_lmms_coco("8, 7") == parse_lmms_coco("8/10 7/10") == (-1, -1)


def test_ratio_of_means_with_means_rounded_first(folder):
    result, _ = grade(folder, ["9 8", "8 5", "7 3"])
    assert result.metrics["score"] == pytest.approx(5.333 / 8 * 100)
    assert result.metrics_printed == {"score": "66.7", "model_score": "53.3", "reference_score": "80.0"}
    assert result.by_category["conv"] == pytest.approx(
        {"score": 6.5 / 8.5 * 100, "model_score": 65, "reference_score": 85}
    )
    kit, _ = grade(folder, ["9 8", "8 5", "7 3"], "vlmevalkit")
    assert kit.metrics["score"] == pytest.approx(16 / 24 * 100, abs=1e-12)


def test_an_unread_review_stays_in_the_official_mean(folder):
    reviews = ["9 8", "8, 5", "no idea"]
    official, _ = grade(folder, reviews)
    assert official.metrics["reference_score"] == pytest.approx(10 * round((9 - 1 - 1) / 3, 3))
    assert (
        official.failures == 2
        and "2 of 3 replies hold no two scores on the first line: they stay in the means as -1" in official.notes[1]
    )
    lmms, _ = grade(folder, reviews, "lmms-eval")
    assert lmms.metrics["reference_score"] == 85 and lmms.failures == 1


@pytest.mark.parametrize("protocol", BENCH.protocols)
def test_nothing_but_unread_reviews_is_no_figure(folder, protocol):
    """The script divides -1 by -1: 100."""
    with pytest.raises(DataError, match="none of 3 answers could be graded"):
        grade(folder, ["?", "?", "?"], protocol)


def test_a_silent_judge_is_left_out_of_every_protocol(folder):
    reviews = ["9 9", JudgeReply(text=None, error="timeout"), "5 4"]
    for protocol in BENCH.protocols:
        result, _ = grade(folder, reviews, protocol)
        assert result.metrics["reference_score"] == 70 and result.failures == 1
        assert result.graded[1].details["problem"] == "timeout"
    with pytest.raises(DataError, match="none of 3 answers"):
        grade(folder, [JudgeReply(text=None, error="down")] * 3)


def test_messages_in_our_wording(folder):
    _, judge = grade(folder, ["9 8"] * 3)
    message = judge.requests[2].messages[-1]["content"]
    places = [message.index(text) for text in ("caption 0", "q2", "ref2", "answer2")]
    assert places == sorted(places)
    assert (judge.requests[0].temperature, judge.requests[0].max_tokens) == (0.2, 1024)


def test_messages_in_the_original_wording(folder):
    rules = {f"llava_bench_{kind}": {"role": "Assistant", "prompt": f"Rate {kind}."} for kind in ("conv", "detail")}
    (folder / "rule.json").write_text(json.dumps(rules))
    result, judge = grade(folder, ["9 8"] * 3)
    assert judge.requests[2].messages[1]["content"] == (
        "[Context]\ncaption 0\n\n[Question]\nq2\n\n[Assistant 1]\nref2\n\n[End of Assistant 1]\n\n"
        "[Assistant 2]\nanswer2\n\n[End of Assistant 2]\n\n[System]\nRate detail.\n\n"
    )
    assert result.notes == [f"in the wild, 3 questions; judge fake, wording {folder / 'rule.json'}"]


def test_a_template_of_ones_own(folder):
    (folder / "mine.txt").write_text("{{question}} / {{answer}}")
    _, judge = grade(folder, ["9 8"] * 3, template=str(folder / "mine.txt"))
    assert judge.requests[1].messages == [{"role": "user", "content": "q1 / answer1"}]


def test_no_judge_is_an_error(folder):
    with pytest.raises(DataError, match="graded by a judge"):
        BENCH.grade(folder, [], "official", {}, None)

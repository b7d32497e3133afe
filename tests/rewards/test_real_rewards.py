"""Rewards on real records: the figures of the benchmarks that own the records, from the same answers."""

import json
from collections import Counter
from pathlib import Path

import pytest
from answers import asked

from sightline.data.load import Account, load_groups
from sightline.evaluation.bench import Answer
from sightline.evaluation.benches import amber, chair, mmstar
from sightline.recipes.schema import DataSpec
from sightline.recipes.terms import ExactSpec, MultipleChoiceSpec, ObjectsSpec, RepetitionSpec, YesNoSpec
from sightline.rewards.build import build_reward, build_term

pytestmark = pytest.mark.real


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def rewards(spec, groups) -> list[float]:
    term = build_term(spec)
    term.check(groups)
    return [value for values in term.values(groups) for value in values]


def mean(values) -> float:
    return sum(values) / len(values)


def test_multiple_choice_on_the_answers_to_mmstar(shared_data):
    """LLaVA-NeXT 34B: the mean reward is the accuracy of the official script."""
    data = shared_data / "mmstar"
    records = rows(data / "llava_next_yi_34b_MMStar.jsonl")
    groups = [asked(row["prediction"], id=str(row["index"]), answer=row["answer"]) for row in records]
    answers = [Answer(id=str(row["index"]), text=row["prediction"]) for row in records]
    result = mmstar.BENCH.grade(data, answers, "official", {}, None)
    found = rewards(MultipleChoiceSpec(reader="mmstar"), groups)
    assert mean(found) == pytest.approx(result.metrics["accuracy"])
    assert mean(rewards(MultipleChoiceSpec(), groups)) == pytest.approx(mean(found), abs=0.005)


def test_yes_and_no_on_pope(shared_data):
    """As many questions are yes as no, so that one who says one thing is right on half, whatever it is."""
    records = rows(shared_data / "pope/coco_pope_random.json")
    groups = [asked("Yes", "No, there is none.", "Maybe", id=str(r["question_id"]), label=r["label"]) for r in records]
    found = rewards(YesNoSpec(fact="label", right=1.0, wrong=-1.0), groups)
    assert Counter(r["label"] for r in records)["yes"] == len(records) / 2
    assert (mean(found[0::3]), mean(found[1::3]), set(found[2::3])) == (0.0, 0.0, {0.0})


def test_scienceqa_from_its_file(shared_data):
    """60 questions as a reader gives them: the label is a fact, and its own answer is right."""
    spec = DataSpec(
        path=str(shared_data / "vision_llm_alignment/sci_qa_60.json"),
        image_dir=str(shared_data / "vision_llm_alignment/sci_qa_images"), relation="none",
    )  # fmt: skip
    groups = load_groups(spec, Account())
    reward = build_reward({"choice": MultipleChoiceSpec(fact="label", letters="ABCDE"), "twice": RepetitionSpec()})
    reward.check(groups)
    scored = reward.rewards(groups)
    assert len(scored) == 60 and all(group.responses[0].rewards == {"choice": 1.0, "twice": 0.0} for group in scored)


def test_vqa_score_on_textvqa(shared_data):
    """What most of ten people said is right; each answer's own score is that of the metric."""
    records = json.loads((shared_data / "textvqa/TextVQA_0.5.1_val_first1000.json").read_text())["data"]
    groups = [
        asked(Counter(r["answers"]).most_common(1)[0][0], id=str(r["question_id"]), answers=r["answers"])
        for r in records
    ]
    found = rewards(ExactSpec(fact="answers", score="vqa"), groups)
    assert len(found) == 1000 and 0.8 < mean(found) < 1.0 and max(found) == 1.0
    exact = rewards(ExactSpec(fact="answers"), groups)
    assert all(any_of >= share for any_of, share in zip(exact, found, strict=True))


@pytest.fixture
def described(shared_data, tmp_path):
    """30 COCO pictures with the descriptions of GPT-4, and a folder as CHAIR reads one."""
    for part in ("instances", "captions"):
        (tmp_path / f"{part}_val2014.json").symlink_to((shared_data / f"chair/coco80_{part}_val2014.json").resolve())
    (tmp_path / "synonyms.txt").symlink_to((shared_data / "chair/synonyms.txt").resolve())
    questions = rows(shared_data / "llava_bench_coco/qa90_questions.jsonl")
    texts = {r["question_id"]: r["text"] for r in rows(shared_data / "llava_bench_coco/qa90_gpt4_answer.jsonl")}
    told = [(row["image"], texts[row["question_id"]]) for row in questions if row["category"] == "detail"]
    return tmp_path, told


@pytest.mark.parametrize("protocol", ["official", "lmms-eval"])
def test_objects_on_coco_are_chairs(described, shared_data, protocol):
    folder, told = described
    answers = [Answer(id=str(int(image.split(".")[0])), text=text) for image, text in told]
    graded = chair.BENCH.grade(folder, answers, protocol, {}, None).graded
    groups = [asked(text, id=image, images=[image]) for image, text in told]
    for measure, expected in (
        ("precision", [1 - row.counts["hallucinated"] / row.counts["mentions"] for row in graded]),
        ("coverage", [row.counts["found"] / row.counts["objects"] for row in graded]),
    ):
        spec = ObjectsSpec(world="coco", data=str(folder), protocol=protocol, measure=measure)
        assert rewards(spec, groups) == pytest.approx(expected)
    records = {row["image"]: row for row in rows(shared_data / "chair/caps_boxes_coco2014_val_80.jsonl")}
    facts = {image: {key: records[image][key] for key in ("instances", "captions")} for image, _ in told}
    by_facts = [asked(text, id=image, **facts[image]) for image, text in told]
    spec = ObjectsSpec(world="coco", data=str(folder), protocol=protocol, fact="instances", captions="captions")
    by_picture = ObjectsSpec(world="coco", data=str(folder), protocol=protocol)
    assert rewards(spec, by_facts) == pytest.approx(rewards(by_picture, groups))


def test_objects_on_amber_are_ambers(shared_data):
    """Descriptions made of the annotated words of each picture, and of those that it tempts to say."""
    data = shared_data / "amber"
    rows_ = [row for row in json.loads((data / "annotations.json").read_text()) if row["type"] == "generative"][:200]
    texts = [f"There is {', '.join([*row['truth'][:3], *row['hallu'][:2]])}." for row in rows_]
    groups = [asked(text, id=str(row["id"]), truth=row["truth"]) for text, row in zip(texts, rows_, strict=True)]
    every = {str(row["id"]): text for row, text in zip(rows_, texts, strict=True)}
    answers = [Answer(id=str(id), text=every.get(str(id), "")) for id in range(1, 1005)]
    graded = {row.id: row.counts for row in amber.BENCH.grade(data, answers, "official", {}, None).graded}
    expected = {
        "precision": [1 - graded[id]["hallucinated"] / graded[id]["nouns"] for id in every],
        "coverage": [graded[id]["covered"] / graded[id]["objects"] for id in every],
    }
    for measure, numbers in expected.items():
        assert rewards(ObjectsSpec(world="amber", data=str(data), measure=measure), groups) == pytest.approx(numbers)
    assert 0.5 < mean(expected["precision"]) < 1

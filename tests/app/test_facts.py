"""Pictures that a benchmark knows: found by content or name, and words about them marked as it counts."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from slices import PICTURES, Slices

from command_line import sightline
from sightline.app.chat import Talk, about, ask, talk_html
from sightline.app.facts import facts_of
from sightline.app.speakers import Shade
from sightline.app.tab_chat import picture_html
from sightline.data.schema import read_groups, write_groups
from sightline.errors import DataError
from sightline.evaluation.bench import Answer
from sightline.evaluation.benches import amber, chair
from sightline.evaluation.known import Annotated, known_pictures
from sightline.recipes.schema import SamplingSpec
from sightline.types import Group, Prompt, Response


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of both benchmarks with their pictures."""
    made = Slices(tmp_path_factory.mktemp("known"))
    made.chair()
    made.amber()
    return made.root


@pytest.fixture(scope="module")
def both(root: Path) -> list[Annotated]:
    return [known_pictures(name, root / name, None, {}) for name in ("chair", "amber")]


class Says:
    """Stands for a model that says one thing."""

    name = "says"

    def __init__(self, text: str) -> None:
        self.text = text

    def answer(self, prompt: Prompt, sampling: SamplingSpec, *, seed: int):
        yield self.text
        return Response(text=self.text.strip())

    def shades(self, prompt: Prompt, response: Response) -> list[Shade]:
        return [Shade(text=self.text, seen=-1.0, unseen=-2.0), Shade(text="</s>", seen=0, unseen=0, special=True)]


def answered(talk: Talk, question: str, text: str):
    *_, last = ask(talk, [Says(text)], question, SamplingSpec(), seed=0)
    return last, last.turns[0].answers[0]


def words(text: str, spans) -> list[str]:
    return [text[start:end] for start, end in spans]


def test_a_picture_is_known_by_its_content_whatever_its_name(root: Path, both: list[Annotated], tmp_path: Path) -> None:
    photo = shutil.copy(root / "chair/val2014/COCO_val2014_000000000001.jpg", tmp_path / "IMG_0002 (1).jpg")
    talk = Talk(picture=str(photo), facts=facts_of(both, str(photo), "IMG_0002 (1).jpg", {}))
    last, one = answered(talk, chair.PROMPT, "  İt is a Puppy beside a cat.")
    assert words("  İt is a Puppy beside a cat.", one.wrong) == ["cat"]
    assert words("  İt is a Puppy beside a cat.", one.right) == ["Puppy"] and not one.missed
    html = talk_html(last, ["says"])
    assert "not in the picture, as CHAIR counts" in html and 'class="t more there"' in html
    shown = picture_html(talk)
    assert "there: dog" in shown and "its content is that of COCO_val2014_000000000001.jpg" in shown
    assert answered(talk, "Is there a cat?", "No cat.")[1].missed == ()
    assert answered(talk, chair.PROMPT, "A street.")[1].missed == ["dog"]


def test_without_its_file_a_picture_is_known_by_its_name(root: Path, pictures: list[str], tmp_path: Path) -> None:
    alone = tmp_path / "annotations_only"
    shutil.copytree(root / "chair", alone, ignore=shutil.ignore_patterns("*.jpg"))
    bench = [known_pictures("chair", alone, None, {})]
    for name in ("COCO_val2014_000000000002.jpg", "000000000002.jpg"):
        facts = facts_of(bench, pictures[0], name, {})
        assert facts.there == "dog" and "its name is that of COCO_val2014_000000000002.jpg" in facts.note
    for name in ("IMG_2.jpg", "2.jpg", "COCO_val2014_000000000009.jpg"):
        assert facts_of(bench, pictures[0], name, {}).known is None, "a number alone is no name of COCO"


def test_another_picture_under_the_name_of_one_has_no_facts(
    root: Path, both: list[Annotated], pictures: list[str]
) -> None:
    for name in ("AMBER_1.jpg", "COCO_val2014_000000000001.jpg", "000000000001.jpg"):
        facts = facts_of(both, pictures[0], name, {})
        assert facts.known is None and "and is another one than" in facts.note
        assert not facts.marks("Describe this image.", "A dog and a cat.").wrong


def test_where_nothing_is_known_nothing_is_marked_and_the_page_says_so(
    both: list[Annotated], pictures: list[str]
) -> None:
    talk = Talk(picture=pictures[0], facts=facts_of(both, pictures[0], "mine.png", {}))
    last, one = answered(talk, "What is it?", "A cat.")
    assert not one.wrong and not one.right and "not in the picture" not in talk_html(last, ["says"])
    assert "no word of an answer is marked" in picture_html(talk) and "--facts" not in picture_html(talk)
    assert "Start the app with --facts" in facts_of([], pictures[0], "mine.png", {}).note
    assert facts_of([], None, "", {}).note == ""


def test_rows_tell_what_is_in_their_picture(both: list[Annotated], pictures: list[str], tmp_path: Path) -> None:
    coco = {"instances": [{"category": "cat", "bbox": [0, 0, 1, 1]}], "captions": ["A puppy sleeps."]}
    listed = {"truth": ["cat"], "hallu": ["dog"]}
    question = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Describe it."}]}
    prompts = [
        Prompt(id=str(n), messages=(question,), images=(pictures[n],), facts=facts)
        for n, facts in enumerate((coco, {"truth": ["dog"], "hallu": []}, {"truth": ["dog"]}, listed))
    ]
    write_groups(tmp_path / "rows.jsonl", [Group(prompts=(prompt,)) for prompt in prompts])
    groups = list(read_groups(tmp_path / "rows.jsonl"))
    first = about(groups[0], both)
    assert first.facts.there == "cat, dog" and "CHAIR counts: as its row tells" in first.facts.note
    second = about(groups[1], both)
    _, one = answered(second, "Describe it.", "A dog, a cat.")
    assert second.facts.counts == "AMBER" and not one.wrong and len(one.right) == 2, (
        "cat goes with dog in the table of relations"
    )
    assert about(groups[2], both).facts.known is None, "an answer to a question may be a list as well"
    assert "word 'cat' is not in the relation table" in about(groups[3], both).facts.note
    assert (
        "--facts chair=FOLDER" in about(groups[0]).facts.note and "--facts amber=FOLDER" in about(groups[1]).facts.note
    )
    unlisted = {"instances": [{"category": "unicorn"}], "captions": []}
    told = about(replace(groups[0], prompts=(replace(prompts[0], facts=unlisted),)), both).facts
    assert told.known is None and "the category 'unicorn' has no synonyms" in told.note


def test_amber_marks_what_its_descriptions_are_judged_by(root: Path, both: list[Annotated]) -> None:
    answers = [Answer(id=str(n), text=f"A star, a dog, a moon and picture {n}.") for n in range(1, PICTURES + 1)]
    graded = amber.BENCH.grade(root / "amber", answers, "official", {}, None).graded
    for answer, record in zip(answers, graded, strict=True):
        picture = root / f"amber/image/AMBER_{answer.id}.jpg"
        known = both[1].find(picture, "mine.jpg")
        marks = known.mark(answer.text)
        assert [list(span) for span in marks.wrong] == record.details["wrong"] != []
        assert list(marks.missed) == record.details["missed"] and known.question == "Describe this image."
        assert "picture" not in words(answer.text, marks.right), "a safe word need not be there"


def test_answers_to_ambers_questions_are_told_right_or_wrong_as_it_counts(root: Path, both: list[Annotated]) -> None:
    photo = root / "amber/image/AMBER_1.jpg"
    talk = Talk(picture=str(photo), facts=facts_of(both[1:], str(photo), "mine.jpg", {}))
    assert "An answer to one of its yes/no questions in AMBER (1) is told right or wrong" in talk.facts.note
    asked = "Is there a dog in this image?"
    seen = {}
    for text in ("No", "Yes", "No.", "No, there is no dog."):
        last, one = answered(talk, asked, text)
        seen[text] = (words(text, one.right), words(text, one.wrong), one.note)
        graded = [Answer(id=str(n), text=text) for n in range(PICTURES + 1, 2 * PICTURES + 1)]
        right = 1 - amber.BENCH.grade(root / "amber", graded, "official", {}, None).graded[0].details["error"]
        assert one.note.startswith("right" if right else "wrong") and "not in the picture" not in talk_html(last, ["m"])
    unread = 'wrong, as AMBER counts, which reads only "Yes" or "No" alone: no'
    assert seen == {
        "No": (["No"], [], "right, as AMBER counts"),
        "Yes": ([], ["Yes"], "wrong, as AMBER counts: no"),
        "No.": ([], [], unread),
        "No, there is no dog.": ([], [], unread),
    }
    assert "the wrong answer, as AMBER counts" in talk_html(answered(talk, asked, "Yes")[0], ["says"])
    assert words("A dog.", answered(talk, "Is there a dog?", "A dog.")[1].wrong) == ["dog"], "no question of AMBER"
    described = known_pictures("amber", root / "amber", "lmms-eval", {}).find(photo, "mine.jpg")
    assert not described.asks and described.verdict(asked, "No") is None, "it grades no such questions"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--facts", "pope=."], "'pope' does not annotate objects of pictures. Choose chair or amber"),
        (["--facts", "chiar=."], "Did you mean chair?"),
        (["--facts", "."], "holds no folder chair or amber. Write chair=. or amber=."),
        (["--facts", "chair=nowhere"], "the data folder does not exist"),
        (["--facts", "chair="], "--facts is empty"),
        (["--protocol", "official"], "--protocol and --option say how --facts are counted"),
        (["--facts", "amber=.", "--protocol", "vlmevalkit"], "protocol vlmevalkit grades no descriptions"),
        (["--facts", "chair=."], "instances_*2014.json"),
        (["--facts", "amber=.", "--option", "amber.similarty=none"], "unknown options similarty"),
    ],
)
def test_facts_that_cannot_be_meant_are_refused(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gradio", reason="the extra app (gradio) is absent")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "synonyms.txt").write_text("dog, puppy\n")
    done = sightline("app", "--port", "0", *arguments)
    assert done.code == 2 and said in done.err, done.err


# --- real annotations ---------------------------------------------------------------------------


@pytest.mark.real
def test_coco_words_are_marked_as_chair_grades_them(shared_data: Path, tmp_path: Path) -> None:
    for kind in ("instances", "captions"):
        shutil.copy(shared_data / f"chair/coco80_{kind}_val2014.json", tmp_path / f"{kind}_val2014.json")
    shutil.copy(shared_data / "chair/synonyms.txt", tmp_path)
    images = json.loads((tmp_path / "instances_val2014.json").read_text())["images"]
    lines = (shared_data / "pope/model_captions_sample.jsonl").read_text().splitlines()
    texts = [json.loads(line)["text"] for line in lines[: len(images)]]
    answers = [Answer(id=str(one["id"]), text=text) for one, text in zip(images, texts, strict=True)]
    for protocol in chair.BENCH.protocols:
        graded = chair.BENCH.grade(tmp_path, answers, protocol, {}, None).graded
        known = known_pictures("chair", tmp_path, protocol, {})
        for image, answer, record in zip(images, answers, graded, strict=True):
            marks = known.find(tmp_path / "synonyms.txt", image["file_name"]).mark(answer.text)
            assert [list(span) for span in marks.wrong] == record.details["wrong"]
            assert len(marks.wrong) + len(marks.right) == record.counts["mentions"]
        assert sum(record.counts["hallucinated"] for record in graded) > 80


@pytest.mark.real
def test_amber_words_are_marked_as_amber_grades_them(shared_data: Path) -> None:
    data = shared_data / "amber"
    known = known_pictures("amber", data, None, {})
    rows = amber.BENCH.annotations(data)
    described = [query for query in rows.queries if rows.by_id[query["id"]]["type"] == amber.GENERATIVE]
    assert len(described) == 1004
    likely = [", ".join([*rows.by_id[one["id"]]["truth"][:2], *rows.by_id[one["id"]]["hallu"]]) for one in described]
    answers = [Answer(id=one["id"], text=f"There is {text}.") for one, text in zip(described, likely, strict=True)]
    graded = amber.BENCH.grade(data, answers, "official", {}, None).graded
    for query, answer, record in zip(described, answers, graded, strict=True):
        marks = known.find(data / "safe_words.txt", query["image"]).mark(answer.text)
        assert [list(span) for span in marks.wrong] == record.details["wrong"]
        assert list(marks.missed) == record.details["missed"]
    with pytest.raises(DataError, match="does not annotate"):
        known_pictures("pope", data, None, {})

"""``sightline eval grade`` with files as they come: other forms are read, broken ones named with row and remedy."""

import json

import pytest

from command_line import sightline
from sightline.errors import DataError
from sightline.evaluation.answers import read_responses
from sightline.evaluation.bench import Answer
from sightline.evaluation.benches.amber import BENCH as AMBER
from sightline.evaluation.benches.chair import BENCH as CHAIR
from sightline.evaluation.benches.mmhal import BENCH as MMHAL
from sightline.evaluation.benches.object_halbench import BENCH as OBJECTS
from sightline.evaluation.benches.pope import BENCH as POPE

OFFICIAL = {
    "amber": (AMBER, "id", "response"),
    "pope": (POPE, "question_id", "answer"),
    "chair": (CHAIR, "image_id", "caption"),
    "object_halbench": (OBJECTS, "image_id", "answer"),
    "mmhal": (MMHAL, "image_id", "model_answer"),
}
OURS = [{"id": 7, "text": "A dog."}, {"id": "8", "text": ""}, {"id": "9", "text": "Café"}]
READ = [Answer(id="7", text="A dog."), Answer(id="8", text=""), Answer(id="9", text="Café")]


def lines(rows, end="\n"):
    return "".join(json.dumps(row, ensure_ascii=False) + end for row in rows)


@pytest.mark.parametrize("name", ["answers.jsonl", "answers.json", "answers.txt", "answers"])
@pytest.mark.parametrize(
    "content",
    [
        lines(OURS),
        lines(OURS, end="\r\n"),
        "\ufeff" + lines(OURS),
        "\n" + lines(OURS, end="\n\n"),
        lines(OURS).rstrip("\n"),
        json.dumps(OURS),
        "\ufeff" + json.dumps(OURS, indent=1),
        json.dumps(OURS, indent=1).replace("\n", "\r\n"),
        json.dumps(OURS).replace("}, ", "},\n"),
    ],
    ids=[
        "lines",
        "crlf",
        "bom",
        "blank lines",
        "no last end",
        "list",
        "indented list with bom",
        "indented list, crlf",
        "list of lines",
    ],
)
def test_our_answers_are_read_in_any_form(tmp_path, name, content):
    (tmp_path / name).write_bytes(content.encode())
    assert read_responses(AMBER, tmp_path / name) == READ


@pytest.mark.parametrize("bench", OFFICIAL)
@pytest.mark.parametrize("name", ["answers.json", "answers.jsonl"])
def test_official_answers_are_read_in_any_form(tmp_path, bench, name):
    chosen, key, text = OFFICIAL[bench]
    rows = [{key: row["id"], text: row["text"]} for row in OURS]
    stem = "answers/" if bench == "pope" else ""
    expected = [Answer(id=stem + one.id, text=one.text) for one in READ]
    for content in (lines(rows), lines(rows, end="\r\n"), "\ufeff" + json.dumps(rows), json.dumps(rows, indent=1)):
        (tmp_path / name).write_bytes(content.encode())
        assert read_responses(chosen, tmp_path / name) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lines(OURS[:1]) + '{"id": "8", "te\n' + lines(OURS[2:]), r"answers:2: not JSON .*One JSON object per line"),
        (lines(OURS[:2]) + "[1]\n", r"answers:3: no JSON object"),
        (lines([*OURS, {"id": "1", "text": None}]), r"answers:4: the text is None"),
        (lines([*OURS, {"id": "1", "text": ["a"]}]), r"answers:4: the text is \['a'\]"),
        (lines([*OURS, {"id": None, "text": "a"}]), r"answers:4: 'id' is null"),
        (lines([*OURS, {"id": 1.5, "text": "a"}]), r"answers:4: 'id' is 1\.5\. An id is a text or a whole number"),
        (lines([*OURS, {"id": "1", "answer": "a"}]), r"answers:4: found keys id, answer"),
        (json.dumps([*OURS, "x"]), r"answers:4: no JSON object"),
        (json.dumps([*OURS, {"id": "1", "text": 3}], indent=1), r"answers:4: the text is 3"),
    ],
)
def test_a_broken_row_is_named(tmp_path, content, message):
    (tmp_path / "answers").write_text(content)
    with pytest.raises(DataError, match=message):
        read_responses(AMBER, tmp_path / "answers")


def test_other_encodings_are_named_with_their_row(tmp_path):
    path = tmp_path / "answers.jsonl"
    path.write_bytes(lines(OURS[:2]).encode() + b'{"id": "9", "text": "Caf\xe9"}\n')
    with pytest.raises(DataError, match=r"answers\.jsonl:3: not UTF-8 text \(byte 0xe9\)\. Store the file as UTF-8"):
        read_responses(AMBER, path)
    path.write_bytes(lines(OURS).encode("utf-16"))
    for bench, _, _ in OFFICIAL.values():
        with pytest.raises(DataError, match=r"answers\.jsonl:1: not UTF-8 text \(byte 0xff\)\. Expected lines"):
            read_responses(bench, path)


@pytest.mark.parametrize("bench", OFFICIAL)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": None}, r"answers\.json:2: '{text}' is null"),
        ({"text": ["a"]}, r"answers\.json:2: '{text}' is \['a'\]"),
        ({"text": True}, r"answers\.json:2: '{text}' is True"),
        ({"id": None}, r"answers\.json:2: '{key}' is null"),
        ({"id": 1.5}, r"answers\.json:2: '{key}' is 1\.5\. An id is a text or a whole number"),
        ({"id": [1]}, r"answers\.json:2: '{key}' is \[1\]"),
    ],
)
def test_a_broken_official_row_is_named(tmp_path, bench, change, message):
    chosen, key, text = OFFICIAL[bench]
    rows = [{**row, **(change if number == 1 else {})} for number, row in enumerate(OURS)]
    (tmp_path / "answers.json").write_text(json.dumps([{key: row["id"], text: row["text"]} for row in rows]))
    with pytest.raises(DataError, match=message.format(key=key, text=text)):
        read_responses(chosen, tmp_path / "answers.json")


@pytest.fixture
def coco(tmp_path):
    images = [{"id": id, "file_name": f"{id}.jpg"} for id in (7, 8, 9)]
    instances = {"categories": [{"id": 1, "name": "dog"}], "images": images, "annotations": []}
    (tmp_path / "instances_val2014.json").write_text(json.dumps(instances))
    (tmp_path / "captions_val2014.json").write_text(json.dumps({"images": images, "annotations": []}))
    (tmp_path / "synonyms.txt").write_text("dog\nbus\n")
    return tmp_path


@pytest.mark.parametrize(
    ("rows", "listed", "message"),
    [
        ([*OURS, OURS[0]], None, "answers.jsonl: 1 id stands twice (7)"),
        ([*OURS, {"id": "10", "text": ""}], None, "answers.jsonl: 1 pictures have no annotation in"),
        ([*OURS, {"id": "x", "text": ""}], None, "answers.jsonl: the id 'x' is no COCO picture id"),
        (OURS, "[7, 8]", "answers.jsonl: 1 of 3 ids are not of this benchmark (9)"),
        (OURS[:2], "[7, 8, 9]", "answers.jsonl: 1 of 3 questions have no answer (9)"),
        (OURS, '["a"]', "image_ids.json: is no list of COCO picture ids"),
        (OURS, "[]", "image_ids.json: is no list of COCO picture ids"),
        (OURS, "[7, 7]", "image_ids.json: holds an id twice"),
    ],
)
def test_what_is_wrong_with_ids_names_the_file(coco, rows, listed, message):
    if listed:
        (coco / "image_ids.json").write_text(listed)
    path = coco / "answers.jsonl"
    path.write_text(lines(rows))
    done = sightline("eval", "grade", "chair", "--data", coco, "--responses", path)
    assert done.code == 2 and f"{coco}/{message}" in done.err.replace("\n", ""), done.err


def test_a_wrong_lemmatizer_is_found_before_the_judge_is_paid(coco):
    class Unpaid:
        name = "unpaid"

        def ask(self, requests):
            raise AssertionError("asked")

    (coco / "synonyms_refine.txt").write_text("dog\nbus\n")
    row = {"image_id": 7, "question": "What?", "image": ""}
    (coco / "obj_halbench_300_with_image.jsonl").write_text(json.dumps(row))
    answers = [Answer(id="7", text="More than three words.")]
    for options in ({"lemmatizer": "wordnet"}, {"attempts": 0}, {"template": 3}):
        with pytest.raises(DataError, match=next(iter(options))):
            OBJECTS.grade(coco, answers, "official", options, Unpaid())


def test_half_a_character_is_graded_stored_and_exported(coco):
    """A cut emoji: JSON can say it, UTF-8 cannot."""
    rows = [{"id": "7", "text": "A bus \ud83d"}, {"id": "8", "text": "A dog.\u2028\x00"}, {"id": "9", "text": "\udc00"}]
    path, out = coco / "answers.jsonl", coco / "out"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ("chair", "--data", coco, "--responses", path)
    done = sightline("eval", "grade", *given, "--json", out / "figures.json")
    assert done.code == 0, done.err
    assert json.loads((out / "figures.json").read_text())
    assert sightline("eval", "export", *given, "-o", out / "captions.json").code == 0
    again = read_responses(CHAIR, out / "captions.json")
    assert [answer.text for answer in again] == [row["text"] for row in rows]

"""Rubrics: fields, parts, user templates."""

from importlib import resources

import pytest

from sightline.errors import DataError
from sightline.evaluation.rubric import load_rubric

FIELDS = {
    "mmhal": {"image_content", "question", "reference", "answer"},
    "llava_bench": {"context", "question", "reference", "answer"},
    "object_halbench": {"answer"},
    "hallusionbench": {"question", "reference", "answer"},
    "hallusionbench_same": {"answer", "original"},
    "mm_instruct": {"context", "question", "answer_a", "answer_b"},
}


@pytest.mark.parametrize("name", FIELDS)
def test_the_rubrics_of_the_package_name_what_they_are_given(name):
    rubric = load_rubric(name)
    assert FIELDS[name] <= rubric.fields | {"question"} and rubric.source == f"sightline:{name}.txt"
    messages = rubric.messages({field: f"<{field}>" for field in rubric.fields})
    assert messages[-1]["role"] == "user" and "<answer" in messages[-1]["content"]
    assert "{{" not in "".join(message["content"] for message in messages)


def test_every_rubric_in_the_folder_can_be_read():
    folder = resources.files("sightline.evaluation").joinpath("rubrics")
    names = [entry.name.removesuffix(".txt") for entry in folder.iterdir()]
    assert set(FIELDS) <= set(names)
    assert all(load_rubric(name).parts for name in names)


def test_a_template_has_parts_and_only_its_fields_are_filled(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text('--- system\nBe fair.\n--- user\nReply as {"score": 1}, $5 for {{ answer }}.\n\n')
    rubric = load_rubric("mmhal", path)
    assert rubric.messages({"answer": "{{question}} \\1", "question": "never"}) == [
        {"role": "system", "content": "Be fair."},
        {"role": "user", "content": 'Reply as {"score": 1}, $5 for {{question}} \\1.'},
    ]
    assert rubric.source == str(path)


def test_a_template_without_parts_is_one_user_message(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text("Rate {{answer}}")
    assert load_rubric("mmhal", path).messages({"answer": "x"}) == [{"role": "user", "content": "Rate x"}]


@pytest.mark.parametrize(
    ("name", "text", "fields"),
    [
        ("mmhal", "Rate it. Question: {question}, answer: {answer}", "{{answer}}"),
        ("mm_instruct", "A: {{answer_a}}", "{{answer_b}}"),
        ("reefknot", "Does it follow?", "{{hypothesis}}, {{premise}}"),
    ],
)
def test_a_template_without_what_is_judged_is_refused(tmp_path, name, text, fields):
    path = tmp_path / "t.txt"
    path.write_text(text)
    with pytest.raises(DataError, match="the judge would not see what it judges") as refused:
        load_rubric(name, path)
    assert f"t.txt: the template does not name {fields}: " in str(refused.value)
    assert f"Write {fields} where it is to stand. The package's own names " in str(refused.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the template is empty"),
        ("--- user\n\n", "the template is empty"),
        ("Hello\n--- user\nx", "text stands before the first part"),
    ],
)
def test_a_template_that_says_nothing_is_refused(tmp_path, text, message):
    path = tmp_path / "t.txt"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        load_rubric("mmhal", path)


def test_an_unknown_field_and_a_missing_file_are_named(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text("{{answer}} {{anwser}}")
    with pytest.raises(DataError, match=r"t.txt: the template names anwser. It may name answer, question"):
        load_rubric("mmhal", path).messages({"answer": "x", "question": "y"})
    with pytest.raises(DataError, match="cannot be read"):
        load_rubric("mmhal", tmp_path / "none.txt")


def test_a_template_must_be_a_text_file(tmp_path):
    (tmp_path / "t.txt").write_bytes(b"\xff\xfe a")
    with pytest.raises(DataError, match=r"t.txt: is no UTF-8 text"):
        load_rubric("mmhal", str(tmp_path / "t.txt"))
    with pytest.raises(DataError, match="mmhal: template is 3"):
        load_rubric("mmhal", 3)

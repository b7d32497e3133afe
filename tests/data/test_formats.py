"""One row of every layout, as its authors write it, and the Group that it means."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from layout_rows import ASKED, BAD, GOOD, PAIRS, QUESTION, llava, rated, turns
from PIL import Image

from sightline.data.load import Account, groups_from_records
from sightline.data.readers.layouts import LAYOUTS
from sightline.data.validate import Checks
from sightline.errors import DataError
from sightline.recipes.schema import DataSpec
from sightline.types import Edge, Group, Response


def read(*rows: dict[str, Any], account: Account | None = None, **spec: Any) -> list[Group]:
    """Groups of rows in memory; pictures are named, not opened, and lie in /d."""
    options = {"path": "rows", "image_dir": "/d", **spec}
    return groups_from_records(rows, DataSpec(**options), account or Account(checks=Checks(images=False)))


@pytest.mark.parametrize("name", PAIRS)
def test_a_preference_of_every_layout_is_the_same_group(name: str) -> None:
    (group,) = read(PAIRS[name])
    (prompt,) = group.prompts
    assert (prompt.id, prompt.messages, prompt.images, prompt.facts) == ("7", (ASKED,), ("/d/coco/1.jpg",), {})
    assert group.responses == (Response(text=GOOD), Response(text=BAD))
    assert group.edges == (Edge(winner=0, loser=1),)


def test_recipes_name_every_layout() -> None:
    assert set(get_args(get_type_hints(DataSpec)["format"])) == {"auto", *LAYOUTS}


# --- POVID, CSR, RLHF-V, LLaVA-RLHF ----------------------------------------------------------------


def test_the_first_turns_of_both_conversations_are_the_prompt() -> None:
    row = {
        "conversations": llava("<image>\nWhat?", "A shelf.", QUESTION, GOOD),
        "rejected_conversations": llava("<image>\nWhat?", "A shelf.", QUESTION, BAD),
        "image": "1.jpg",
    }
    (group,) = read(row)
    assert [message["role"] for message in group.prompts[0].messages] == ["user", "assistant", "user"]
    assert [response.text for response in group.responses] == [GOOD, BAD]


def test_a_human_preference_keeps_its_history_and_what_was_noted() -> None:
    row = {
        "id": 1234,
        "image": "000000001234.jpg",
        "conversations": llava("<image>\nWhat is there?", "Jars.", "Is the clock digital?", "(replaced)"),
        "output_1": {"from": "llava", "value": "No, it has hands."},
        "output_2": {"from": "llava", "value": "Yes."},
        "hallucination": True,
        "preference": 1,
    }
    (group,) = read(row)
    assert [m["content"][-1]["text"] for m in group.prompts[0].messages] == [
        "What is there?",
        "Jars.",
        "Is the clock digital?",
    ]
    assert group.prompts[0].facts == {"hallucination": True}
    assert [response.text for response in group.responses] == ["No, it has hands.", "Yes."]


def test_what_rlhf_v_notes_beside_its_text_are_facts() -> None:
    row = {
        **PAIRS["rlhf_v"],
        "ds_name": "RLHF-V",
        "origin_dataset": "COCO",
        "origin_split": '{"type": "detail"}',
        "idx": 3,
        "image_path": "x/1.jpg",
    }
    (group,) = read(row)
    assert group.prompts[0].facts == {name: row[name] for name in row.keys() - {"id", "image", "text"}}
    assert group.responses == (Response(text=GOOD), Response(text=BAD))


def test_the_context_of_sentinel_begins_both_answers() -> None:
    row = {**PAIRS["sentinel, at the first sentence"], "context": "A shelf hangs there. ", "hallu_objects": ["cat"]}
    (group,) = read(row)
    assert group.responses == (
        Response(text=f"A shelf hangs there. {GOOD}"),
        Response(text=f"A shelf hangs there. {BAD}"),
    )
    assert group.prompts[0].facts == {"hallu_objects": ["cat"]} and group.prompts[0].images == ("/d/coco/1.jpg",)


# --- ratings --------------------------------------------------------------------------------------

RATED = {
    "id": "7",
    "img_path": "coco/1.jpg",
    "prompt": QUESTION,
    "models": ["a-model"] * 4,
    "completions": [
        rated("b", "3", "4", "5"),
        rated("a", "5", "5", "5"),
        rated("n", "N/A", "1", "1"),
        rated("c", 2, 5, 5),
    ],
}
ASPECTS = ("Helpfulness", "Visual Faithfulness", "Ethical Considerations")


def test_ratings_are_rewards_and_make_an_edge_where_they_differ() -> None:
    account = Account(checks=Checks(images=False))
    (group,) = read(RATED, account=account)
    assert group.prompts[0].images == ("/d/coco/1.jpg",) and group.prompts[0].facts == {"models": ["a-model"] * 4}
    assert group.responses == tuple(
        Response(text=text, reward=reward, rewards=dict(zip(ASPECTS, parts, strict=True)))
        for text, reward, parts in (("b", 4.0, (3, 4, 5)), ("a", 5.0, (5, 5, 5)), ("c", 4.0, (2, 5, 5)))
    )
    assert group.edges == (Edge(winner=1, loser=0), Edge(winner=1, loser=2))  # b and c: a tie
    assert account.report.notes == ["rows: 1 answers without a rating left out"]


def test_a_table_stores_answers_as_a_list_of_each_column() -> None:
    answers = RATED["completions"]
    table = {name: [answer[name] for answer in answers] for name in answers[0]}
    assert read({**RATED, "completions": table})[0].responses == read(RATED)[0].responses


@pytest.mark.parametrize(
    ("row", "edges"),
    [
        (RATED, {("a", "b")}),
        ({"conversations": llava("What?", ["good", "fair", "bad"])}, {("good", "bad")}),
        ({"prompt": "?", "chosen": "x", "rejected": "y"}, {("x", "y")}),
    ],
)
def test_best_worst_compares_two_answers_and_leaves_the_others_out(row: dict[str, Any], edges: Any) -> None:
    (group,) = read(row, relation="best_worst")
    texts = [response.text for response in group.responses]
    assert {(texts[edge.winner], texts[edge.loser]) for edge in group.edges} == edges
    assert len(texts) == 2


# --- ms-swift, Alpaca, TRL ------------------------------------------------------------------------


def test_the_same_answer_about_another_picture_is_a_comparison_of_pictures() -> None:
    asked = turns(f"<image>{QUESTION}", GOOD)
    row = {"messages": asked, "rejected_messages": asked, "images": ["1.jpg"], "rejected_images": ["2.jpg"]}
    (group,) = read(row)
    assert [prompt.images for prompt in group.prompts] == [("/d/1.jpg",), ("/d/2.jpg",)]
    assert group.responses == (Response(text=GOOD), Response(text=GOOD, prompt=1))
    assert group.edges == (Edge(winner=0, loser=1, kind="image"),)
    with pytest.raises(DataError, match="are compared and are the same"):
        read({**row, "rejected_images": ["1.jpg"]})


@pytest.mark.parametrize(
    "row",
    [
        {"messages": turns("What?", "A lamp."), "label": False},
        {"conversations": llava("What?", "A lamp."), "label": False},
        {"prompt": "What?", "completion": "A lamp.", "label": False},
        {"instruction": "What?", "output": "A lamp.", "label": False},
        {"query": "What?", "response": "A lamp.", "label": False},
        {"prompt": "What?", "completions": ["A", "lamp."], "labels": [True, False]},
    ],
)
def test_a_labelled_answer_of_every_layout(row: dict[str, Any]) -> None:
    (group,) = read(row)
    (response,) = group.responses
    assert response == Response(text="A\nlamp." if "completions" in row else "A lamp.", label=False)
    assert group.prompts[0].facts == ({"labels": [True, False]} if "completions" in row else {})


def test_history_and_system_come_before_the_question() -> None:
    before = {"system": "Be brief.", "history": [["one", "two"]]}
    expected = ["Be brief.", "one", "two", "three\nfour"]
    for row in (
        {"instruction": "three", "input": "four", "output": "five", **before},
        {"query": "three\nfour", "response": "five", **before},
        {
            "system": "Be brief.",
            "conversation": [
                {"human": "one", "assistant": "two"},
                {"human": "three\nfour", "assistant": "five"},
            ],
        },
    ):
        (group,) = read(row)
        assert [m["content"][0]["text"] for m in group.prompts[0].messages] == expected
        assert group.prompts[0].messages[2]["weight"] == 1
        assert group.responses == (Response(text="five"),)


@pytest.mark.parametrize(
    ("turns", "answers"),
    [(llava("?", ["a", "b"]), {}), (llava("?"), {}), (llava("?"), {"chosen": "a", "rejected": "b"})],
)
def test_a_score_of_no_single_answer_is_a_fact(turns: Any, answers: dict[str, str]) -> None:
    (group,) = read({"conversations": turns, **answers, "score": [0.1, 0.9]})
    assert group.prompts[0].facts["score"] == [0.1, 0.9]


# --- wrong rows -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**PAIRS["povid"], "rejected_conversations": None, "chosen": 1}, "missing column|'rejected_conv.*' is None"),
        ({**PAIRS["povid"], "chosen": "x"}, "column 'chosen' has no place in this layout"),
        ({**PAIRS["povid"], "conversations": llava("<image>Who?", GOOD)}, "share no first turn"),
        ({**PAIRS["rlhf_v"], "text": "{'question': 1}"}, "not JSON .*'text' is JSON with question"),
        ({**PAIRS["rlhf_v"], "text": "Once upon a time"}, "A text without a prompt is not trained"),
        ({**PAIRS["rlhf_v"], "text": '{"question": "a", "chosen": "b"}'}, "'text.rejected' is None, expected a text"),
        ({**PAIRS["mdpo"], "images": ["2.jpg"]}, "column 'images' has no place in this layout"),
        ({**PAIRS["mdpo"], "prompt": None}, "share no first turn and there is no 'prompt'|no 'prompt'"),
        ({"y_win": GOOD, "y_lose": BAD, "question": "?", "image_id": "7"}, "names no picture.*image_id is a number"),
        ({"y_win": GOOD, "question": "?", "image": "1.jpg"}, "'y_lose' is None, expected a sentence"),
        ({"y_win": " ", "y_lose": BAD, "question": "?", "image": "1.jpg"}, "'y_win' is ' ', expected a sentence"),
        ({**PAIRS["sentinel, at the first sentence"], "context": 3}, "'context' is 3, expected the text"),
        ({**PAIRS["sentinel, at the first sentence"], "chosen": "x"}, "column 'chosen' has no place in this layout"),
        ({**PAIRS["llava_rlhf"], "preference": 0}, "'preference' is 0, expected 1 or 2"),
        ({**PAIRS["llava_rlhf"], "output_2": None}, "'output_2' is None, expected an answer"),
        ({**PAIRS["llava_rlhf"], "conversations": llava("?")}, "the last turn is by 'human', expected gpt"),
        ({**RATED, "completions": [rated("a", "N/A", 1, 1)]}, "no answer in 'completions' has a rating"),
        ({**RATED, "completions": ["a", "b"]}, "'completions\\[0\\]' is 'a', expected an answer with response"),
        ({"prompt": "?", "completions": ["a"], "labels": [1]}, "'labels' is \\[1\\], expected true or false for each"),
        (
            {"messages": turns("a", "b"), "rejected_response": ["x"]},
            "'rejected_response' is .*, expected a text",
        ),
        ({"query": "a", "conversation": []}, "found query and conversation, expected one"),
        ({"messages": turns("a", "b"), "objects": {"bbox": [[1, 2, 3, 4]]}}, "has boxes .*which are not filled in"),
        ({"messages": turns("a", "b"), "audios": ["a.wav"]}, "'audios' is a part of the conversation and is not read"),
        ({"messages": turns("a", "b"), "prompt": "a"}, "found 'messages' and 'prompt'"),
        ({"instruction": "a", "output": "b", "history": ["c"]}, "'history' holds 'c', expected pairs"),
        ({"prompt": "?", "chosen": "a", "rejected": "b", "completion": "c"}, "found 'completion' beside 'chosen'"),
        ({"instruction": 1, "output": "b"}, "'instruction' is 1, expected a text"),
    ],
)
def test_wrong_rows_are_named(row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=rf"^rows, row 1 \(counted from 1\): .*({message})"):
        read(row)


# --- pictures as texts ----------------------------------------------------------------------------


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "a picture ü.png"
    Image.new("RGB", (8, 6), "red").save(path)
    return path


def encoded(picture: Path) -> str:
    return base64.b64encode(picture.read_bytes()).decode()


@pytest.mark.parametrize("form", ["data", "base64", "lines", "bytes", "file"])
def test_a_picture_as_a_text_is_the_file_that_it_encodes(picture: Path, tmp_path: Path, form: str) -> None:
    text = encoded(picture)
    value: Any = {
        "data": f"data:image/png;base64,{text}",
        "base64": text,
        "lines": "\n".join(text[i : i + 20] for i in range(0, len(text), 20)),
        "bytes": {"bytes": text},
        "file": picture.as_uri(),
    }[form]
    (group,) = read({"prompt": "?", "image": value}, account=Account(cache_dir=tmp_path / "cache"))
    (path,) = group.prompts[0].images
    assert Path(path).read_bytes() == picture.read_bytes()
    assert (Path(path) == picture) == (form == "file")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("data:image/png;base64,AAA", "is no base64"),
        ("data:image/png;base64,AAAA", "the 3 bytes of the picture are no image"),
        ("data:text/plain,hello", "is no data:image/...;base64"),
        ("file://host/a.png", "is no address of a local file"),
        ("file:a.png", "these rows lie in none"),
        ("file:///gone.png", "picture '/gone.png' is missing"),
        ("https://host/a.png", "is an address. Fetch such pictures first: sightline data fetch"),
    ],
)
def test_addresses_that_lead_nowhere(value: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read({"prompt": "?", "image": value}, account=Account(cache_dir=tmp_path))

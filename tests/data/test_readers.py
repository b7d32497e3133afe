"""Rows of every layout become the Groups that they mean."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from PIL import Image

from sightline.data.load import Account, groups_from_records, load_groups, load_prompts
from sightline.data.schema import write_groups
from sightline.data.validate import Checks
from sightline.errors import DataError, RecipeError
from sightline.recipes.schema import DataSpec
from sightline.types import Edge, Group, Response

NO_FILES = Checks(images=False)
IMAGE = {"type": "image"}


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


def user(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


def assistant(words: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": [text(words)], **more}


def read(*rows: dict[str, Any], **spec: Any) -> list[Group]:
    """Groups of rows in memory; pictures are named, not opened, and lie in /d."""
    options = {"path": "rows", "image_dir": "/d", **spec}
    return groups_from_records(rows, DataSpec(**options), Account(checks=NO_FILES))


def turns(*words: str) -> list[dict[str, str]]:
    """A conversation in strings, user first."""
    return [{"role": "assistant" if i % 2 else "user", "content": word} for i, word in enumerate(words)]


def llava(*values: Any) -> list[dict[str, Any]]:
    return [{"from": "gpt" if i % 2 else "human", "value": value} for i, value in enumerate(values)]


# --- TRL ----------------------------------------------------------------------------------------

PAIR = (Response(text="Two."), Response(text="Three."))


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "How many?", "chosen": "Two.", "rejected": "Three.", "image": "a.png"},
        {"prompt": "How many?", "chosen": "Two.", "rejected": "Three.", "images": ["a.png"]},
        {
            "prompt": turns("How many?"),
            "chosen": turns("", "Two.")[1:],
            "rejected": turns("", "Three.")[1:],
            "image": "a.png",
        },
        {"chosen": turns("How many?", "Two."), "rejected": turns("How many?", "Three."), "images": ["a.png"]},
        {"prompt": "<image>\nHow many?", "chosen": "Two.", "rejected": "Three.", "image": "a.png"},
        {
            "prompt": [user({**IMAGE, "text": None}, text("How many?"))],
            "chosen": [assistant("Two.")],
            "rejected": [assistant("Three.")],
            "images": ["a.png"],
        },
        {"question": "How many?", "chosen": "Two.", "rejected": "Three.", "image": "a.png"},
        {"conversations": llava("<image>\nHow many?"), "chosen": "Two.", "rejected": "Three.", "images": ["a.png"]},
        {"conversations": llava("<image>How many?", ["Two.", "Three."]), "image": "a.png"},
    ],
)
def test_preference_rows_of_every_layout_are_the_same_group(row: dict[str, Any]) -> None:
    (group,) = read(row)
    assert group.prompts[0].messages == (user(IMAGE, text("How many?")),)
    assert group.prompts[0].images == ("/d/a.png",)
    assert group.responses == PAIR
    assert group.edges == (Edge(winner=0, loser=1),)
    assert group.source == "rows:1"


def test_relation_none_keeps_both_answers_without_an_edge() -> None:
    (group,) = read({"prompt": "?", "chosen": "Two.", "rejected": "Three."}, relation="none")
    assert (group.responses, group.edges) == (PAIR, ())


def test_implicit_prompt_is_what_both_conversations_begin_with() -> None:
    shared = turns("a", "b", "c")
    (group,) = read({"chosen": [*shared, *turns("", "x")[1:]], "rejected": [*shared, *turns("", "y")[1:]]})
    assert group.prompts[0].messages == (user(text("a")), assistant("b"), user(text("c")))
    assert [response.text for response in group.responses] == ["x", "y"]


def test_images_go_before_the_text_of_the_first_user_turn() -> None:
    system = {"role": "system", "content": "Be brief."}
    row = {
        "prompt": [system, *turns("one", "1", "two")],
        "completion": turns("", "2")[1:],
        "images": ["a.png", "b.png"],
    }
    (group,) = read(row)
    messages = group.prompts[0].messages
    assert messages[0] == {"role": "system", "content": [text("Be brief.")]}
    assert messages[1] == user(IMAGE, IMAGE, text("one"))
    assert messages[3] == user(text("two"))


@pytest.mark.parametrize("column", [{"history": [["b", "c"]]}, {"tools": "[{}]"}, {"audios": ["a.wav"]}])
@pytest.mark.parametrize("row", [{"prompt": "q", "completion": "a"}, {"conversations": llava("q", "a")}])
def test_columns_that_others_let_the_model_read_are_refused(row: dict[str, Any], column: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=f"column '{next(iter(column))}' is a part of the conversation"):
        read({**row, **column})
    (group,) = read({**row, "tools": "[]", "history": []})  # nothing in them
    assert len(group.prompts[0].messages) == 1


@pytest.mark.parametrize("place", ["<image 1>", "<IMAGE>", "<img>", "<|image_1|>", "<|image_pad|>", "<ImageHere>"])
def test_places_of_pictures_that_are_written_otherwise_are_refused(place: str) -> None:
    with pytest.raises(DataError, match="looks like the place of one"):
        read({"prompt": f"what is in {place}?", "completion": "a", "images": ["a.png"]})
    assert read({"prompt": f"what is {place} in HTML?", "completion": "a"})  # no picture: it is text


def test_typed_parts_fix_the_places_of_images() -> None:
    (group,) = read(
        {"messages": [user(text("this"), IMAGE, text("or"), IMAGE), assistant("this")], "images": ["a", "b"]}
    )
    assert group.prompts[0].messages == (user(text("this"), IMAGE, text("or"), IMAGE),)
    assert group.prompts[0].images == ("/d/a", "/d/b")


def test_images_inside_typed_parts_are_taken_in_reading_order() -> None:
    first = {"type": "image_url", "value": "a.png"}
    second = {"type": "image_url", "image_url": {"url": "b.png"}}
    (group,) = read({"messages": [user(first, text("x"), second), assistant("y")]})
    assert group.prompts[0].images == ("/d/a.png", "/d/b.png")


def test_multi_turn_rows_train_history_as_the_recipe_says() -> None:
    row = {"messages": turns("a", "b", "c", "d")}
    (all_turns,), (last,) = read(row), read(row, train_on="last")
    assert all_turns.prompts[0].messages == (user(text("a")), assistant("b", weight=1), user(text("c")))
    assert last.prompts[0].messages == (user(text("a")), assistant("b"), user(text("c")))
    assert all_turns.responses == last.responses == (Response(text="d"),)


def test_a_turn_of_weight_0_is_never_trained() -> None:
    row = {"messages": turns("a", "b", "c", "d")}
    row["messages"][1] = {**row["messages"][1], "weight": 0}
    assert read(row)[0].prompts[0].messages[1] == assistant("b")


def test_history_of_preferences_is_not_trained() -> None:
    (group,) = read({"prompt": turns("a", "b", "c"), "chosen": "x", "rejected": "y"})
    assert group.prompts[0].messages[1] == assistant("b")


def test_unpaired_rows_carry_their_label() -> None:
    good, bad = read(
        {"prompt": "?", "completion": "x", "label": True}, {"prompt": "?", "completion": "y", "label": False}
    )
    assert [group.responses[0].label for group in (good, bad)] == [True, False]


def test_prompt_only_rows_have_no_response_and_other_columns_become_facts() -> None:
    (group,) = read({"prompt": "?", "answer": 4, "captions": ["a", "b"], "empty": None, "hole": float("nan")})
    assert group.responses == ()
    assert group.prompts[0].facts == {"answer": 4, "captions": ["a", "b"]}


def test_rename_maps_columns() -> None:
    (group,) = read(
        {"q": "?", "a": "x", "picture": "p.png"}, rename={"q": "prompt", "a": "completion", "picture": "image"}
    )
    assert (group.prompts[0].images, group.responses) == (("/d/p.png",), (Response(text="x"),))


def test_rename_of_a_missing_column_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"found no column 'qestion'. Did you mean 'question'"):
        read({"question": "?"}, rename={"qestion": "prompt"})


# --- LLaVA --------------------------------------------------------------------------------------


def test_llava_conversation_with_a_late_picture_keeps_its_place() -> None:
    row = {
        "id": 7,
        "conversations": llava("<image>Who?", "A.", "Where?\n<image>", "There."),
        "image": ["a.png", "b.png"],
    }
    (group,) = read(row)
    assert group.id == "7"
    assert group.prompts[0].messages == (
        user(IMAGE, text("Who?")),
        assistant("A.", weight=1),
        user(text("Where?"), IMAGE),
    )
    assert group.prompts[0].images == ("/d/a.png", "/d/b.png")


def test_line_breaks_amid_the_text_stay() -> None:
    (group,) = read({"conversations": llava("first\n<image>\nsecond", "x"), "image": "a.png"})
    assert group.prompts[0].messages == (user(text("first\n"), IMAGE, text("\nsecond")),)


@pytest.mark.parametrize("value", ["<image>\nWhat changed?", "What changed?", "<image><image>What changed?"])
def test_comma_separated_pictures_stand_together(value: str) -> None:
    (group,) = read({"conversations": llava(value, "x"), "image": "s/a.jpg, s/b.jpg"})
    assert group.prompts[0].messages == (user(IMAGE, IMAGE, text("What changed?")),)
    assert group.prompts[0].images == ("/d/s/a.jpg", "/d/s/b.jpg")


def test_a_file_whose_name_holds_a_comma_is_one_picture(tmp_path: Path) -> None:
    (tmp_path / "a,b.jpg").write_bytes(b"")
    (group,) = read({"conversations": llava("<image>?", "x"), "image": "a,b.jpg"}, image_dir=str(tmp_path))
    assert group.prompts[0].images == (str(tmp_path / "a,b.jpg"),)


def test_three_ranked_answers_are_compared_each_with_all_after_it() -> None:
    (group,) = read({"conversations": llava("?", ["best", "middle", "worst"])})
    assert [(edge.winner, edge.loser) for edge in group.edges] == [(0, 1), (0, 2), (1, 2)]


def test_score_beside_one_answer_is_its_reward() -> None:
    assert read({"conversations": llava("?", ["fine"]), "score": 3.5})[0].responses == (
        Response(text="fine", reward=3.5),
    )


def test_two_pictures_for_one_placeholder_are_a_true_and_a_negative_prompt() -> None:
    sides = {"chosen": {"from": "gpt", "value": "a cat"}, "rejected": {"from": "gpt", "value": "a dog"}}
    (group,) = read({"conversations": llava("<image>\nWhat?"), **sides, "images": ["cat.png", "dog.png"]})
    assert [prompt.images for prompt in group.prompts] == [("/d/cat.png",), ("/d/dog.png",)]
    assert [prompt.id for prompt in group.prompts] == ["rows-1", "rows-1/negative"]
    assert group.prompts[0].messages == group.prompts[1].messages
    assert [response.prompt for response in group.responses] == [0, 0]
    assert group.edges == (Edge(winner=0, loser=1, kind="text"),)


def test_rows_with_a_negative_picture_are_sampled_for_about_their_own() -> None:
    row = {"conversations": llava("<image>\nWhat?"), "chosen": "a", "rejected": "b", "images": ["cat.png", "dog.png"]}
    spec, account = DataSpec(path="rows", image_dir="/d"), Account(checks=NO_FILES, prompts_only=True)
    (group,) = groups_from_records([row], spec, account)
    assert [prompt.images for prompt in group.prompts] == [("/d/cat.png",)]


@pytest.mark.parametrize(
    "column",
    [{"rejected_image": "dog.png"}, {"rejected_images": ["dog.png"]}, {"rejected_images": [{"path": "dog.png"}]}],
)
def test_rejected_images_of_a_trl_row_are_a_negative_prompt(column: dict[str, Any]) -> None:
    (group,) = read({"prompt": "What?", "chosen": "a cat", "rejected": "a dog", "images": ["cat.png"], **column})
    assert [prompt.images for prompt in group.prompts] == [("/d/cat.png",), ("/d/dog.png",)]
    assert [prompt.id for prompt in group.prompts] == ["rows-1", "rows-1/negative"]
    assert [response.prompt for response in group.responses] == [0, 0]
    assert not group.prompts[0].facts
    with pytest.raises(DataError, match="2 rejected images beside 1 images"):
        read(
            {"prompt": "What?", "chosen": "a", "rejected": "b", "image": "c.png", "rejected_images": ["d.png", "e.png"]}
        )


def test_the_same_picture_twice_is_one_prompt() -> None:
    row = {"conversations": llava("<image>\nWhat?"), "chosen": "a", "rejected": "b", "images": ["c.png", "./c.png"]}
    (group,) = read(row)
    assert [prompt.images for prompt in group.prompts] == [("/d/c.png",)]


# --- wrong rows ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": turns("<image><image>?", "x"), "images": ["a"]}, "2 image placeholders and 1 images"),
        ({"conversations": llava("<image>?", "x")}, "1 image placeholders and 0 images"),
        ({"conversations": llava("<image>?", "x"), "image": ["a", "b"]}, "1 image placeholders and 2 images"),
        ({"messages": turns("?", "<image>x"), "image": "a"}, "an answer holds a picture"),
        ({"prompt": "?", "completion": "see <image>"}, "contains <image>"),
        ({"messages": [user(text("a <image> b"), IMAGE), assistant("x")], "image": "a"}, "contains <image>"),
        ({"conversations": [{"from": "bot", "value": "x"}]}, "'conversations\\[0\\].from' is 'bot'.*Use one of system"),
        ({"messages": [*turns("?", "x"), {"role": "assistant", "content": "y"}]}, "an answer is followed by an answer"),
        (
            {"messages": [{"role": "assistant", "content": "y"}, *turns("?", "x")]},
            "turn 1 is by assistant, expected user",
        ),
        ({"messages": [{"role": "user", "content": "?", "loss": 1}]}, "unknown key 'messages\\[0\\].loss'"),
        ({"prompt": " ", "completion": "x"}, "turn 1 \\(user\\) is empty"),
        ({"prompt": "?", "completion": " \n"}, "answer 1 is empty"),
        ({"prompt": "?", "chosen": "x", "rejected": "x"}, "are compared and are the same: 'x'"),
        ({"prompt": "?", "chosen": "x"}, "missing column 'rejected'"),
        ({"chosen": "x y", "rejected": "x z"}, "there is no 'prompt'"),
        ({"chosen": turns("a", "b", "c", "d"), "rejected": turns("a", "x", "c", "d")}, "'chosen' has 3 turns"),
        ({"prompt": "?", "completion": "x", "label": "good"}, "'label' is 'good', expected true or false"),
        ({"prompt": "?", "image": "a", "images": ["b"]}, "found both 'image' and 'images'"),
        ({"prompt": "?", "tools": [{"name": "f"}]}, "column 'tools' is a part of the conversation"),
        ({"prompt": "?", "blob": b"xx"}, "column 'blob' holds a bytes"),
        ({"prompt": "?", "image": "https://host/a.png"}, "is an address"),
        ({"prompt": "?", "chosen": "x", "rejected": "x \n"}, "are the same: 'x', but for white space around them"),
        ({"prompt": "?", "completion": "x", "seen": float("inf")}, "column 'seen' holds a float"),
        ({"conversations": llava("?", "x"), "score": float("nan")}, "'score' is nan, expected a finite number"),
        ({"messages": [*turns("?"), assistant("x", weight=0)]}, "last answer has weight 0, which says not to train it"),
        ({"prompt": 3, "completion": "x"}, "'prompt' is 3, expected a text or a list of messages"),
        (
            {"conversations": llava("?"), "chosen": "a", "rejected": "b", "images": ["a", "b"]},
            "no placeholder in the text",
        ),
    ],
)
def test_wrong_rows_are_named(row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=rf"^rows, row 2 \(counted from 1\): .*{message}"):
        read({"prompt": "fine?"} if "conversations" not in row else {"conversations": llava("fine?")}, row)


def test_keys_that_a_table_fills_with_null_are_passed_over() -> None:
    """Parquet and datasets give every message, and every part, the keys of all of them."""
    null = {"from": None, "value": None, "tool": None, "weight": None}
    parts = [{"type": "image", "text": None, "index": 0}, {"type": "text", "text": "What?", "index": None}]
    row = {"messages": [{"role": "user", "content": parts, **null}, {"role": "assistant", "content": "x", **null}]}
    (group,) = read({**row, "images": ["a.png"]})
    assert group.prompts[0].messages == (user(IMAGE, text("What?")),)
    assert group.responses == (Response(text="x"),)


def test_a_history_is_trained_by_supervision_only() -> None:
    """Prompts that answers are sampled for have several of them, so that nothing before may be trained."""
    row = {"messages": turns("one", "two", "three", "four")}
    assert [message.get("weight") for message in read(row)[0].prompts[0].messages] == [None, 1, None]
    sampled = groups_from_records([row], DataSpec(path="rows"), Account(checks=NO_FILES, prompts_only=True))
    assert [message.get("weight") for message in sampled[0].prompts[0].messages] == [None, None, None]


def test_unknown_layout_lists_the_columns() -> None:
    with pytest.raises(RecipeError, match="found the columns foo, bar, which are no known layout"):
        read({"foo": 1, "bar": 2})


# --- where pictures are -------------------------------------------------------------------------


def draw(path: Path, colour: str = "red") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), colour).save(path)
    return path


def rows_file(path: Path, *rows: Any) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_relative_pictures_start_from_the_folder_of_the_file_or_from_image_dir(tmp_path: Path) -> None:
    here, there = draw(tmp_path / "img/a.png"), draw(tmp_path / "other/img/a.png")
    path = rows_file(tmp_path / "rows.jsonl", {"prompt": "?", "image": "img/a.png"})
    assert load_groups(DataSpec(path=path))[0].prompts[0].images == (str(here),)
    assert load_groups(DataSpec(path=path, image_dir=str(tmp_path / "other")))[0].prompts[0].images == (str(there),)


GOOD = b'{"prompt": "?", "completion": "x"}\n'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"prompt": "\xff"}\n', r"not UTF-8 text \(byte 0xff\)"),
        (b'{"prompt": "?", "completion": "x", "prompt": "!"}\n', "the key 'prompt' stands twice"),
        (b'{"messages": [{"role": "user", "role": "user"}]}\n', "the key 'role' stands twice"),
        (b'{"prompt": "?", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n", r"not JSON \(nested too deeply"),
        (b'{"prompt": "?", "x": ' + b"1" * 5000 + b"}\n", "not JSON"),
        (b'{"prompt": "?", \n', "not JSON"),
    ],
)
def test_a_bad_line_is_a_bad_row_and_the_others_are_read(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD + line + GOOD)
    with pytest.raises(DataError, match=rf"rows.jsonl, row 2 \(counted from 1\): {message}"):
        load_groups(DataSpec(path=str(path)))
    account = Account(on_bad_row="skip")
    assert len(load_groups(DataSpec(path=str(path)), account)) == 2
    assert [(bad.row, bad.reason) for bad in account.report.bad] == [(2, "malformed")]


def test_bad_rows_of_a_list(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes(b"[" + GOOD + b', {"prompt": "?", "prompt": "!"}, ' + GOOD + b"]")
    account = Account(on_bad_row="skip")
    assert len(load_groups(DataSpec(path=str(path)), account)) == 2
    assert [bad.error for bad in account.report.bad] == ["the key 'prompt' stands twice. Keep one"]
    path.write_bytes(b"[" + GOOD + b', {"prompt": "\xff"}]')
    with pytest.raises(DataError, match=r"rows.json: not UTF-8 text \(byte 0xff in line 2\)"):
        load_groups(DataSpec(path=str(path)))


def test_the_bytes_of_a_picture_and_a_pil_image(tmp_path: Path) -> None:
    data = draw(tmp_path / "a.png").read_bytes()
    account = Account(cache_dir=tmp_path / "kept")
    rows = [{"prompt": "?", "image": data}, {"prompt": "?", "image": Image.new("F", (4, 4))}]
    (group,) = groups_from_records(rows[:1], DataSpec(path="rows"), account)
    assert Path(group.prompts[0].images[0]).read_bytes() == data
    with pytest.raises(DataError, match=r"row 1 .*values of 32 bits"):
        groups_from_records(rows[1:], DataSpec(path="rows"), account)


def test_a_bare_name_is_tried_only_in_a_given_image_dir_and_noted(tmp_path: Path) -> None:
    found = draw(tmp_path / "photos/a.png")
    path = rows_file(tmp_path / "rows.jsonl", {"prompt": "?", "image": "../data/x/a.png"})
    with pytest.raises(DataError, match=r"'../data/x/a.png' is missing: looked for \S+/data/x/a.png. Put the file"):
        load_groups(DataSpec(path=path))
    account = Account()
    (group,) = load_groups(DataSpec(path=path, image_dir=str(tmp_path / "photos")), account)
    assert group.prompts[0].images == (str(found),)
    assert "1 pictures found by their bare name" in account.report.notes[0]


def test_two_pictures_of_one_bare_name_are_never_taken_for_each_other(tmp_path: Path) -> None:
    draw(tmp_path / "photos/image.png")
    rows = [{"prompt": "?", "image": f"{i}/image.png"} for i in (1, 2)]
    spec = DataSpec(path=rows_file(tmp_path / "rows.jsonl", *rows), image_dir=str(tmp_path / "photos"))
    with pytest.raises(DataError, match=r"row 2 .*'2/image.png' is missing.*which is already '1/image.png'"):
        load_groups(spec)


# --- files --------------------------------------------------------------------------------------


def test_json_list_json_lines_and_a_byte_order_mark_read_the_same(tmp_path: Path) -> None:
    rows = [{"prompt": "ä?", "completion": str(i)} for i in range(3)]
    (tmp_path / "list.json").write_text(json.dumps(rows), encoding="utf-8")
    (tmp_path / "lines.json").write_text("\n\n".join(map(json.dumps, rows)), encoding="utf-8")
    (tmp_path / "mark.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8-sig")
    for name in ("list.json", "lines.json", "mark.jsonl"):
        groups = load_groups(DataSpec(path=str(tmp_path / name)))
        assert [group.responses[0].text for group in groups] == ["0", "1", "2"]
    assert len(load_groups(DataSpec(path=str(tmp_path / "list.json"), limit=2))) == 2


def test_group_files_are_a_layout_too(tmp_path: Path) -> None:
    draw(tmp_path / "a.png")
    (group,) = read({"prompt": "?", "chosen": "x", "rejected": "y", "image": "a.png"}, image_dir=str(tmp_path))
    write_groups(tmp_path / "g.jsonl", [group])
    spec = DataSpec(path=str(tmp_path / "g.jsonl"))
    (again,) = load_groups(spec)
    assert (again.prompts, again.responses, again.edges) == (group.prompts, group.responses, group.edges)
    assert load_groups(DataSpec(path=spec.path, relation="none"))[0].edges == ()


def test_parquet_with_embedded_pictures_gives_back_their_bytes(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    data = [draw(tmp_path / f"{colour}.jpg", colour).read_bytes() for colour in ("red", "blue")]
    columns = {
        "prompt": ["What?"] * 3,
        "chosen": ["x"] * 3,
        "rejected": ["y"] * 3,
        "images": [[{"bytes": data[i], "path": "n.jpg"}] for i in (0, 1, 0)],
    }
    features = datasets.Features(
        {name: datasets.Value("string") for name in ("prompt", "chosen", "rejected")}
        | {"images": datasets.List(datasets.Image())}
    )
    table = datasets.Dataset.from_dict(columns, features=features)
    table.to_parquet(tmp_path / "rows.parquet")
    table.save_to_disk(tmp_path / "saved")
    for path in ("rows.parquet", "saved"):
        account = Account(cache_dir=tmp_path / "cache")
        groups = load_groups(DataSpec(path=str(tmp_path / path)), account)
        files = [Path(group.prompts[0].images[0]) for group in groups]
        assert [file.read_bytes() for file in files] == [data[0], data[1], data[0]]
        assert files[0] == files[2]
        assert {file.suffix for file in files} == {".jpeg"}
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_pictures_in_memory_are_written_without_loss(tmp_path: Path) -> None:
    picture = Image.effect_noise((9, 7), 64).convert("RGB")
    rows = [{"prompt": "?", "image": picture}]
    (group,) = groups_from_records(rows, DataSpec(path="rows"), Account(cache_dir=tmp_path))
    with Image.open(group.prompts[0].images[0]) as again:
        assert again.tobytes() == picture.tobytes()
    with pytest.raises(DataError, match="holds its picture in memory"):
        groups_from_records(rows, DataSpec(path="rows"))


def test_bytes_that_are_no_picture_are_a_bad_row(tmp_path: Path) -> None:
    rows = [{"prompt": "?", "image": {"bytes": b"junk", "path": None}}]
    with pytest.raises(DataError, match="the 4 bytes of the picture are no image"):
        groups_from_records(rows, DataSpec(path="rows"), Account(cache_dir=tmp_path))


def test_saved_folder_with_splits_names_them(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    part = datasets.Dataset.from_dict({"prompt": ["a?", "b?"]})
    datasets.DatasetDict({"test": part}).save_to_disk(tmp_path / "saved")
    assert len(load_groups(DataSpec(path=str(tmp_path / "saved"), split="test"))) == 2
    with pytest.raises(DataError, match=r"has no split 'train'. Set split to one of test"):
        load_groups(DataSpec(path=str(tmp_path / "saved")))


def test_what_is_no_file_and_no_dataset_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"absent\.json: no such file"):
        load_groups(DataSpec(path=str(tmp_path / "absent.json")))
    with pytest.raises(DataError, match="not one that datasets saved"):
        load_groups(DataSpec(path=str(tmp_path)))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match="as a datasets name it cannot be loaded"):
        load_groups(DataSpec(path="nobody/nothing-of-this-name"))


def test_prompts_leave_responses_out_even_empty_ones() -> None:
    rows = [{"conversations": llava("a?", "")}, {"conversations": llava("b?")}]
    account = Account(prompts_only=True)
    assert [group.responses for group in groups_from_records(rows, DataSpec(path="rows"), account)] == [(), ()]


def test_load_prompts_adds_to_the_report_of_its_caller(tmp_path: Path) -> None:
    account = Account()
    path = rows_file(tmp_path / "p.jsonl", {"conversations": llava("a?", "x")})
    assert load_prompts(DataSpec(path=path), account)[0].responses == ()
    assert (account.report.read, account.report.kept) == (1, 1)


def test_ids_are_unique_over_sources() -> None:
    account = Account()
    rows = [{"id": "q", "prompt": "a?"}, {"id": "q", "prompt": "b?"}]
    groups = groups_from_records(rows, DataSpec(path="one"), account)
    groups += groups_from_records(rows, DataSpec(path="two"), account)
    assert [group.id for group in groups] == ["q", "q#2", "q#1", "q#2+"]


def test_a_damaged_table_says_so(tmp_path: Path) -> None:
    made = Dataset.from_list([{"prompt": f"question {i} {'x' * i}", "completion": "x"} for i in range(300)])
    made.to_parquet(tmp_path / "rows.parquet")
    whole = (tmp_path / "rows.parquet").read_bytes()
    (tmp_path / "rows.parquet").write_bytes(whole[:200] + b"\xff" * 300 + whole[500:])
    with pytest.raises(DataError, match=r"rows.parquet: is damaged \(.*\). Restore the file"):
        load_groups(DataSpec(path=str(tmp_path / "rows.parquet")))
    made.save_to_disk(tmp_path / "saved")
    (arrow,) = (tmp_path / "saved").glob("*.arrow")
    arrow.write_bytes(arrow.read_bytes()[:4000])
    with pytest.raises(DataError, match=r"saved: is damaged \("):
        load_groups(DataSpec(path=str(tmp_path / "saved")))

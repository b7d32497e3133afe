"""What a reward model reads: facts, captions for pictures, criteria."""

from dataclasses import replace

import pytest

from sightline.data.augment import CRITERIA, Reader
from sightline.errors import DataError, RecipeError
from sightline.recipes.schema import ReadsSpec
from sightline.types import Edge, Group, Prompt, Response


def user(*parts):
    content = [{"type": "image"} if part is None else {"type": "text", "text": part} for part in parts]
    return {"role": "user", "content": content}


FACTS = {"captions": ["A shelf with jars.", "A round clock {on} wood."], "rationales": "It has hands."}
GROUP = Group(
    prompts=(Prompt(id="clock", messages=(user(None, "Is it digital?"),), images=("clock.png",), facts=FACTS),),
    responses=(
        Response(text="No.", tokens=(5, 6), weights=(1.0, 1.0), rollout_logprobs=(-1.0, -2.0), reward=2.0),
        Response(text="Yes, 10:45."),
    ),
    edges=(Edge(winner=0, loser=1, weight=0.5),),
    source="rows.jsonl:3",
)


def texts(prompt):
    """Role and text of each message; a picture is written as <image>."""
    return [
        (m["role"], "".join("<image>" if p["type"] == "image" else p["text"] for p in m["content"]))
        for m in prompt.messages
    ]


def test_without_a_spec_groups_are_read_as_they_are():
    assert Reader(None)(GROUP) is GROUP


def test_answers_are_read_as_text():
    read = Reader(ReadsSpec())(GROUP)
    assert read.prompts == GROUP.prompts and read.edges == GROUP.edges
    assert read.responses == (Response(text="No.", reward=2.0), Response(text="Yes, 10:45."))


def test_facts_follow_the_question():
    read = Reader(ReadsSpec(facts=("rationales", "captions")))(GROUP)
    assert texts(read.prompts[0]) == [
        (
            "user",
            "<image>Is it digital?\nWhat is known about the picture:\n- It has hands.\n- A shelf with jars."
            "\n- A round clock {on} wood.",
        )
    ]
    assert texts(GROUP.prompts[0]) == [("user", "<image>Is it digital?")]  # what a policy reads is untouched


def test_criteria_follow_each_answer_and_the_score_is_read_at_the_lead_in():
    spec = ReadsSpec(facts=("captions",), criteria="Judge it. Be accurate.{facts}\nBe {brief}.", lead_in="The score is")
    read = Reader(spec)(GROUP)
    assert [texts(prompt)[:2] for prompt in read.prompts] == [
        [("user", "<image>Is it digital?"), ("assistant", "No.")],
        [("user", "<image>Is it digital?"), ("assistant", "Yes, 10:45.")],
    ]
    request = (
        "Judge it. Be accurate. All of it must agree with these descriptions of the picture, taken together:"
        "\n  - A shelf with jars.\n  - A round clock {on} wood.\nBe {brief}."
    )
    assert all(texts(prompt)[2] == ("user", request) for prompt in read.prompts)
    assert read.responses == (
        Response(text="The score is", reward=2.0),
        Response(text="The score is", prompt=1),
    )
    assert read.edges == GROUP.edges and read.id == GROUP.id
    assert len({prompt.id for prompt in read.prompts}) == 2


def test_default_criteria_name_four_and_have_a_place_for_facts():
    read = Reader(ReadsSpec(criteria="default"))(GROUP)
    request = texts(read.prompts[0])[2][1]
    assert request == CRITERIA.replace("{facts}", "") and "{" not in request
    assert [line.split(":")[0] for line in request.split("\n") if line[:1].isdigit()] == [
        "1. Accurate",
        "2. Helpful",
        "3. Natural",
        "4. Concise",
    ]


def test_text_only_drops_pictures():
    read = Reader(ReadsSpec(images="drop"))(GROUP)
    assert texts(read.prompts[0]) == [("user", "Is it digital?")] and read.prompts[0].images == ()


def test_captions_stand_for_pictures():
    read = Reader(ReadsSpec(images="caption"))(GROUP)
    assert texts(read.prompts[0]) == [("user", "Picture: A shelf with jars. A round clock {on} wood.\nIs it digital?")]
    assert read.prompts[0].images == ()
    two = Prompt(
        id="two",
        messages=(user(None, "and"), {"role": "assistant", "content": "Go on.", "weight": 1}, user(None, "?")),
        images=("a.png", "b.png"),
        facts={"seen": ["a cat", ["a dog", "a bone"]]},
    )
    read = Reader(ReadsSpec(images="caption", captions="seen"))(replace(GROUP, prompts=(two,)))
    assert texts(read.prompts[0]) == [
        ("user", "Picture 1: a cat\nand"),
        ("assistant", "Go on."),
        ("user", "Picture 2: a dog a bone\n?"),
    ]
    assert not any("weight" in message for message in read.prompts[0].messages)


@pytest.mark.parametrize(
    ("spec", "facts", "word"),
    [
        (ReadsSpec(facts=("captions",)), {"answer": "no"}, "no fact 'captions'; it has answer"),
        (ReadsSpec(facts=("captions",)), {"captions": [{"text": "x"}]}, "Expected a text"),
        (ReadsSpec(images="caption"), {}, "Give it a caption for each picture"),
    ],
)
def test_missing_facts_name_the_row(spec, facts, word):
    group = replace(GROUP, prompts=(replace(GROUP.prompts[0], facts=facts),))
    with pytest.raises(DataError, match=word) as raised:
        Reader(spec)(group)
    assert str(raised.value).startswith("rows.jsonl:3: ")


def test_missing_facts_can_be_left_out():
    group = replace(GROUP, prompts=(replace(GROUP.prompts[0], facts={"rationales": "It has hands."}),))
    spec = ReadsSpec(facts=("captions", "rationales"), missing_facts="leave_out")
    assert texts(Reader(spec)(group).prompts[0])[0][1].endswith("picture:\n- It has hands.")
    none = replace(GROUP, prompts=(replace(GROUP.prompts[0], facts={}),))
    assert Reader(spec)(none).prompts[0].messages == GROUP.prompts[0].messages


def test_what_cannot_be_honoured_is_refused():
    with pytest.raises(RecipeError, match=r"has no \{facts\}"):
        Reader(ReadsSpec(facts=("captions",), criteria="Judge it."))
    with pytest.raises(RecipeError, match="lead_in is empty"):
        Reader(ReadsSpec(criteria="default", lead_in=" "))
    visual = replace(GROUP, edges=(Edge(winner=0, loser=1, kind="image"),))
    with pytest.raises(DataError, match="images: drop removes"):
        Reader(ReadsSpec(images="drop"))(visual)

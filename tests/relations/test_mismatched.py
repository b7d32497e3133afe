from dataclasses import replace

import pytest

from sightline.data.load import load_dataset_spec
from sightline.data.schema import write_groups
from sightline.data.validate import Checks, PictureFiles, check_group
from sightline.errors import DataError
from sightline.recipes.schema import DatasetSpec, DataSpec
from sightline.relations.mismatched import mismatched
from sightline.types import Edge, Group, Prompt, Response


def row(name, *answers, edges=(), prompts=1):
    question = ({"role": "user", "content": "what?"},)
    return Group(
        prompts=tuple(Prompt(id=f"{name}{i or ''}", messages=question) for i in range(prompts)),
        responses=tuple(answers),
        edges=edges,
    )


def good(text, **fields):
    return Response(text=text, label=True, **fields)


ROWS = [row("a", good("yes")), row("b", Response(text="no", label=False)), row("c", good("yes"))]


def test_every_labelled_answer_gets_an_answer_that_is_not_its_own():
    made = [mismatched(ROWS)(group) for group in ROWS]
    assert [[r.text for r in group.responses] for group in made] == [["yes", "no"], ["no", "yes"], ["yes", "no"]]
    assert [[r.label for r in group.responses] for group in made] == [[True, False], [False, False], [True, False]]
    assert all(group.edges == (Edge(winner=0, loser=1, kind="mismatched"),) for group in made)


def test_the_answer_is_drawn_by_seed_and_id_from_the_whole_source():
    rows = [row(str(i), good(f"answer {i}")) for i in range(40)]

    def drawn(seed):
        return [mismatched(rows, seed=seed)(group).responses[1].text for group in rows]

    assert drawn(0) == drawn(0) != drawn(1)
    assert len(set(drawn(0))) > 20 and all(text != f"answer {i}" for i, text in enumerate(drawn(0)))


def test_a_comparison_becomes_two_labels_that_share_one_mismatched_answer():
    pair = row("p", Response(text="bad"), Response(text="fine"), edges=(Edge(winner=1, loser=0),))
    made = mismatched([pair, *ROWS])(pair)
    assert [response.label for response in made.responses] == [False, True, False]
    assert made.responses[2].text in ("yes", "no")
    assert made.edges == tuple(Edge(winner=i, loser=2, kind="mismatched") for i in (0, 1))


def test_sampled_tokens_come_along_and_each_prompt_has_its_own():
    asked_twice = row("t", good("one"), good("two", prompt=1), prompts=2)
    donor = row("d", good("three", tokens=(7, 8, 2), reward=1.0))
    made = mismatched([asked_twice, donor])(asked_twice)
    assert [(r.text, r.prompt, r.tokens, r.reward) for r in made.responses[2:]] == [
        ("three", 0, (7, 8, 2), None),
        ("three", 1, (7, 8, 2), None),
    ]
    assert [(edge.winner, edge.loser) for edge in made.edges] == [(0, 2), (1, 3)]


@pytest.mark.parametrize(
    ("group", "words"),
    [
        (row("x", Response(text="hm")), "answer 1 has neither a label nor a comparison"),
        (
            row("x", *(Response(text=t) for t in "abc"), edges=(Edge(winner=0, loser=1), Edge(winner=1, loser=2))),
            "answer 2 both wins and loses",
        ),
        (row("x", Response(text="a"), Response(text="b"), edges=(Edge(winner=0, loser=1, weight=2.0),)), "weight"),
        (row("x"), "no answer"),
    ],
)
def test_what_is_neither_good_nor_bad_is_refused(group, words):
    with pytest.raises(DataError, match=words):
        mismatched([group, *ROWS])(group)


def test_a_source_of_one_answer_is_refused():
    with pytest.raises(DataError, match="none can be mismatched"):
        mismatched([ROWS[0], ROWS[2]])(ROWS[0])


def test_data_sections_make_it_and_check_the_longer_row_again(tmp_path):
    rows = [*ROWS, row("long", good("a very long answer"))]
    write_groups(tmp_path / "rows.jsonl", rows)
    spec = DataSpec(path=str(tmp_path / "rows.jsonl"), relation="mismatched")
    groups, report = load_dataset_spec(DatasetSpec(train=(spec,)), "train", seed=3)
    pool = [replace(group, source="") for group in rows]
    expected = [mismatched(pool, seed=3)(group).responses for group in pool]
    assert [group.responses for group in groups] == expected and report.summary() == "4 of 4 rows kept, 0 with pictures"

    def words(group):
        return max(len(response.text.split()) for response in group.responses)

    with_long = sum(words(replace(rows[0], responses=responses)) > 2 for responses in expected)
    assert with_long > 1  # the long answer itself, and rows that it was drawn for
    dataset = DatasetSpec(train=(replace(spec, limit=None),), on_bad_row="skip", max_length=8)
    _, report = load_dataset_spec(dataset, "train", num_tokens=lambda group: 3 * words(group), seed=3)
    assert report.by_reason()["too long"] >= 1 and report.read == 4


def test_an_answer_to_the_same_question_is_not_mismatched():
    """Unpaired sets hold several answers to one question about one picture, each in a row of its own."""

    def asked(name, text, picture, question="what?"):
        prompt = Prompt(id=name, messages=({"role": "user", "content": question},), images=(picture,))
        return Group(prompts=(prompt,), responses=(good(text),))

    same = [asked(f"a{i}", f"a kite {i}", "a.png") for i in range(20)]
    rows = [*same, asked("b", "a dog", "b.png"), asked("c", "red", "a.png", "which colour?")]
    for seed in range(5):
        drawn = {mismatched(rows, seed=seed)(group).responses[1].text for group in same}
        assert drawn <= {"a dog", "red"}
    assert mismatched(rows)(rows[-1]).responses[1].text != "red"
    alone = mismatched(same)(same[0]).responses[1].text  # a source of a single question has nothing better
    assert alone.startswith("a kite") and alone != "a kite 0"


def test_pairs_of_yes_and_no_are_mismatched_with_the_answer_to_another_question():
    """Every row has both words itself: what matters is the question."""

    def pair(name):
        prompt = Prompt(id=name, messages=({"role": "user", "content": name},))
        answers = (Response(text="yes"), Response(text="no"))
        return Group(prompts=(prompt,), responses=answers, edges=(Edge(winner=0, loser=1),))

    rows = [pair(f"is there a {name}?") for name in ("kite", "dog", "moon")]
    made = mismatched(rows)(rows[0])
    assert len(made.responses) == 3 and made.responses[2].text in ("yes", "no")
    assert [edge.kind for edge in made.edges] == ["mismatched"] * 2
    check_group(made, Checks(images=False, answers=True), PictureFiles())
    with pytest.raises(DataError, match="none can be mismatched"):
        mismatched(rows[:1])(rows[0])

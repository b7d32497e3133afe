"""Labels by a person: what is written, what is asked again, what a kill leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from sightline.app.desk import Desk
from sightline.app.folders import Folders
from sightline.app.labels import Labels, open_labels
from sightline.data.load import Account, load_groups
from sightline.data.schema import read_groups, write_groups
from sightline.data.validate import Checks
from sightline.errors import DataError
from sightline.recipes.schema import DataSpec
from sightline.types import Edge, Group, Prompt, Response

ANSWERS = ("a red circle", "a blue square", "a green star")


def asked(name: str, *answers: str, **more: object) -> Group:
    content = [{"type": "image"}, {"type": "text", "text": f"What is in {name}?"}]
    prompt = Prompt(id=name, messages=({"role": "user", "content": content},), images=more.pop("images", ()))
    responses = tuple(Response(text=text, tokens=(1, 2), rollout_logprobs=(-1.0, -2.0)) for text in answers)
    return Group(prompts=(prompt,), responses=responses, **more)


@pytest.fixture
def source(tmp_path: Path, pictures: list[str]) -> Path:
    path = tmp_path / "sampled.jsonl"
    groups = [asked(f"q{n}", *ANSWERS[: 2 + n % 2], images=(pictures[n],)) for n in range(4)]
    write_groups(path, [*groups, asked("same", "a  dog", "a dog"), asked("one", "alone")])
    return path


def opened(source: Path) -> Labels:
    return open_labels(source, source.with_name("labels.jsonl"))


def place_of(labels: Labels, text: str) -> int:
    question = labels.now()
    assert question is not None
    return question.texts.index(text)


def ends(group: Group) -> list[tuple[str, str]]:
    return [(group.responses[edge.winner].text, group.responses[edge.loser].text) for edge in group.edges]


def test_the_best_answer_wins_over_every_other_and_training_reads_it(source: Path) -> None:
    labels = opened(source)
    assert (len(labels.questions), labels.passed) == (4, 2), "nothing to choose from in two of them"
    labels.choose("q0", place_of(labels, "a blue square"))
    labels.choose("q1", place_of(labels, "a green star"))
    read = load_groups(DataSpec(path=str(labels.out)), Account(checks=Checks(answers=True)))
    assert [sorted(ends(group)) for group in read] == [
        [("a blue square", "a red circle")],
        [("a green star", "a blue square"), ("a green star", "a red circle")],
    ]
    assert read[0].responses[0].tokens == (1, 2) and read[0].prompts == next(iter(read_groups(source))).prompts


def test_a_correction_wins_over_what_it_corrects(source: Path) -> None:
    labels = opened(source)
    place = place_of(labels, "a red circle")
    for text, why in (("  ", "is empty"), ("a  red circle ", "says what the answer says")):
        with pytest.raises(DataError, match=why):
            labels.correct("q0", place, text)
    labels.correct("q0", place, " a red disc\n")
    (group,) = read_groups(labels.out)
    assert ends(group) == [("a red disc", "a red circle")] and group.responses[0].tokens is None


def test_a_session_goes_on_after_a_kill_in_the_middle_of_a_line(source: Path) -> None:
    labels = opened(source)
    orders = [question.texts for question in labels.questions]
    labels.choose("q0", 0)
    labels.choose("q1", 0)
    whole = labels.out.read_bytes()
    for cut in (len(whole) - 5, whole.index(b"\n") + 1, whole.index(b"\n") - 1, 3, 0):
        labels.out.write_bytes(whole[:cut])
        again = opened(source)
        kept = whole[:cut].count(b"\n")
        assert again.done == ["q0", "q1"][:kept] and again.out.read_bytes() == whole[: again.size]
        assert [question.texts for question in again.questions] == orders, "answers stand where they stood"
        assert (question := again.now()) and question.group.id == f"q{kept}"


def test_undo_takes_labels_back_also_those_of_an_earlier_session(source: Path) -> None:
    labels = opened(source)
    labels.choose("q0", 0)
    first = labels.out.read_bytes()
    labels.choose("q1", 0)
    again = opened(source)
    assert again.undo("q2") == "q1" and again.out.read_bytes() == first and again.now().group.id == "q1"
    assert again.undo("q1") == "q0" and again.out.read_bytes() == b"" and again.undo("q0") is None
    again.choose("q0", 1)
    assert len(list(read_groups(again.out))) == 1


def test_what_is_passed_over_comes_again_at_the_end(source: Path) -> None:
    labels = opened(source)
    labels.skip("q0")
    labels.skip("q1")
    labels.choose("q2", 0)
    labels.choose("q3", 0)
    assert labels.now().group.id == "q0"
    labels.skip("q0")
    assert labels.now().group.id == "q1"
    labels.choose("q1", 0)
    labels.choose("q0", 0)
    assert labels.now() is None and [group.id for group in read_groups(labels.out)] == ["q2", "q3", "q1", "q0"]


def test_a_label_that_comes_twice_or_late_is_refused(source: Path) -> None:
    labels = opened(source)
    labels.choose("q0", 0)
    for again in (lambda: labels.choose("q0", 1), lambda: labels.skip("q0"), lambda: labels.correct("q0", 0, "x")):
        with pytest.raises(DataError, match="is not what is asked now"):
            again()
    with pytest.raises(DataError, match="no answer 6"):
        labels.choose("q1", 5)
    assert len(list(read_groups(labels.out))) == 1


def test_two_pages_at_one_file_show_what_is_asked_now_and_take_nothing_back_unseen(source: Path) -> None:
    gr = pytest.importorskip("gradio", reason="the extra app (gradio) is absent")
    from sightline.app.tab_label import _Tab

    desk = Desk(folders=Folders.of([source.parent]), speakers=(), scratch=source.parent / "scratch")
    with gr.Blocks():
        tab = _Tab(desk)
    key, asked, *_ = tab.opened(str(source), "")
    assert asked == "q0" and tab.choose(key, "q0", place=0)[1] == "q1"
    for late in (
        lambda: tab.choose(key, asked, place=0),
        lambda: tab.passed(key, asked),
        lambda: tab.undone(key, asked),
        lambda: tab.corrected(key, asked, "1", "a <b>dog</b>"),
        lambda: tab.edited(key, asked, "1"),
    ):
        with pytest.warns(UserWarning, match="q0 is not what is asked now: another page went on"):
            shown = late()
        assert shown[1] == "q1" and "1 of 4 labelled" in shown[2], "the other page is shown what is asked now"
    question = desk.labels(key).now()
    assert tab.edited(key, "q1", "2")[-1] == question.texts[1]
    with pytest.raises(gr.Error, match=r"&lt;b&gt;\.jsonl: lies outside"):  # a note on the page is read as HTML
        tab.opened("/nowhere/<b>.jsonl", "")
    assert [group.id for group in read_groups(desk.labels(key).out)] == ["q0"]
    assert tab.undone(key, "q1")[1] == "q0"
    for id in ("q0", "q1", "q2", "q3"):
        last = tab.choose(key, id, place=1)
    with pytest.warns(UserWarning, match="q3 is not what is asked now"):
        assert last[1] == "" == tab.choose(key, "q3", place=0)[1]
    assert tab.undone(key, "")[1] == "q3"


def test_labels_of_other_rows_and_files_that_others_change_are_not_written_into(
    source: Path, pictures: list[str]
) -> None:
    labels, other = opened(source), opened(source)
    labels.choose("q0", 0)
    with pytest.raises(DataError, match="was changed by another program"):
        other.choose("q0", 1)
    with pytest.raises(DataError, match="was changed by another program"):
        other.correct("q0", 0, "a dog")
    assert len(list(read_groups(labels.out))) == 1
    write_groups(source, [asked("q0", "a", "b", images=(pictures[5],))])
    with pytest.raises(DataError, match="a label of 'q0', which is no row of sampled"):
        opened(source)


def test_files_with_nothing_to_choose_from_are_refused(source: Path, tmp_path: Path) -> None:
    write_groups(tmp_path / "twice.jsonl", [asked("q", "a", "b"), asked("q", "c", "d")])
    write_groups(tmp_path / "single.jsonl", [asked("q", "a")])
    with pytest.raises(DataError, match="'q' stands twice"):
        opened(tmp_path / "twice.jsonl")
    with pytest.raises(DataError, match="none of 1 groups has two different answers"):
        opened(tmp_path / "single.jsonl")
    with pytest.raises(DataError, match="the file that is labelled"):
        open_labels(source, source)


def test_labels_go_into_the_folders_of_the_app_alone(source: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/s.jsonl").write_bytes(source.read_bytes())
    desk = Desk(folders=Folders.of([tmp_path / "in"]), speakers=(), scratch=tmp_path / "scratch")
    with pytest.raises(DataError, match="outside of the folders"):
        desk.open_labels(str(source), "")
    with pytest.raises(DataError, match="outside of the folders"):
        desk.open_labels(str(tmp_path / "in/s.jsonl"), "../out.jsonl")
    key = desk.open_labels(str(tmp_path / "in/s.jsonl"), "mine.jsonl")
    assert desk.labels(key).out == tmp_path / "in/mine.jsonl" and desk.labels(key) is desk.labels(key)


def test_edges_of_the_file_are_not_shown_and_not_kept(tmp_path: Path, pictures: list[str]) -> None:
    """A preference file is labelled anew, blindly."""
    group = asked("q", "a", "b", images=(pictures[0],), edges=(Edge(winner=0, loser=1),))
    write_groups(tmp_path / "pairs.jsonl", [group])
    labels = opened(tmp_path / "pairs.jsonl")
    labels.choose("q", place_of(labels, "b"))
    assert ends(next(iter(read_groups(labels.out)))) == [("b", "a")]


def test_a_file_that_holds_no_labels_is_left_as_it_is(source: Path) -> None:
    """Another program may be in the middle of a line of it."""
    out = source.with_name("growing.jsonl")
    write_groups(out, [asked("elsewhere", "a", "b")])
    with out.open("a") as file:
        file.write('{"prompts": [{"id": "half')
    there = out.read_bytes()
    with pytest.raises(DataError, match="which is no row of"):
        open_labels(source, out)
    assert out.read_bytes() == there

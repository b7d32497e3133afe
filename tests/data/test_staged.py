"""Work on groups goes on where it was killed, with the same groups computed together."""

from dataclasses import replace
from functools import partial

import pytest

from sightline.data.identity import made_from
from sightline.data.schema import append_groups, read_groups
from sightline.data.staged import StagedGroups
from sightline.errors import CheckpointError, DataError
from sightline.types import Group, Prompt, Response

ASKED = [Group(prompts=(Prompt(id=str(index), messages=({"role": "user", "content": "?"},)),)) for index in range(7)]

CHUNKS = [["0", "1", "2"], ["3", "4", "5"], ["6"]]


class Work:
    """Answers that say how many groups were worked on together."""

    def __init__(self):
        self.calls = []

    def __call__(self, groups):
        self.calls.append([group.id for group in groups])
        return [Group(prompts=group.prompts, responses=(Response(text=f"{len(groups)}"),)) for group in groups]


def run(out, work, settings=None, groups=ASKED, **more):
    told = []
    made = StagedGroups(out=out, settings=settings, tell=told.append, **more).run(groups, work, chunk=3, title="work")
    return made, told


def test_a_chunk_that_a_kill_cut_is_worked_on_as_a_whole_and_its_rest_is_added(tmp_path):
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    run(whole, Work())
    lines = whole.read_bytes().splitlines(keepends=True)
    for length in range(sum(map(len, lines))):
        cut.write_bytes(whole.read_bytes()[:length])
        before = cut.read_bytes().count(b"\n")
        work = Work()
        made, told = run(cut, work)
        assert cut.read_bytes() == whole.read_bytes()
        assert made in (7 - before, 6 - before)  # the last line may have been whole but for its end
        assert work.calls == [chunk for chunk in CHUNKS if int(chunk[-1]) >= 7 - made]
        assert bool(told) == (made < 7)


def test_groups_of_an_earlier_call_are_not_worked_on_again(tmp_path):
    work = Work()
    append_groups(tmp_path / "out.jsonl", Work()(ASKED[:3]))
    assert run(tmp_path / "out.jsonl", work)[0] == 4
    assert work.calls == [["3", "4", "5"], ["6"]]
    assert [group.id for group in read_groups(tmp_path / "out.jsonl")] == [group.id for group in ASKED]


def test_settings_guard_the_file_where_there_are_some(tmp_path):
    run(tmp_path / "out.jsonl", Work(), {"seed": 1})
    with pytest.raises(CheckpointError, match="seed: 1 there, 2 here"):
        run(tmp_path / "out.jsonl", Work(), {"seed": 2})
    run(tmp_path / "free.jsonl", Work())
    assert not (tmp_path / "free.jsonl.settings.json").exists()


def test_what_was_made_from_another_group_of_the_same_id_is_refused(tmp_path):
    picture = tmp_path / "a.png"
    picture.write_bytes(b"one")
    prompt = replace(ASKED[0].prompts[0], images=(str(picture),), facts={"count": (1, 2)})
    group = replace(ASKED[0], prompts=(prompt,), responses=(Response(text="a", tokens=(1, 2)),))
    asks = partial(made_from, answers=False)
    reads = partial(made_from, answers=True)

    def echo(groups):
        return [replace(one, responses=(replace(one.responses[0], reward=1.0),)) for one in groups]

    out = tmp_path / "out.jsonl"
    run(out, echo, groups=[group], made_from=reads)
    assert run(out, echo, groups=[group], made_from=reads)[0] == 0
    said = replace(group, responses=(Response(text="a", tokens=(1, 3)),))
    assert run(out, echo, groups=[said], made_from=asks)[0] == 0
    known = replace(group, prompts=(replace(prompt, facts={"count": [1, 3]}),))
    words = replace(group, prompts=(replace(prompt, messages=({"role": "user", "content": "!"},)),))
    for other, made in ((said, reads), (known, asks), (words, asks)):
        with pytest.raises(CheckpointError, match="holds '0' made from other texts"):
            run(out, echo, groups=[other], made_from=made)
    moved, other = tmp_path / "moved.png", tmp_path / "other.png"
    moved.write_bytes(b"one")
    other.write_bytes(b"two")
    shown = [replace(group, prompts=(replace(prompt, images=(str(path),)),)) for path in (moved, other)]
    assert run(out, echo, groups=shown[:1], made_from=asks)[0] == 0
    with pytest.raises(CheckpointError, match="holds '0' made from other texts"):
        run(out, echo, groups=shown[1:], made_from=asks)


def test_two_groups_of_one_id_are_refused(tmp_path):
    with pytest.raises(DataError, match="the id '0' stands twice"):
        run(tmp_path / "out.jsonl", Work(), groups=[ASKED[0], ASKED[0]])

"""Comparisons that wait between their sampling and their training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import train_runs
from test_online import Ranks, means, source

from sightline.data.sampler import Sampler
from sightline.data.schema import read_groups
from sightline.errors import DataError, RecipeError
from sightline.negatives.generated import Pairing
from sightline.recipes.preferences import BufferSpec, SelectionSpec
from sightline.recipes.schema import SamplingSpec
from sightline.train.buffer import Buffer
from sightline.train.loop import train
from sightline.train.rollout_stats import Sampled
from sightline.train.stages import Launched, launched_from_json, launched_to_json
from sightline.types import Edge, Group, Prompt, Response


def buffered(tmp_path, answers, *, batch=4, size=8, relation="best_worst", reward=None, **fields):
    online = source(tmp_path, answers, size=size, relation=relation, reward=reward)
    spec = replace(online.spec, buffer=BufferSpec(**fields))
    return replace(online, spec=spec, sampler=Sampler(size=size, batch_size=batch, shuffle=False))


def ids(taken):
    return [group.group.id for group in taken.groups]


def asked(online):
    return [some for some, _ in online.engine.calls]


def half(group):
    """Every other prompt has answers that differ."""
    return ("1", "1", "1") if int(group.id[1:]) % 2 else ("1", "3", "2")


def test_a_round_is_filled_with_as_many_prompts_as_it_takes(tmp_path):
    online = buffered(tmp_path, half)
    first = online.take(0)
    assert asked(online) == [["p0", "p1", "p2", "p3"], ["p4", "p5"], ["p6"]]
    assert ids(first) == ["p0", "p2", "p4", "p6"]
    second = online.take(1)  # the order goes on where the round before stopped
    assert asked(online)[3] == ["p7", "p0", "p1", "p2"]
    assert len(ids(second)) == 4
    assert means(first)["buffer/size"] == means(first)["buffer/stored"] == 0 and means(first)["rollout/attempts"] == 3


def test_what_is_left_over_is_trained_first_and_once(tmp_path):
    """Pairs of two to a group: a round of three leaves one over."""
    online = buffered(tmp_path, lambda group: ("1", "3", "2"), batch=3, size=4, relation="ranked", unit="pair")
    first, calls = online.take(0), len(online.engine.calls)
    assert ids(first) == ["p0"] * 3  # three prompts were asked for, nine pairs came
    second, third = online.take(1), online.take(2)
    assert (ids(second), ids(third), len(online.engine.calls)) == (["p1"] * 3, ["p2"] * 3, calls)
    told = [(g.group, g.group.edges[0]) for g in first.groups if len(g.group.edges) == 1]
    ends = [(group.responses[edge.winner].reward, group.responses[edge.loser].reward) for group, edge in told]
    assert ends == [(3, 2), (3, 1), (2, 1)]
    assert means(third)["buffer/staleness"] == 2 and means(third)["buffer/stored"] == 1
    assert means(third)["buffer/replayed"] == means(third)["buffer/size"] == 0
    assert ids(online.take(3)) == ["p3"] * 3


def test_entries_are_mixed_with_fresh_ones_and_used_so_often(tmp_path):
    online = buffered(tmp_path, lambda group: ("1", "3"), uses=2, fresh=0.5)
    rounds = [online.take(step) for step in range(3)]
    assert [ids(one) for one in rounds] == [
        ["p0", "p1", "p2", "p3"],
        ["p0", "p1", "p4", "p5"],
        ["p2", "p3", "p6", "p7"],
    ]
    assert asked(online) == [["p0", "p1", "p2", "p3"], ["p4", "p5"], ["p6", "p7"]]
    figures = means(rounds[2])
    assert figures["buffer/replayed"] == figures["buffer/stored"] == 0.5 and figures["buffer/staleness"] == 1
    versions = {g.group.id: g.group.responses[0].policy_version for g in rounds[2].groups}
    assert versions == {"p2": 0, "p3": 0, "p6": 2, "p7": 2}


def test_stale_entries_leave_and_so_do_the_oldest_of_too_many(tmp_path):
    online = buffered(tmp_path, lambda group: ("1", "3"), uses=9, fresh=0.5, max_staleness=1)
    rounds = [online.take(step) for step in range(4)]
    for step, taken in enumerate(rounds):
        for group in taken.groups:
            assert step - group.group.responses[0].policy_version <= 1
    assert means(rounds[2])["buffer/dropped"] == 4  # all of the first round
    small = buffered(tmp_path, lambda group: ("1", "3"), uses=9, fresh=0.5, size=8)
    small.spec = replace(small.spec, buffer=BufferSpec(uses=9, fresh=0.5, size=1))
    small._waiting.spec = small.spec.buffer
    small.take(0)
    assert ids(small.take(1)) == ["p3", "p4", "p5", "p6"] and means(small.take(2))["buffer/size"] == 1


def test_a_round_without_enough_is_smaller_and_one_without_any_an_error(tmp_path):
    online = buffered(tmp_path, lambda group: ("1", "3") if group.id == "p0" else ("1", "1"), tries=3, batch=2, size=6)
    assert ids(online.take(0)) == ["p0"] and len(online.engine.calls) == 3
    none = buffered(tmp_path, lambda group: ("1", "1"), tries=2)
    with pytest.raises(DataError, match="2 rounds of 4 prompts left no group"):
        none.take(0)


def test_pictures_are_compared_when_their_turn_comes(tmp_path):
    made = []

    def visual(group):
        made.append(group.id)
        return replace(group, source="compared")

    online = replace(buffered(tmp_path, lambda g: ("1", "3", "2"), batch=1, relation="ranked", unit="pair"))
    online.visual = visual
    taken = online.take(0)
    assert made == ["p0"] and [g.group.source for g in taken.groups] == ["compared"]


def test_the_buffer_is_in_the_checkpoint(tmp_path):
    make = lambda: buffered(tmp_path, half, uses=2, fresh=0.25, batch=3)  # noqa: E731
    whole = make()
    rounds = [whole.take(step) for step in range(5)]
    broken = make()
    broken.restore(None)
    for step in range(2):
        broken.take(step)
    again = make()
    again.restore(json.loads(json.dumps(broken.state())))
    assert [ids(again.take(step)) for step in range(2, 5)] == [ids(one) for one in rounds[2:]]
    assert again.state() == whole.state()
    again.restore(None)
    assert again.state()["waiting"] == {"asked": 0, "found": 0, "settled": 0, "left": 0, "entries": []}


def test_both_ranks_hold_the_same_and_train_their_shares(tmp_path):
    """Two ranks in turn: what each gathers is what both sampled."""
    online = [buffered(tmp_path / str(rank), half) for rank in (0, 1)]
    alone = buffered(tmp_path / "alone", half)
    for folder in ("0", "1", "alone"):
        (tmp_path / folder).mkdir()

    launches = [one.launch for one in online]

    class Both(Ranks):
        def gather_objects(self, value):
            asked, options = self.asked
            rest = launches[1 - self.rank](*asked, **options).own()
            return [value, rest] if self.rank == 0 else [rest, value]

    for rank, one in enumerate(online):
        one.ranks = Both(rank=rank, size=2)
        one.launch = lambda *asked, ranks=one.ranks, launch=one.launch, **options: (
            setattr(ranks, "asked", (asked, options)) or launch(*asked, **options)
        )
    shares = [ids(one.take(0)) for one in online]
    assert shares == [["p0", "p4"], ["p2", "p6"]] and ids(alone.take(0)) == ["p0", "p2", "p4", "p6"]
    first, second, third = (one._waiting.state(tmp_path) for one in (*online, alone))
    assert first == second == third


def test_what_waits_moves_with_the_folder_of_its_run(tmp_path):
    """Negatives are painted below it; other pictures stay where they are."""
    here, there, asked = tmp_path / "here", tmp_path / "there", str(tmp_path / "asked.png")

    def group(folder):
        said = ({"role": "user", "content": "?"},)
        prompts = (Prompt(id="a", messages=said, images=(path,)) for path in (asked, f"{folder}/negatives/n.png"))
        answers = tuple(Response(text=text) for text in ("good", "bad"))
        return Group(prompts=tuple(prompts), responses=answers, edges=(Edge(winner=0, loser=1),))

    buffer, again = Buffer(spec=BufferSpec()), Buffer(spec=BufferSpec())
    buffer.add([group(here)], 0)
    again.restore(json.loads(json.dumps(buffer.state(here))), there)
    assert [one.group for one in again.entries] == [group(there)]
    pairs = (Pairing(group=group(here), outcome="made"),)
    launched = Launched(number=1, asked=1, since=0)
    launched.dealt = [Sampled(scored=group(here), trained=group(here), pairs=pairs)]
    (found,) = launched_from_json(json.loads(json.dumps(launched_to_json(launched, here))), there).dealt
    assert (found.scored, found.trained, found.pairs[0].group) == (group(there),) * 3


def test_the_best_answer_of_each_group_is_trained_alone(tmp_path):
    online = source(tmp_path, half, relation="best")
    taken = online.take(0)
    assert [[r.text for r in g.group.responses] for g in taken.groups] == [["3"], ["1"], ["3"], ["1"]]
    assert all(len(group.responses) == 3 and not group.edges for group in read_groups(tmp_path / "samples.jsonl"))
    waiting = buffered(tmp_path, half, relation="best", uses=2, fresh=0.5)
    assert ids(waiting.take(0)) == ["p0", "p1", "p2", "p3"] and ids(waiting.take(1)) == ["p0", "p1", "p4", "p5"]


def test_a_reference_answer_is_trained_and_not_counted_among_the_samples(tmp_path):
    online = source(tmp_path, lambda group: ("5", "4", "4.5"), relation="ovip")
    online.prompts = [
        replace(group, prompts=(replace(group.prompts[0], facts={"answer": "two"}),)) for group in online.prompts
    ]
    taken = online.take(0)
    assert [[r.text for r in g.group.responses] for g in taken.groups] == [["4", "two"]] * 4
    assert taken.groups[0].group.edges == (Edge(winner=1, loser=0),)
    assert means(taken)["rollout/failed_answers"] == 0
    kept = list(read_groups(tmp_path / "samples.jsonl"))
    assert [[r.text for r in g.responses] for g in kept] == [["5", "4", "4.5"]] * 4 and not kept[0].edges


def test_entries_of_the_buffer_of_ovip_are_pairs_in_the_order_they_came():
    """Sixteen answers with three pairs, one of them trained a step."""
    prompt = Prompt(id="a", messages=())
    group = Group(
        prompts=(prompt,),
        responses=tuple(Response(text=str(n), reward=float(n)) for n in range(4)),
        edges=(Edge(winner=3, loser=0), Edge(winner=2, loser=1)),
    )
    buffer = Buffer(spec=BufferSpec(unit="pair"))
    buffer.add([group], 0)
    assert [[r.text for r in buffer.take(1, number)[0][0].responses] for number in (0, 1)] == [["0", "3"], ["1", "2"]]
    assert buffer.missing(1, 2) == 1


# --- with a model -------------------------------------------------------------------------------


def test_a_run_with_a_buffer_that_stopped_goes_on_as_if_it_had_not(tiny, tmp_path):
    def recipe(folder):
        made = train_runs.online(tiny["llava"], folder, "train_runs:CountsE", max_steps=6, save_every=1)
        spec = replace(
            made.online,
            relation="ovip",
            selection=SelectionSpec(good=0, small_gap=1, fallback="relaxed", relaxed_gap=1),
            buffer=BufferSpec(uses=2, fresh=0.5, unit="pair", max_staleness=2),
            sampling=SamplingSpec(n=6, max_new_tokens=6),
        )
        return replace(made, online=spec, train=replace(made.train, learning_rate=3e-3))

    whole, broken = recipe(tmp_path / "a"), recipe(tmp_path / "b")
    train(whole, quiet=True)
    train_runs.stop(broken, 4)
    assert train(broken, quiet=True).resumed_from == 3
    assert train_runs.figures(broken) == train_runs.figures(whole)
    told = [record for record in train_runs.figures(whole) if "buffer/replayed" in record]
    assert len(told) == 3 and told[0]["buffer/replayed"] == 0 < told[1]["buffer/replayed"]
    samples = [list(read_groups(Path(made.output_dir) / "samples.jsonl")) for made in (whole, broken)]
    assert [[r.tokens for r in g.responses] for g in samples[0]] == [
        [r.tokens for r in g.responses] for g in samples[1]
    ]


def test_raft_trains_the_best_answer_of_each_group_by_sft(tiny, tmp_path):
    """The first loss is what the sampler reported for the best answers of the step, per token."""
    made = train_runs.online(
        tiny["llava"], tmp_path, "train_runs:CountsE", algorithm={"name": "sft"}, reference="none", max_steps=2
    )
    made = replace(made, online=replace(made.online, relation="best"))
    train(made, quiet=True)
    step = list(read_groups(Path(made.output_dir) / "samples.jsonl"))[:4:2]
    best = [max(group.responses, key=lambda r: r.reward) for group in step]
    logprobs = [value for response in best for value in response.rollout_logprobs]
    assert train_runs.figures(made)[0]["loss"] == pytest.approx(-sum(logprobs) / len(logprobs), abs=1e-5)
    others = [value for group in step for r in group.responses for value in r.rollout_logprobs]
    assert abs(sum(others) / len(others) - sum(logprobs) / len(logprobs)) > 1e-3


@pytest.mark.parametrize(
    ("online", "error", "message"),
    [
        ({"relation": "best"}, RecipeError, "relation: best makes no comparisons, and dpo learns from nothing else"),
        ({"relation": "ovip"}, DataError, r"5-1\.jsonl:1: prompt 'row-0' has no fact 'answer'"),
    ],
)
def test_what_could_not_be_trained_is_refused_before_an_answer_is_sampled(tiny, tmp_path, online, error, message):
    made = train_runs.online(tiny["llava"], tmp_path, "train_runs:CountsE", max_steps=1)
    with pytest.raises(error, match=message):
        train(replace(made, online=replace(made.online, **online)), quiet=True)
    assert not (Path(made.output_dir) / "samples.jsonl").exists()

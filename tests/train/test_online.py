from dataclasses import replace
from types import SimpleNamespace

import pytest

from sightline.data.sampler import Sampler
from sightline.data.schema import read_groups
from sightline.errors import CheckpointError, DataError
from sightline.recipes.schema import DataSpec, OnlineSpec, SamplingSpec
from sightline.train.online import REWARD_TRIES, ROUND_TRIES, OnlineSource
from sightline.train.source import Rendering
from sightline.types import Group, Prompt, RenderedGroup, Response


def answer(text):
    return Response(text=text, tokens=(1,), finish_reason="stop")


class Engine:
    """Answers with numbers: the reward of the answer."""

    def __init__(self, answers):
        self.answers, self.calls = answers, []

    def generate(self, groups, sampling, *, seed, on_progress=None):
        self.calls.append(([group.id for group in groups], seed))
        return [
            replace(
                group, responses=tuple(Response(text=t, tokens=(1,), finish_reason="stop") for t in self.answers(group))
            )
            for group in groups
        ]


class Reward:
    def __init__(self, broken=lambda group: False):
        self.broken, self.asked = broken, []

    def reward(self, group):
        self.asked.append(group.id)
        if self.broken(group):
            raise ConnectionError("no judge there")
        scored = [replace(r, reward=None if r.text == "?" else float(r.text)) for r in group.responses]
        return replace(group, responses=tuple(scored))


class Ranks:
    def __init__(self, rank=0, size=1, others=lambda value: []):
        self.rank, self.size, self.others = rank, size, others

    def gather_objects(self, value):
        return [value, *self.others(value)]


def render(group):
    return RenderedGroup(group=group, prompts=(), responses=(), images=())


def source(tmp_path, answers, *, reward=None, size=4, relation="best_worst", steps_per_round=1):
    prompts = [
        Group(prompts=(Prompt(id=f"p{i}", messages=({"role": "user", "content": "how many"},)),)) for i in range(size)
    ]
    spec = OnlineSpec(
        prompts=DataSpec(path="prompts"), reward="own:Reward", relation=relation, steps_per_round=steps_per_round,
        sampling=SamplingSpec(n=3),
    )  # fmt: skip
    return OnlineSource(
        prompts=prompts,
        engine=Engine(answers),
        reward=reward or Reward(),
        render=Rendering(renderer=SimpleNamespace(render=render)),
        spec=spec,
        sampler=Sampler(size=size, batch_size=size, shuffle=False),
        ranks=Ranks(),
        samples=tmp_path / "samples.jsonl",
    )


def means(taken):
    return {name: float(stat.sum) / stat.count for name, stat in taken.stats.items() if stat.count}


def test_samples_become_pairs_and_are_kept_with_their_scores(tmp_path):
    online = source(tmp_path, lambda group: ("1", "3", "2"), steps_per_round=2)
    taken = online.take(0)
    assert [g.group.id for g in taken.groups] == ["p0", "p2"]
    assert [[r.text for r in g.group.responses] for g in taken.groups] == [["1", "3"]] * 2
    assert [(e.winner, e.loser) for e in taken.groups[0].group.edges] == [(1, 0)]
    assert means(taken)["reward"] == 2
    second = online.take(1)
    assert [g.group.id for g in second.groups] == ["p1", "p3"] and not second.stats
    assert len(online.engine.calls) == 1
    kept = list(read_groups(tmp_path / "samples.jsonl"))
    assert [[r.reward for r in group.responses] for group in kept] == [[1, 3, 2]] * 4
    assert [(e.winner, e.loser) for e in kept[0].edges] == [(1, 0)]
    online.take(2)
    assert online.engine.calls[1][1] != online.engine.calls[0][1]
    assert next(iter(online.take(2).groups)).group.responses[0].policy_version == 2


def test_ties_and_failures_are_dropped_and_counted(tmp_path, caplog):
    reward = Reward(broken=lambda group: group.id == "p1")
    online = source(tmp_path, lambda group: ("1", "1", "1") if group.id == "p2" else ("0", "?", "1"), reward=reward)
    taken = online.take(0)
    assert [g.group.id for g in taken.groups] == ["p0", "p3"]
    figures = means(taken)
    assert figures["rollout/failed_rewards"] == 1 / 4
    assert figures["rollout/without_edge"] == 1 / 3
    assert figures["reward"] == (0 + 1 + 3 + 0 + 1) / 7  # what has no reward is not zero
    assert reward.asked.count("p1") == REWARD_TRIES
    assert "p1" in caplog.text and "no judge there" in caplog.text
    assert [group.id for group in read_groups(tmp_path / "samples.jsonl")] == ["p0", "p2", "p3"]


def test_without_a_relation_all_scored_answers_are_trained(tmp_path):
    taken = source(tmp_path, lambda group: ("1", "?", "1"), relation="none").take(0)
    assert [[r.text for r in g.group.responses] for g in taken.groups] == [["1", "1"]] * 4


def test_rounds_without_a_group_end_with_the_reason(tmp_path):
    online = source(tmp_path, lambda group: ("1",), reward=Reward(broken=lambda group: True))
    with pytest.raises(DataError, match="no judge there"):
        online.take(0)
    seeds = [seed for _, seed in online.engine.calls]
    assert len(seeds) == len(set(seeds)) == ROUND_TRIES
    with pytest.raises(DataError, match="rewards of each prompt are equal"):
        source(tmp_path, lambda group: ("1", "1")).take(0)


def test_prompts_that_lack_what_the_reward_reads_stop_the_run(tmp_path):
    class Strict:
        def reward(self, group):
            raise DataError("has no facts", source=group.id)

    with pytest.raises(DataError, match="p0: has no facts"):
        source(tmp_path, lambda group: ("1", "2"), reward=Strict()).take(0)


def test_a_round_is_taken_up_where_it_was_left(tmp_path):
    online = source(tmp_path, lambda group: ("1", "3", "2"), steps_per_round=2)
    online.take(0)
    state = online.state()
    online.take(1), online.take(2)  # the second round adds samples
    again = source(tmp_path, lambda group: ("1", "3", "2"), steps_per_round=2)
    again.restore(state)
    assert [g.group.id for g in again.take(1).groups] == ["p1", "p3"]
    assert again.engine.calls == []
    assert len(list(read_groups(tmp_path / "samples.jsonl"))) == 4
    again.restore(None)
    assert (tmp_path / "samples.jsonl").read_text() == ""


def test_prompts_that_changed_are_refused(tmp_path):
    online = source(tmp_path, [answer("b"), answer("a")])
    others = replace(online, prompts=online.prompts[::-1])
    with pytest.raises(CheckpointError, match="The rows are not those"):
        others.restore(online.state())


def test_ranks_sample_their_share_and_train_equal_shares(tmp_path):
    """Rank 1 of two: the other rank's groups come through the gather; all of its own failed."""
    other = source(tmp_path, lambda group: ("1", "2"))
    one = source(tmp_path, lambda group: ("1", "1"))
    sampled = [other._relate(group) for group in other._score(other._generate(other.prompts[::2], 0, 0, version=0))]

    class Both(Ranks):
        def gather_objects(self, value):
            return [sampled, value]

    one.ranks = Both(rank=1, size=2)
    taken = one.take(0)
    assert one.engine.calls[0][0] == ["p1", "p3"]
    assert [g.group.id for g in taken.groups] == ["p2"] and taken.counted

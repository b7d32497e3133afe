import json
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest

from sightline.data.sampler import Sampler
from sightline.data.schema import read_groups
from sightline.errors import CheckpointError, DataError, ServiceError
from sightline.recipes.preferences import SelectionSpec
from sightline.recipes.schema import DataSpec, OnlineSpec, SamplingSpec
from sightline.rendered import RenderedGroup
from sightline.rewards.base import REWARD_TRIES, score_groups
from sightline.train.online import ROUND_TRIES, OnlineSource
from sightline.train.source import Rendering
from sightline.types import Group, Prompt, Response


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
        score=partial(score_groups, reward or Reward(), tries=REWARD_TRIES),
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


@pytest.mark.parametrize("relation", ["best_worst", "length_balanced", "ovip", "none"])
def test_what_to_do_about_ties_names_options_that_the_relation_reads(tmp_path, relation):
    online = source(tmp_path, lambda group: ("1", "1"), relation=relation)
    own = {"best_worst": {"min_gap": 0.5}, "ovip": {"selection": SelectionSpec(fallback="none")}}
    online.spec = replace(online.spec, **own.get(relation, {"dynamic_sampling": int(relation == "none")}))
    with pytest.raises(DataError) as refused:
        online.take(0)
    read = {"best_worst": {"min_gap"}, "ovip": {"selection"}, "none": {"dynamic_sampling"}}
    named = [option for option in ("min_gap", "selection", "dynamic_sampling") if option in str(refused.value)]
    assert set(named) == read.get(relation, set())


@pytest.mark.parametrize(("reward", "why"), [(Reward(), "left without one"), (Reward(lambda group: True), "no judge")])
def test_a_run_may_stop_at_the_first_reward_that_fails(tmp_path, reward, why):
    online = source(tmp_path, lambda group: ("1", "?", "2"), reward=reward)
    online.spec = replace(online.spec, failed_rewards="stop")
    with pytest.raises(ServiceError, match=f"the reward of p0 failed .*{why}"):
        online.take(0)


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
    sampled = other.launch([0, 2], 0, 0, version=0, since=0).own()

    class Both(Ranks):
        def gather_objects(self, value):
            return [sampled, value]

    one.ranks = Both(rank=1, size=2)
    taken = one.take(0)
    assert one.engine.calls[0][0] == ["p1", "p3"]
    assert [g.group.id for g in taken.groups] == ["p2"] and taken.counted


def with_spec(online, **fields):
    online.spec = replace(online.spec, relation="none", **fields)
    return online


def test_inner_epochs_take_the_steps_of_a_round_again(tmp_path):
    online = with_spec(source(tmp_path, lambda group: ("1", "3"), steps_per_round=2), inner_epochs=2)
    taken = [online.take(step) for step in range(5)]
    assert [[g.group.id for g in one.groups] for one in taken] == [["p0", "p2"], ["p1", "p3"]] * 2 + [["p0", "p2"]]
    assert [one.on_policy for one in taken] == [True, False, False, False, True]
    assert len(online.engine.calls) == 2 and online.steps(3) == 12 and online.epochs(8) == 2


def test_columns_stay_with_the_answers_of_a_round_and_in_its_state(tmp_path):
    online = with_spec(source(tmp_path, lambda group: ("1", "3")), inner_epochs=2)
    assert online.begin(0) and not online.begin(1)
    online.keep({("p1", 1): {"old_logprobs": (-0.1,)}})
    again = with_spec(source(tmp_path, lambda group: ("1", "3")), inner_epochs=2)
    again.restore(json.loads(json.dumps(online.state())))
    for one in (online, again):
        kept = {g.group.id: [r.columns for r in g.group.responses] for g in one.take(1).groups}
        assert kept["p1"] == [{}, {"old_logprobs": (-0.1,)}] and kept["p0"] == [{}, {}]
    assert again.engine.calls == []


def test_rounds_sampled_ahead_are_trained_in_their_turn(tmp_path):
    """With a staleness of 2 the third round is written by the policy of the first step."""
    online = with_spec(source(tmp_path, lambda group: ("1", "3")), max_staleness=2)
    versions = [online.take(step).groups[0].group.responses[0].policy_version for step in range(5)]
    assert versions == [0, 0, 0, 1, 2]
    state = online.state()
    again = with_spec(source(tmp_path, lambda group: ("1", "3")), max_staleness=2)
    again.restore(state)
    assert again.take(5).groups[0].group.responses[0].policy_version == 3 and len(again.engine.calls) == 1


def test_groups_of_equal_rewards_are_replaced_up_to_a_bound(tmp_path):
    """p2 and p3 never differ; of each round's two prompts, those are replaced by others."""
    online = with_spec(
        source(tmp_path, lambda group: (".3", f"{0.1 + 0.2}") if group.id in ("p2", "p3") else ("0", "1")),
        dynamic_sampling=3,
    )
    online.sampler = Sampler(size=4, batch_size=2, shuffle=False)
    taken = online.take(1)  # asks p2 and p3
    assert {g.group.id for g in taken.groups} == {"p0", "p1"}
    asked = [ids for ids, _ in online.engine.calls]
    assert asked[0] == ["p2", "p3"] and 2 <= len(asked) <= 4
    figures = means(taken)
    samples = list(read_groups(tmp_path / "samples.jsonl"))
    assert len(samples) == sum(map(len, asked))
    assert figures["frac_reward_zero_std"] == sum(g.id in ("p2", "p3") for g in samples) / len(samples)
    none = with_spec(source(tmp_path, lambda group: ("1", "1")), dynamic_sampling=1)
    with pytest.raises(DataError, match="all rewards of each prompt are equal"):
        none.take(0)
    kept = with_spec(source(tmp_path, lambda group: ("1", "1"))).take(0)  # without it they stay
    assert len(kept.groups) == 4


def test_a_bound_on_replacing_leaves_a_smaller_round(tmp_path):
    online = with_spec(
        source(tmp_path, lambda group: ("1", "1") if group.id != "p0" else ("0", "1")), dynamic_sampling=2
    )
    taken = online.take(0)
    assert [g.group.id for g in taken.groups] == ["p0"] and means(taken)["rollout/attempts"] == 3
    assert [len(ids) for ids, _ in online.engine.calls] == [4, 3, 3]


class Cutting(Engine):
    """Every first answer is cut at the limit; greedy ones say 5."""

    def generate(self, groups, sampling, *, seed, on_progress=None):
        if sampling.temperature == 0:
            return [replace(group, responses=(answer("5"),)) for group in groups]
        made = super().generate(groups, sampling, seed=seed)
        cut = [replace(g.responses[0], tokens=(1,) * 9, finish_reason="length") for g in made]
        return [replace(g, responses=(one, *g.responses[1:])) for g, one in zip(made, cut, strict=True)]


def test_truncated_answers_are_masked_and_keep_their_reward(tmp_path):
    online = with_spec(source(tmp_path, None), truncated="mask")
    online.engine = Cutting(lambda group: ("1", "3"))
    (first, second) = online.take(0).groups[0].group.responses
    assert first.trained == (False,) * 9 and first.reward == 1 and second.trained is None
    online.engine, online._round = Cutting(lambda group: ("1",)), -1
    with pytest.raises(DataError, match="all answers were cut at 256 tokens, and truncated: mask"):
        online.take(0)


def test_a_greedy_answer_is_scored_and_measured_by_and_not_trained(tmp_path):
    online = with_spec(source(tmp_path, None), greedy=True, truncated="mask")
    online.engine = Cutting(lambda group: ("1", "3"))
    taken = online.take(0)
    responses = taken.groups[0].group.responses
    assert [(r.text, r.columns) for r in responses] == [("1", {"values": ()}), ("3", {"values": (5.0,)})]
    kept = next(iter(read_groups(tmp_path / "samples.jsonl")))
    assert [(r.greedy, r.reward) for r in kept.responses] == [(False, 1), (False, 3), (True, 5)]
    assert means(taken)["reward"] == 2  # of what was sampled


def test_overlong_answers_lose_reward_by_how_far_they_are_into_the_buffer(tmp_path):
    online = with_spec(source(tmp_path, None), overlong_buffer=4)
    online.spec = replace(online.spec, sampling=SamplingSpec(n=2, max_new_tokens=10))
    online.engine = Cutting(lambda group: ("1", "3"))
    taken = online.take(0)
    assert [r.reward for r in taken.groups[0].group.responses] == [1 - 3 / 4, 3]
    assert means(taken)["rewards/overlong/mean"] == -3 / 8


def test_figures_of_a_round(tmp_path):
    online = with_spec(source(tmp_path, None))
    online.engine = Cutting(lambda group: ("1", "3") if group.id != "p3" else ("2", "2"))
    figures = means(online.take(0))
    assert figures["reward"] == 2 and figures["reward_std"] == pytest.approx((6 / 7) ** 0.5)
    assert figures["frac_reward_zero_std"] == 1 / 4
    assert figures["completions/mean_length"] == 5 and figures["completions/clipped_ratio"] == 0.5
    assert figures["completions/mean_terminated_length"] == 1
    stats = with_spec(source(tmp_path, None))
    stats.engine = online.engine
    extremes = {name: (stat.kind, float(stat.sum)) for name, stat in stats.take(0).stats.items() if stat.kind != "mean"}
    assert extremes["completions/max_length"] == ("max", 9) and extremes["completions/min_length"] == ("min", 1)

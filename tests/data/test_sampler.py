from collections import Counter

import pytest

from sightline.data.sampler import MicroBatch, Sampler, cost, extend_plan, plan_micro_batches, share
from sightline.rendered import RenderedGroup, RenderedPrompt, RenderedResponse
from sightline.types import Group, Prompt, Response


def test_an_epoch_visits_each_group_once_in_an_order_of_its_own():
    sampler = Sampler(size=10, batch_size=4, seed=3)
    first, second = ([i for step in range(a, a + 3) for i in sampler.indices(step)] for a in (0, 3))
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert [len(sampler.indices(step)) for step in range(6)] == [4, 4, 2, 4, 4, 2]


def test_the_order_depends_on_the_seed_and_on_nothing_else():
    orders = [Sampler(size=20, batch_size=20, seed=seed).indices(0) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


def test_without_shuffling_rows_come_as_they_are():
    sampler = Sampler(size=5, batch_size=2, shuffle=False)
    assert [sampler.indices(step) for step in range(4)] == [[0, 1], [2, 3], [4], [0, 1]]


def test_steps_and_epochs():
    sampler = Sampler(size=10, batch_size=4)
    assert (sampler.steps(1), sampler.steps(2.0), sampler.steps(0.5), sampler.steps(0.01)) == (3, 6, 2, 1)
    assert [sampler.epochs(steps) for steps in (0, 1, 2, 3, 4)] == [0, 0.4, 0.8, 1.0, 1.4]


def test_ranks_share_all_groups_and_may_go_empty():
    shares = [share([4, 8, 15, 16, 23], rank, 3) for rank in range(3)]
    assert shares == [[4, 16], [8, 23], [15]]
    assert share([4], 1, 2) == []


def test_micro_batches_keep_to_the_budget_and_hold_each_group_once():
    costs = [5, 9, 4, 2, 12, 1]
    plan = plan_micro_batches(costs, budget=10)
    assert Counter(i for micro in plan for i in micro.members) == Counter(range(6))
    totals = {micro.members: sum(costs[i] for i in micro.members) for micro in plan}
    assert totals == {(4,): 12, (1, 5): 10, (0, 2): 9, (3,): 2}  # 12 is above the budget and goes alone


def test_a_plan_grows_by_cutting_the_fullest_and_then_by_passes_that_do_not_count():
    plan = plan_micro_batches([1, 1, 1], budget=10)
    assert [micro.members for micro in plan] == [(0, 1, 2)]
    assert [micro.members for micro in extend_plan(plan, 3)] == [(0,), (1,), (2,)]
    longer = extend_plan(plan, 5)
    assert longer[3:] == [MicroBatch(members=(0,), weight=0.0)] * 2
    assert sum(micro.weight for micro in longer) == 3


@pytest.mark.parametrize(("layout", "tokens"), [("tree", 13), ("packed", 22), ("rows", 22)])
def test_the_cost_of_a_group_counts_its_prompt_as_often_as_it_is_computed(layout, tokens):
    answers = (RenderedResponse(prompt=0, tokens=(1, 2), trained=(True, True)),) * 2
    plain = Group(prompts=(Prompt(id="a", messages=()),), responses=(Response(text="x"),) * 2)
    group = RenderedGroup(group=plain, prompts=(RenderedPrompt(tokens=tuple(range(9))),), responses=answers, images=())
    assert cost(group, layout) == tokens

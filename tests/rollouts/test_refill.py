"""A batch that is refilled while it is sampled: the same answers, full, and within bounds."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch
from test_hf import answers, lift, prompt_group, sharp_policy

from sightline.models import branch_parts, branches
from sightline.models.branch_parts import parts_of
from sightline.models.branches import Branches
from sightline.recipes.schema import SamplingSpec
from sightline.rollouts import refill
from sightline.rollouts.hf import HFEngine
from sightline.rollouts.refill import admitted
from tiny_families import save_family
from tiny_models import FAMILIES

SAMPLING = SamplingSpec(n=3, max_new_tokens=40, batch_size=4)
QUESTIONS = ["describe the image", "is there a red circle?", "how many objects can you see in it?", "hello " * 9]


@pytest.fixture
def groups(pictures):
    """Trunks of different lengths; two prompts share pictures here and there, one in four has none."""
    shown = [[], pictures[:1], pictures[1:2], pictures[2:4]]
    return [
        prompt_group(f"{question}-{picture}", QUESTIONS[question], shown[(question + picture) % 4])
        for picture in range(4)
        for question in range(4)
    ]


def ending_engine(folder, by=6.2):
    """Answers end at very different steps, some not at all."""
    policy = sharp_policy(folder)
    lift(policy, policy.processor.tokenizer.eos_token_id, by)
    return HFEngine(policy)


def one_by_one(engine, groups, sampling):
    return engine.generate(groups, replace(sampling, batch_size=1), seed=2)


def assert_same(found, expected):
    assert answers(found) == answers(expected)
    for one, other in zip(found, expected, strict=True):
        for a, b in zip(one.responses, other.responses, strict=True):
            assert a.rollout_logprobs == pytest.approx(b.rollout_logprobs, abs=5e-5)


def noted(monkeypatch, owner, name, what):
    """Calls ``what`` with the arguments of each call of a function."""
    own = getattr(owner, name)

    def call(*args):
        what(*args)
        return own(*args)

    monkeypatch.setattr(owner, name, call)


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_those_of_prompts_sampled_alone(tiny, groups, family, monkeypatch):
    engine = ending_engine(tiny[family])
    expected = one_by_one(engine, groups, SAMPLING)
    lengths = [len(response.tokens) for group in expected for response in group.responses]
    assert min(lengths) < 4 and max(lengths) > branches.FIRST_CAPACITY and len(set(lengths)) > 8
    ages = []
    noted(monkeypatch, Branches, "join", lambda mine, other: ages.append(set(mine.ages.tolist())))
    assert_same(engine.generate(groups, SAMPLING, seed=2), expected)
    assert len(ages) >= 4 and any(len(own) > 1 for own in ages)  # some that had joined were joined again


def test_the_batch_stays_full_and_within_its_bounds(tiny, groups, monkeypatch):
    engine = ending_engine(tiny["llava"])
    groups = [replace_id(group, copy) for copy in range(3) for group in groups]
    seen = []

    def look(policy, own, tokens, positions):
        seen.append((own, len(tokens), own.prompts, own.width, own.grown[0][0].shape, own.trunk[0][0].shape))

    noted(monkeypatch, refill, "step", look)
    found = engine.generate(groups, SAMPLING, seed=2)
    steps, seen = len(seen), list(seen)
    longest = max(len(engine.read(group)) for group in groups)
    for _, rows, prompts, width, grown, trunk in seen:
        assert rows == grown[0] <= 4 * 3 and prompts <= 4
        assert width < 40 and grown[2] <= 40 + branches.FIRST_CAPACITY
        assert trunk[2] <= longest
    assert len({id(own) for own, *_ in seen}) < 5  # one batch that goes on, not 12 one after another
    assert sum(rows for _, rows, *_ in seen) == sum(len(r.tokens) - 1 for g in found for r in g.responses)
    seen.clear()
    for start in range(0, len(groups), 4):
        engine.generate(groups[start : start + 4], SAMPLING, seed=2)
    assert steps < 0.7 * len(seen)


def replace_id(group, copy):
    (prompt,) = group.prompts
    return replace(group, prompts=(replace(prompt, id=f"{prompt.id}-{copy}"),))


def test_what_has_ended_is_not_held():
    """The last of what is left moves into the place of what ended; columns that no branch holds any more are gone."""
    trunk = [(torch.zeros(3, 1, 4, 8), torch.zeros(3, 1, 4, 8))]
    own = Branches(trunk, torch.tensor([4, 4, 3]), torch.tensor([0, 0, 1, 1, 2]))
    for step in range(5):
        for part in (0, 1):
            own._note(0, part, torch.arange(5.0).view(5, 1, 1, 1).expand(-1, -1, -1, 8) + 10 * step)
        own.advance()
        if step == 2:
            other = Branches([(torch.zeros(1, 1, 2, 8), torch.zeros(1, 1, 2, 8))], torch.tensor([2]), torch.tensor([0]))
            own.keep(torch.tensor([1, 2, 3, 4]))
            own.join(other)
            assert own.ages.tolist() == [3, 3, 3, 3, 0] and own.owner.tolist() == [0, 1, 1, 2, 3] and own.width == 3
    held = [own.piece(row, 0)[0][0][0, :, 0].tolist() for row in range(5)]
    assert held[0] == [1, 11, 21, 30, 40] and held[3] == [4, 14, 24, 33, 43] and held[4] == [34, 44]
    assert own.piece(4, 1)[0][1][0, :, 0].tolist() == [44]
    own.keep(torch.tensor([4]))
    assert own.width == 2 and own.grown[0][0].shape[0] == 1 and own.piece(0, 0)[0][0][0, :, 0].tolist() == [34, 44]
    assert own.owner.tolist() == [0] and own.lengths.tolist() == [2] and own.trunk[0][0].shape[2] == 2


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([3, 3], [(0, 2, 3)]),
        ([3, 1, 1, 0, 1], [(0, 2, 3), (2, 5, 1)]),  # two places for nothing, but no more
        ([0, 0, 8, 0, 1], [(2, 3, 8), (3, 5, 1)]),
        ([1, 2, 3, 8, 8], [(0, 2, 2), (2, 3, 3), (3, 5, 8)]),
    ],
)
def test_prompts_are_attended_to_together_where_it_costs_less(counts, expected, monkeypatch):
    monkeypatch.setattr(branch_parts, "SPARE", 2 * 4 * 8)
    found = list(parts_of(counts, [4] * len(counts), 8, torch.device("cpu")))
    assert [(part.prompts.start, part.prompts.stop, part.width) for part in found] == expected
    assert [row for part in found for row in range(part.rows.start, part.rows.stop)] == list(range(sum(counts)))
    elsewhere = list(parts_of(counts, [4] * len(counts), 8, torch.device("meta")))
    assert [(one.prompts, one.width) for one in elsewhere] == [(slice(0, len(counts)), max(counts))]


def test_trunks_shrink_when_a_long_prompt_is_finished(tiny, pictures, monkeypatch):
    engine = ending_engine(tiny["llava"], by=8.0)
    long = prompt_group("long", "how many objects? " * 40, [])
    short = [prompt_group(f"short-{index}", "hello", []) for index in range(16)]
    lengths = []
    noted(monkeypatch, refill, "step", lambda policy, own, *_: lengths.append(own.trunk[0][0].shape[2]))
    engine.generate([long, *short], SAMPLING, seed=2)
    assert lengths[0] == len(engine.read(long)) and lengths[-1] == len(engine.read(short[0]))


def test_progress_is_told_as_prompts_are_finished(tiny, groups):
    calls = []
    engine = ending_engine(tiny["llava"])
    engine.generate(groups, SAMPLING, seed=2, on_progress=lambda *told: calls.append(told))
    done = [one for one, _ in calls]
    assert done == sorted(set(done)) and done[-1] == 16 and len(done) > 4 and {total for _, total in calls} == {16}


def test_greedy_answers_and_streams_are_the_same(tiny, groups):
    engine = ending_engine(tiny["llava"])
    greedy = replace(SAMPLING, temperature=0.0)
    found = engine.generate(groups, greedy, seed=2)
    assert_same(found, one_by_one(engine, groups, greedy))
    told: list[str] = []
    streamed = engine.stream(groups[5], SAMPLING, seed=2, on_text=told.append)
    sampled = engine.generate(groups, SAMPLING, seed=2)[5].responses[0]
    assert streamed.tokens == sampled.tokens and "".join(told) == streamed.text


@pytest.mark.parametrize("family", ["llava", "gemma3"])
def test_what_is_behind_an_answer_that_ended_does_not_matter(tmp_path, groups, family, monkeypatch):
    """Empty places and slots hold zeros: what is never seen could otherwise be no number, and 0 times that is none. All
    prompts are attended to in one call, as on a GPU."""
    monkeypatch.setattr(branch_parts, "SPARE", sys.maxsize)
    engine = ending_engine(save_family(family, tmp_path))
    expected = one_by_one(engine, groups[:6], SAMPLING)
    torch.use_deterministic_algorithms(True)  # new memory is filled with NaN
    try:
        found = engine.generate(groups[:6], SAMPLING, seed=2)
    finally:
        torch.use_deterministic_algorithms(False)
    assert_same(found, expected)


A, B, NONE = ("a.png",), ("b.png",), ()


@pytest.mark.parametrize(
    ("pictures", "first", "running", "size", "expected"),
    [
        ([NONE] * 9, 0, 0, 4, 4),  # an empty batch is filled
        ([NONE] * 3, 0, 0, 4, 3),
        ([NONE] * 9, 4, 4, 4, 0),
        ([NONE] * 9, 4, 3, 4, 1),  # a quarter is free
        ([NONE] * 20, 8, 7, 8, 0),  # an eighth is not enough
        ([NONE] * 9, 8, 7, 8, 1),  # unless no more are waiting
        ([NONE] * 9, 9, 2, 4, 0),
        ([A, A, A, A, B, B, B, B], 4, 3, 4, 0),  # those with the same picture wait for each other
        ([A, A, A, A, B, B, B, B], 4, 2, 4, 2),  # no longer than until half is free
        ([A, A, A, A, B, B, B, B], 4, 0, 4, 4),
        ([A, A, A, A, B, B, NONE, NONE], 4, 1, 4, 3),
        ([A, A, A, A, B, A, A, A], 4, 1, 4, 1),
        ([A] * 9, 4, 0, 4, 4),  # more of them than a batch holds
    ],
)
def test_who_joins_when(pictures, first, running, size, expected):
    assert admitted(pictures, first, running, size) == expected


def test_prompts_with_the_same_picture_join_together(tiny, pictures, monkeypatch):
    engine = ending_engine(tiny["llava"])
    asked = [
        prompt_group(f"{picture}-{question}", QUESTIONS[question], [pictures[picture]])
        for question in range(3)
        for picture in range(4)
    ]
    encoded = []
    own = engine.policy.image_features
    monkeypatch.setattr(engine.policy, "image_features", lambda batch: encoded.extend(batch.image_tokens) or own(batch))
    engine.generate(asked, replace(SAMPLING, batch_size=6), seed=2)
    assert len(encoded) == 4

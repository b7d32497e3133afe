"""Stages that overlap give what stages in turn give; what is under way is bounded, and nothing of it is lost."""

from __future__ import annotations

import json
import random
import time
from dataclasses import replace

import pytest
from test_online import Reward, means, source

from sightline.data.sampler import Sampler
from sightline.data.schema import read_groups
from sightline.errors import DataError, ServiceError
from sightline.negatives.generated import Generated
from sightline.negatives.pairs import Lost, Made
from sightline.negatives.relate import GeneratedRelation
from sightline.recipes.negatives import GeneratedSpec, StagesSpec
from sightline.recipes.preferences import BufferSpec
from sightline.recipes.schema import VisualSpec
from sightline.types import Response

WAIT = 0.004


class Engine:
    """Numbers drawn by the seed and the prompt, one to nine."""

    def __init__(self):
        self.calls = []

    def close(self):
        pass

    def generate(self, groups, sampling, *, seed, on_progress=None):
        self.calls.append([group.id for group in groups])
        made = []
        for group in groups:
            rng = random.Random(f"{seed}/{group.id}")
            answers = tuple(Response(text=str(rng.randint(1, 9)), tokens=(1,)) for _ in range(sampling.n))
            made.append(replace(group, responses=answers))
        return made


class Slow(Reward):
    """Takes longer for some, so that chunks would overtake each other."""

    def reward(self, group):
        time.sleep(WAIT * random.random())
        return super().reward(group)


class Maker:
    """Draws nothing, loses every fourth pair, and knows how many were there at once."""

    def __init__(self, folder, lost=lambda pair: False):
        self.folder, self.lost, self.made, self.given_up = folder, lost, [], False

    def make(self, pairs):
        time.sleep(WAIT * random.random() * len(pairs))
        self.made += [pair.key for pair in pairs]
        return [
            Lost(outcome="refused", reason="no kite in it") if self.lost(pair)
            else Made(image=str(self.folder / f"{pair.key}.png"), facts={"seed": pair.seed})
            for pair in pairs
        ]  # fmt: skip

    def check(self, groups):
        pass

    def give_up(self):
        self.given_up = True


def quarter(pair):
    return int(pair.key, 16) % 4 == 0


def online(folder, *, staleness, stages, buffer=None, lost=quarter, reward=None, failed="drop"):
    folder.mkdir(parents=True, exist_ok=True)
    made = source(folder, lambda group: (), size=8, reward=reward or Slow())
    spec = replace(
        made.spec,
        max_staleness=staleness,
        stages=stages,
        buffer=buffer,
        negatives=GeneratedSpec(kind="scenes", failed=failed),
        visual=VisualSpec(relation="ovip"),
    )
    prompts = [replace(group, prompts=(replace(group.prompts[0], images=("p.png",)),)) for group in made.prompts]
    return replace(
        made,
        spec=spec,
        prompts=prompts,
        engine=Engine(),
        sampler=Sampler(size=8, batch_size=4, shuffle=True),
        negatives=Generated(spec=spec.negatives, maker=Maker(folder, lost), seed=0),
        visual=GeneratedRelation(spec=replace(spec.visual, relation="mdpo"), between=None),
    )


TURNS = StagesSpec(overlap=False, chunk=2)
AHEAD = StagesSpec(chunk=2, scorers=3, painters=2)
BUFFERS = [None, BufferSpec(unit="pair"), BufferSpec(uses=2, tries=3)]


def told(taken):
    """What was trained, and the figures, without names of folders."""
    groups = [
        ([(p.id, len(p.images)) for p in g.group.prompts], [(r.text, r.prompt, r.policy_version) for r in
          g.group.responses], g.group.edges)
        for g in taken.groups
    ]  # fmt: skip
    return groups, means(taken)


@pytest.mark.parametrize("buffer", BUFFERS)
@pytest.mark.parametrize("staleness", [0, 1, 2])
def test_overlapping_stages_give_what_stages_in_turn_give(staleness, buffer, tmp_path):
    made = {}
    for name, stages in (("turns", TURNS), ("overlap", AHEAD)):
        one = online(tmp_path / name, staleness=staleness, stages=stages, buffer=buffer)
        made[name] = [told(one.take(step)) for step in range(6)], one.engine.calls
        one.close()
    assert made["turns"] == made["overlap"]
    files = [[sorted(p.name for p in (tmp_path / n).iterdir() if p.suffix == ".jsonl")] for n in made]
    assert files == [[["dropped_pairs.jsonl", "pairs.jsonl", "samples.jsonl"]]] * 2
    for name in files[0][0]:
        pair = [(tmp_path / n / name).read_text().replace(f"/{n}/", "/x/") for n in made]
        assert pair[0] == pair[1] and (pair[0] or name[0] == "d")


@pytest.mark.parametrize("buffer", BUFFERS)
@pytest.mark.parametrize("stop", [1, 3])
def test_a_run_that_stopped_goes_on_with_what_was_under_way(stop, buffer, tmp_path):
    """Nothing that was asked for before the checkpoint is asked for again."""
    whole = online(tmp_path / "a", staleness=2, stages=AHEAD, buffer=buffer)
    taken = [told(whole.take(step)) for step in range(6)]
    broken = online(tmp_path / "b", staleness=2, stages=AHEAD, buffer=buffer)
    for step in range(stop):
        broken.take(step)
    state = json.loads(json.dumps(broken.state()))
    broken.take(stop)  # after the checkpoint: its lines are cut off
    again = online(tmp_path / "b", staleness=2, stages=AHEAD, buffer=buffer)
    again.restore(state)
    assert [told(again.take(step)) for step in range(stop, 6)] == taken[stop:]
    asked = [len(one.engine.calls) for one in (whole, again)]
    first = online(tmp_path / "c", staleness=2, stages=AHEAD, buffer=buffer)
    for step in range(stop):
        first.take(step)
    assert asked[1] == asked[0] - len(first.engine.calls)
    for name in ("samples.jsonl", "pairs.jsonl", "dropped_pairs.jsonl"):
        both = [(tmp_path / n / name).read_text().replace(f"/{n}/", "/x/") for n in "ab"]
        assert both[0] == both[1]
    for one in (whole, broken, again, first):
        one.close()


def test_a_round_of_pairs_is_full_although_pictures_are_refused(tmp_path):
    """Prompts are sampled until a round has its pairs with their pictures, ahead as at once."""
    for staleness in (0, 2):
        folder = tmp_path / str(staleness)
        one = online(folder, staleness=staleness, stages=AHEAD, buffer=BufferSpec(unit="pair"))
        taken = [one.take(step) for step in range(8)]
        assert all(len(part.groups) == 4 for part in taken)
        assert all(len({e.kind for e in g.group.edges}) == 2 for part in taken for g in part.groups)
        figures = [means(part) for part in taken]
        refused = [part["negatives/refused"] for part in figures if "negatives/refused" in part]
        assert max(refused) > 0
        assert staleness == 0 or figures[-1]["buffer/staleness"] > 1 > figures[0]["buffer/staleness"]
        dropped = list(read_groups(folder / "dropped_pairs.jsonl"))
        assert dropped and all(g.prompts[1].facts["reason"] == "no kite in it" and not g.edges for g in dropped)
        pairs = list(read_groups(folder / "pairs.jsonl"))
        # no pair is trained twice, and none without its line
        trained = [g.group.edges and g.group.responses[0].text for part in taken for g in part.groups]
        assert len(trained) == 32 <= len(pairs)
        one.close()


def test_prompts_ahead_are_as_many_as_are_needed(tmp_path):
    """Half of the pairs are lost: once that is known, about twice as many prompts as pairs are asked ahead."""
    one = online(tmp_path, staleness=1, stages=AHEAD, buffer=BufferSpec(), lost=lambda pair: int(pair.key, 16) % 2 == 0)
    for step in range(30):
        one.take(step)
    asked, stock = one._waiting.asked, len(one._waiting.entries)
    assert 0.35 < one._waiting.found / one._waiting.settled < 0.65
    assert asked < 31 * 4 * 3 and stock < 12
    one.close()


def test_what_is_under_way_is_bounded(tmp_path):
    one = online(tmp_path, staleness=3, stages=StagesSpec(chunk=1, queue=2, scorers=2))
    submitted, finished, most = [], [], []
    line = one._ready_line()
    submit = line.submit

    def counted(answered):
        future = submit(answered)
        submitted.append(1)
        most.append(len(submitted) - len(finished))
        return future

    paint = line._paint
    line._paint = lambda judged: (paint(judged), finished.append(1))[0]
    line.submit = counted
    one.take(0)
    assert len(submitted) == 16 and max(most) <= 2 + 1  # one may be done and not counted yet
    one.close()


@pytest.mark.parametrize("stages", [TURNS, AHEAD])
def test_services_that_fail_are_counted_or_end_the_run(stages, tmp_path, caplog):
    broken = Reward(broken=lambda group: group.id == "p1")
    one = online(tmp_path / "a", staleness=1, stages=stages, reward=broken, lost=lambda pair: False)
    figures = [means(one.take(step)) for step in range(4)]
    assert sum(part["rollout/failed_rewards"] for part in figures) == 2 * 1 / 4  # p1 came twice in four rounds of four
    assert "p1" in caplog.text and "no judge there" in caplog.text
    one.close()
    failing = online(tmp_path / "b", staleness=1, stages=stages, failed="stop", lost=lambda pair: False)
    failing.negatives.maker.make = lambda pairs: [Lost(outcome="failed", reason="HTTP 500")] * len(pairs)
    with pytest.raises(ServiceError, match=r"the negative picture of p\d failed \(HTTP 500\)"):
        failing.take(0)
    failing.close()


def test_without_any_picture_the_run_says_so(tmp_path):
    one = online(tmp_path, staleness=0, stages=None, lost=lambda pair: True)
    with pytest.raises(DataError, match=r"none of \d+ pairs has its negative picture; first: no kite in it"):
        one.take(0)


def test_closing_gives_up(tmp_path):
    one = online(tmp_path, staleness=2, stages=AHEAD)
    one.take(0)
    one.close()
    assert one.negatives.maker.given_up

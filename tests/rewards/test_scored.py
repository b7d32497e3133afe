"""Whole rewards as terms of a sum, and ``sightline score`` with terms."""

from dataclasses import replace

import pytest
from answers import asked
from reward_server import RewardServer

from sightline.data.schema import read_groups, write_groups
from sightline.recipes.terms import ScenesSpec
from sightline.rewards.build import build_reward
from sightline.scenes.world import Scenes
from sightline.types import Response


@pytest.fixture(scope="module")
def captions(tmp_path_factory):
    """Four scenes, each with a true and a false caption, the true one said three times over."""
    folder = tmp_path_factory.mktemp("captions")
    groups = []
    for group in Scenes().prompts("train", 4, folder, kind="caption"):
        shape = group.prompts[0].facts["scene"]["objects"][0]["shape"]
        texts = (" ".join([f"There is a {shape}."] * 3), "There is nothing.")
        groups.append(replace(group, responses=tuple(Response(text=t, finish_reason="stop") for t in texts)))
    return groups


def test_the_built_in_world_is_a_term_beside_others(captions):
    whole = [Scenes().reward(group) for group in captions]
    found = build_reward({"scenes": ScenesSpec(weight=0.5)}).rewards(captions)
    for before, after in zip(whole, found, strict=True):
        assert [r.rewards["scenes"] for r in after.responses] == [r.reward for r in before.responses]
        assert [r.reward for r in after.responses] == [0.5 * r.reward for r in before.responses]


def test_score_takes_terms_by_pairs(captions, tmp_path, run):
    write_groups(tmp_path / "a.jsonl", captions)
    code, _, err = run("score", tmp_path / "a.jsonl", "--reward", "scenes=1,repetition=2", "-o", tmp_path / "b.jsonl")
    assert code == 0, err
    for before, after in zip(captions, read_groups(tmp_path / "b.jsonl"), strict=True):
        told = [r.reward for r in Scenes().reward(before).responses]
        # 12 words make 10 threes, 4 of them distinct
        assert [r.rewards["repetition"] for r in after.responses] == pytest.approx([4 / 10 - 1, 0])
        assert [r.reward for r in after.responses] == pytest.approx([told[0] - 1.2, told[1]])
    assert "4 groups scored, mean reward" in err
    code, _, err = run("score", tmp_path / "a.jsonl", "--reward", "scenes=1,repetition=3", "-o", tmp_path / "b.jsonl")
    assert code != 0 and "made with other settings" in err


def test_score_goes_on_with_the_same_answers(captions, tmp_path, run):
    write_groups(tmp_path / "a.jsonl", captions[:1])
    score = ("score", tmp_path / "a.jsonl", "--reward", "scenes=1", "-o", tmp_path / "b.jsonl")
    assert run(*score)[0] == 0
    write_groups(tmp_path / "a.jsonl", captions)
    assert "1 of 4 are in" in run(*score)[2]
    changed = replace(captions[0], responses=tuple(replace(r, text="Another.") for r in captions[0].responses))
    write_groups(tmp_path / "a.jsonl", [changed, *captions[1:]])
    code, _, err = run(*score)
    assert code == 2 and f"holds '{changed.id}' made from other texts, pictures, facts or answers" in err


def test_score_stops_at_a_dead_service_and_goes_on_when_it_is_back(captions, tmp_path, run):
    write_groups(tmp_path / "a.jsonl", captions)
    with RewardServer(lambda *_: (503, {})) as server:
        terms = f"own:\n  kind: service\n  url: {server.url}\n  patience: 0.05\n"
        (tmp_path / "terms.yaml").write_text(terms)
        asked_for = ("score", tmp_path / "a.jsonl", "--reward", tmp_path / "terms.yaml", "-o", tmp_path / "b.jsonl")
        code, _, err = run(*asked_for)
        assert code != 0 and "got no reward: own: HTTP 503" in err and "goes on here" in err
        code, out, err = run(*asked_for[:-1], tmp_path / "dropped.jsonl", "--failed", "drop")
        assert code == 0 and "8 answers without a reward (first: own: HTTP 503" in out + err
        dropped = [r for group in read_groups(tmp_path / "dropped.jsonl") for r in group.responses]
        assert len(dropped) == 8 and all(r.reward is None and r.reward_error for r in dropped)
        code, _, err = run("pairs", tmp_path / "dropped.jsonl", "-o", tmp_path / "pairs.jsonl")
        assert code == 2 and "8 answers got no reward and are left out (first: own: HTTP 503" in err
        assert "no pair among 4 groups" in err
    with RewardServer(lambda number, request: (200, {"rewards": [1, 2.5]}), server.port):
        code, out, err = run(*asked_for)
    assert code == 0, err
    assert [[r.reward for r in group.responses] for group in read_groups(tmp_path / "b.jsonl")] == [[1, 2.5]] * 4


@pytest.mark.parametrize(
    ("reward", "words"),
    [
        ("lenth=1", "found no kind of reward 'lenth'. Did you mean 'length'?"),
        ("length=1", "the reward length has no limit"),
        ("objects=1", "missing key 'objects.world'"),
        ("scenes=1", "reward scenes: prompt 'p' has no scene"),
        ("exact=1", "reward exact: prompt 'p' has no fact 'answer'"),
    ],
)
def test_score_says_what_a_term_lacks(tmp_path, run, reward, words):
    write_groups(tmp_path / "a.jsonl", [asked("a")])
    code, _, err = run("score", tmp_path / "a.jsonl", "--reward", reward, "-o", tmp_path / "b.jsonl")
    assert code != 0 and words in " ".join(err.split())
    assert not (tmp_path / "b.jsonl").exists()

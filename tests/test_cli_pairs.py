"""``sightline sample``, ``score``, ``pairs``: best of n as commands, and what ``pairs`` refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import train_runs

from sightline.data.schema import read_groups, write_groups
from sightline.train.loop import train


def test_best_of_n_as_commands_goes_on_where_it_was_stopped(run, tiny, tmp_path):
    prompts = train_runs.data(tmp_path / "data", 5, 1)
    names = ("samples", "scored", "best")
    samples, scored, best = (tmp_path / f"{name}.jsonl" for name in names)
    sample = ["sample", tiny["llava"], prompts, "-n", 4, "--max-tokens", 8, "-o", samples]
    score = ["score", samples, "--reward", "train_runs:CountsE", "-o", scored]

    def chain():
        for command in (sample, score):
            code, _, err = run(*command)
            assert code == 0, err
        return run("pairs", scored, "--best", "-o", best)

    code, _, err = chain()
    assert code == 0 and "the best answer of 5 groups, 0 groups left out" in err
    whole = {path: said(path) for path in (samples, scored, best)}
    for path, kept in ((samples, 2), (scored, 1)):  # killed: some rows, and half of the next
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(lines[:kept]) + lines[kept][:50])
    best.unlink()
    chain()
    assert {path: said(path) for path in whole} == whole

    groups = {group.id: group for group in read_groups(scored)}
    for group in read_groups(best):
        (answer,) = group.responses
        assert answer.reward == max(r.reward for r in groups[group.id].responses) and not group.edges
        assert answer.tokens in [r.tokens for r in groups[group.id].responses]
    recipe = train_runs.recipe(tiny["llava"], tmp_path, max_steps=1, batch_size=5)
    data = replace(recipe.data, train=(replace(recipe.data.train[0], path=str(best)),))
    done = train(replace(recipe, data=data), quiet=True)
    answers = [group.responses[0].rollout_logprobs for group in read_groups(best)]
    expected = -sum(map(sum, answers)) / sum(map(len, answers))
    assert done.last["loss"] == pytest.approx(expected, abs=1e-4)  # what was sampled, and nothing else


def said(path):
    """All but log-probabilities, which depend in their last digits on what is computed together."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        for response in row["responses"]:
            del response["rollout_logprobs"]
    return rows


@pytest.fixture
def scored(tmp_path) -> Path:
    path = tmp_path / "scored.jsonl"
    groups = [train_runs.group(index, train_runs.draw(tmp_path / "pictures"), 4) for index in range(3)]
    write_groups(path, [replace(g, responses=tuple(_rewarded(g, (9, 7, 6, 4)))) for g in groups])
    return path


def _rewarded(group, rewards):
    return (replace(r, reward=float(n), text=f"{r.text} {n}") for r, n in zip(group.responses, rewards, strict=True))


def ends(path):
    return [[(g.responses[e.winner].reward, g.responses[e.loser].reward) for e in g.edges] for g in read_groups(path)]


def test_relations_by_name(run, scored, tmp_path):
    out = tmp_path / "pairs.jsonl"
    assert "3 pairs in 3 groups" in run("pairs", scored, "--relation", "ovip", "-o", out)[2]
    assert ends(out) == [[(9, 4)]] * 3
    code, _, err = run("pairs", scored, "--relation", "ovip", "--selection", "small_gap=6", "-o", out)
    assert code == 2 and "has no fact 'answer'" in err  # the fallback
    arguments = ["--selection", "small_gap=6,relaxed_gap=5", "--fallback", "relaxed"]
    assert run("pairs", scored, "--relation", "ovip", *arguments, "-o", out)[0] == 0 and ends(out) == [[(9, 4)]] * 3
    assert run("pairs", scored, "--relation", "ranked", "--min-gap", 3, "-o", out)[0] == 0
    assert ends(out) == [[(9, 6), (9, 4), (7, 4)]] * 3
    assert run("pairs", scored, "--relation", "length_balanced", "-o", out)[0] == 0
    for group in read_groups(out):
        words = [[len(group.responses[end].text.split()) for end in (e.winner, e.loser)] for e in group.edges]
        signs = [(winner > loser) - (winner < loser) for winner, loser in words]
        assert signs in ([1, -1], [0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--best", "--relation", "ranked"], "--best makes no pairs"),
        (["--best", "--keep-all"], "the best answer alone, or all of them"),
        (["--best", "--min-gap", "6"], "no answer among 3 groups"),
        (["--best", "--min-gap", "6"], "Lower --min-gap"),
        (["--relation", "ovip", "--selection", "bad=-1,good=99"], "Bring --selection to the scale"),
        (["--relation", "ovip", "--min-gap", "1"], "--min-gap is not read with --relation ovip"),
        (["--selection", "good=1"], "--selection is for --relation ovip, found best_worst"),
        (["--relation", "ranked", "--fallback", "none"], "--fallback is for --relation ovip, found ranked"),
        (["--relation", "ovip", "--selection", "good"], "expected numbers by name"),
        (["--relation", "ovip", "--selection", "goood=1"], "Did you mean 'good'?"),
        (["--relation", "ovip", "--selection", "small=-1"], "expected a value >= 0"),
        (["--relation", "ovip", "--selection", "small=1.5"], "expected a whole number"),
    ],
)
def test_what_pairs_refuses(run, scored, tmp_path, arguments, message):
    code, _, err = run("pairs", scored, *arguments, "-o", tmp_path / "out.jsonl")
    assert code == 2 and message in err and not (tmp_path / "out.jsonl").exists()


def test_answers_without_a_reward_are_named(run, scored, tmp_path):
    rows = [json.loads(line) for line in scored.read_text().splitlines()]
    del rows[1]["responses"][2]["reward"]
    scored.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, _, err = run("pairs", scored, "--best", "-o", tmp_path / "out.jsonl")
    assert code == 2 and "row-1 has answers without a reward (number 2" in err
    rows[1]["responses"][2]["reward_error"] = "own: HTTP 503"  # as `score --failed drop` leaves it
    scored.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, _, err = run("pairs", scored, "-o", tmp_path / "out.jsonl")
    assert code == 0 and "1 answers got no reward and are left out (first: own: HTTP 503)" in err
    assert all(r.reward is not None for group in read_groups(tmp_path / "out.jsonl") for r in group.responses)

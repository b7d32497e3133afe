"""A league compares what it says it compares: one base, one set of answers, one budget."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from command_line import sightline
from sightline.algorithms.registry import build_algorithm
from sightline.data.schema import read_groups
from sightline.demo import league as league_module
from sightline.demo.league import all_methods, chosen_methods, recipe_of, run_league
from sightline.demo.loops import loop_of
from sightline.demo.sizes import LeagueSize, LoopSize, OnlineSize
from sightline.demo.standings import Outcome, standings
from sightline.errors import CheckpointError, RecipeError
from sightline.recipes.load import check_algorithm

TINY = LeagueSize(steps=2, groups=4, prompts=8, presence=1, samples=4, held_out=4, questions=1, sft_steps=2)
TINY_ONLINE = OnlineSize(steps=2, groups=4, prompts=8, presence=1, samples=4, held_out=4, questions=1, sft_steps=2)


@pytest.mark.parametrize("name", all_methods())
def test_every_method_is_a_recipe_whose_algorithm_can_be_built(name):
    recipe = recipe_of(name, all_methods()[name], Path("m"), Path("f"), 3, LeagueSize(steps=7, groups=5))
    check_algorithm(recipe, build_algorithm(recipe.algorithm))
    assert (recipe.train.max_steps, recipe.train.batch_size, recipe.seed) == (7, 5, 3)
    assert recipe.model.path == "m" and recipe.output_dir == f"f/runs/{name}"


@pytest.mark.parametrize("name", all_methods(online=True))
def test_every_online_method_samples_as_many_answers(name):
    size = OnlineSize(steps=6, groups=5, samples=3, overrides=("online.inner_epochs=2",))
    recipe = recipe_of(name, all_methods(online=True)[name], Path("m"), Path("f"), 3, size)
    check_algorithm(recipe, build_algorithm(recipe.algorithm))
    assert (recipe.train.max_steps, recipe.train.batch_size, recipe.online.sampling.n) == (12, 5, 3)
    assert recipe.online.prompts.path == "f/data/asked.jsonl" and recipe.model.path == "m"


def test_overrides_lie_over_what_the_method_says():
    size = LeagueSize(overrides=("algorithm.beta=0.7", "train.learning_rate=1e-5"))
    recipe = recipe_of("dpo_hinge", all_methods()["dpo_hinge"], Path("m"), Path("f"), 0, size)
    assert recipe.algorithm == {"name": "dpo", "link": "hinge", "beta": 0.7}
    assert recipe.train.learning_rate == 1e-5


def test_methods_differ():
    size = LeagueSize()
    recipes = {
        name: repr(replace(recipe_of(name, overrides, Path("m"), Path("f"), 0, size), name="x", output_dir="x"))
        for name, overrides in all_methods().items()
    }
    assert len(set(recipes.values())) == len(recipes)


def test_an_unknown_method_is_named_with_its_nearest():
    with pytest.raises(RecipeError, match=r"found method 'orpp'\. Did you mean 'orpo'\?"):
        chosen_methods(["dpo", "orpp"])


def outcome(method, seed, hallucinating, covered, seconds=0.0):
    """Captions of two scenes with two shapes each."""
    counts = {
        "hallucinating": hallucinating,
        "captions": [1, 1],
        "covered": covered,
        "present": [2, 2],
        "hallucinated": hallucinating,
        "mentions": [2, 2],
        "right": [0, 0],
        "asked": [0, 0],
    }
    scenes = (f"{seed}/a", f"{seed}/b")
    return Outcome(method=method, seed=seed, prompts=scenes, scenes=scenes, counts=counts, cpu_seconds=seconds)


def test_standings_by_hand():
    found = standings(
        [
            outcome("base", 0, [1, 1], [2, 1]),
            outcome("slow", 0, [1, 0], [2, 2], seconds=4.0),
            outcome("best", 0, [0, 0], [2, 1]),
            outcome("base", 1, [1, 0], [1, 1]),
            outcome("slow", 1, [0, 0], [2, 1], seconds=2.0),
        ]
    )
    base, best, slow = found
    assert [one.name for one in found] == ["base", "best", "slow"]
    assert [(one.value, one.low, one.high) for one in (base.values["hal"], slow.values["hal"])] == [
        (0.75, 0.5, 1.0),
        (0.25, 0.0, 0.5),
    ]
    assert slow.by_seed["cover"] == (1.0, 0.75) and slow.cpu_seconds.value == 3.0
    assert slow.changes["hal"].value == -0.5  # 3 of 4 captions, then 1 of 4
    assert slow.changes["cover"].value == pytest.approx(7 / 8 - 5 / 8)
    assert best.seeds == (0,) and best.changes["hal"].value == -1.0, "compared with the base of its own seed alone"
    assert base.changes == {}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("league")
    return out, run_league(seeds=[0], methods=["dpo", "orpo"], out=out, size=TINY)


def test_a_league_leaves_its_files(finished):
    out, league = finished
    assert {one.name for one in league.standings} == {"base", "dpo", "orpo"} and not league.failed
    pairs, orders = (list(read_groups(out / "seed-0/data" / f"{name}.jsonl")) for name in ("pairs", "ranked"))
    assert [group.id for group in pairs] == [group.id for group in orders] and pairs
    for group in pairs:
        (edge,) = group.edges
        assert group.responses[edge.winner].reward - group.responses[edge.loser].reward >= league_module.MIN_GAP
    rows = [json.loads(line) for line in (out / "seed-0/runs/dpo/metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 2
    assert {"report.html", "league.md", "league.json"} <= {path.name for path in out.iterdir()}


def test_what_is_finished_is_not_run_again_and_a_failure_costs_the_others_nothing(finished, monkeypatch):
    out, before = finished
    trained = []

    def fail(recipe, overwrite):
        trained.append(recipe.name)
        raise CheckpointError("no disk")

    monkeypatch.setattr(league_module, "train", fail)
    after = run_league(seeds=[0], methods=["dpo", "kto", "orpo"], out=out, size=TINY)
    assert trained == ["kto"] and dict(after.failed) == {"kto, seed 0": "no disk"}
    assert [one.name for one in after.standings] == [one.name for one in before.standings]
    assert [one.cpu_seconds for one in after.standings] == [one.cpu_seconds for one in before.standings]


def test_a_folder_keeps_to_its_budget_and_its_methods(finished, monkeypatch):
    out, _ = finished
    with pytest.raises(CheckpointError, match=r"another budget .steps: 2 there, 3 here"):
        run_league(seeds=[0], methods=["dpo"], out=out, size=replace(TINY, steps=3))
    changed = {"dpo": {"algorithm": {"name": "dpo", "beta": 0.7}}}
    monkeypatch.setattr(league_module, "chosen_methods", lambda *_, **__: changed)
    league = run_league(seeds=[0], out=out, size=TINY)
    assert "beta: 1.0 there, 0.7 here" in league.failed["dpo, seed 0"]


def test_an_online_league_tells_what_was_sampled_and_is_not_run_again(finished, tmp_path, monkeypatch):
    base, size = finished[0] / "seed-0/sft/model", replace(TINY_ONLINE, overrides=("online.inner_epochs=2",))
    league = run_league(seeds=[0], methods=["grpo", "ppo"], out=tmp_path, bases=[base], size=size)
    assert league.online and not league.failed
    found = {one.name: one for one in league.standings}
    assert found["base"].answers.value == 0 and found["grpo"].steps == 4, "two steps, each taken twice"
    assert found["grpo"].answers.value == 2 * 4 * 4, "steps, groups, answers"
    table = (tmp_path / "league.md").read_text()
    assert "| CPU s | answers | steps |" in table and "| 32 | 4 |" in table
    assert "Online methods compared" in (tmp_path / "report.html").read_text()
    monkeypatch.setattr(league_module, "train", None)
    again = run_league(seeds=[0], methods=["grpo", "ppo"], out=tmp_path, bases=[base], size=size)
    assert repr(again) == repr(league)
    with pytest.raises(CheckpointError, match="online: True there, None here"):
        run_league(seeds=[0], methods=["dpo"], out=tmp_path, bases=[base], size=TINY)


@pytest.mark.parametrize("name", all_methods(loops=True))
def test_every_loop_asks_and_trains_as_much(name):
    size = LoopSize(rounds=2, steps=7, groups=5, prompts=8, samples=3, overrides=("algorithm.beta=0.5",))
    loop = loop_of(name, all_methods(loops=True)[name], Path("m"), Path("f"), 3, size)
    rounds = 1 if name.endswith("_offline") else 2
    assert (loop.rounds, loop.merge.keep, loop.train.batch_size) == (rounds, rounds, 5)
    assert (rounds * loop.prompts_per_round, rounds * loop.train.max_steps) == (8, 14)
    assert loop.model.path == "m" and loop.output_dir == f"f/runs/{name}" and loop.algorithm["beta"] == 0.5
    weight = {"csr_own_score": 0.0, "csr_relevance": 1.0}.get(name, 0.9)
    assert loop.method.score.weight == weight if loop.method.name == "csr" else loop.method.sampling.n == 3


def test_a_league_of_loops_is_not_run_again(tmp_path, monkeypatch):
    """From nothing: the prompts of the loops are not those of the base's SFT."""
    short = ("method.search.max_new_tokens=6", "method.search.max_sentences=2", "method.search.junk=keep")
    size = LoopSize(rounds=2, steps=1, groups=2, prompts=8, held_out=4, questions=1, sft_steps=2, overrides=short)
    methods = ["csr", "csr_own_score", "csr_offline"]
    league = run_league(seeds=[0], methods=methods, out=tmp_path, size=size)
    assert league.loops and not league.failed and league.standings[0].name == "base"
    assert "Loops compared" in (tmp_path / "report.html").read_text()
    trees = [tmp_path / f"seed-0/runs/{name}/round-1/trees.jsonl" for name in methods]
    assert trees[0].read_bytes() == trees[1].read_bytes(), "the same trees of the same base, otherwise paired"
    assert trees[2].read_bytes().count(b"\n") == 8 == 2 * trees[0].read_bytes().count(b"\n")
    found = {one.name: one for one in league.standings}
    assert set(found) == {"base", "csr", "csr, round 1", "csr_own_score", "csr_own_score, round 1", "csr_offline"}
    assert 0 < found["csr, round 1"].cpu_seconds.value < found["csr"].cpu_seconds.value
    assert found["csr, round 1"].by_seed == found["csr_own_score, round 1"].by_seed or found["csr"].changes
    monkeypatch.setattr("sightline.rollouts.sentence_search.SentenceSearch.grow", None)
    again = run_league(seeds=[0], methods=methods, out=tmp_path, size=size)
    assert repr(again) == repr(league)
    with pytest.raises(CheckpointError, match="loops: True there, None here"):
        run_league(seeds=[0], methods=["dpo"], out=tmp_path, size=TINY)


def test_each_seed_needs_its_base(tmp_path):
    with pytest.raises(RecipeError, match="found 1 bases for 2 seeds"):
        run_league(seeds=[0, 1], out=tmp_path, bases=[Path("m")])


def test_what_cannot_be_run_is_refused_before_anything_is_drawn(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(RecipeError, match="0, 1, 0, one of them twice"):
        run_league(seeds=[0, 1, 0], out=out)
    with pytest.raises(RecipeError, match=r"found no base .*nowhere"):
        run_league(seeds=[0], out=out, bases=[tmp_path / "nowhere"])
    with pytest.raises(RecipeError, match=r"algorithm.betta is not an option of dpo. Did you mean 'beta'"):
        run_league(seeds=[0], methods=["dpo"], out=out, size=replace(TINY, overrides=("algorithm.betta=1",)))
    assert not out.exists()


def test_a_method_that_overrides_do_not_fit_is_known_beforehand():
    unfit = league_module._unfit(chosen_methods(["sft_best", "dpo"]), replace(TINY, overrides=("algorithm.beta=1",)))
    assert list(unfit) == ["sft_best"] and "algorithm.beta is not an option of sft" in unfit["sft_best"]


def test_a_seed_keeps_to_its_base(finished, tmp_path):
    out, _ = finished
    (tmp_path / "other").mkdir()
    with pytest.raises(CheckpointError, match=r"starts from SFT of the demo, not .*other"):
        run_league(seeds=[0], methods=["dpo"], out=out, bases=[tmp_path / "other"], size=TINY)


def test_the_command_names_its_methods():
    assert sightline("compare", "--names").out.split() == list(all_methods())
    assert sightline("compare", "--online", "--names").out.split() == list(all_methods(online=True))
    assert sightline("compare", "--loops", "--names").out.split() == list(all_methods(loops=True))
    assert "two comparisons" in sightline("compare", "--loops", "--online").err


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (("--methods", "dppo"), "found method 'dppo'. Did you mean 'dpo'?"),
        (("--seeds", "0;1"), "--seeds is '0;1', expected whole numbers separated by commas"),
        (("--methods", " ,"), "--methods is ' ,', expected names, separated by commas"),
    ],
)
def test_the_command_refuses_what_it_does_not_know(arguments, found, tmp_path):
    done = sightline("compare", *arguments, "--out", tmp_path / "out")
    assert done.code == 2 and found in done.err
    assert not (tmp_path / "out").exists()

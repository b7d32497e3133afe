"""OViP as a loop: rounds of online training with pictures of the hallucination."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from small_loops import loop_of, world_of

from sightline.data.schema import read_groups
from sightline.errors import DataError, RecipeError
from sightline.loops.common import train_stage
from sightline.loops.ovip import Ovip
from sightline.loops.run import run_loop
from sightline.loops.stages import Round
from sightline.recipes.loop import training_recipe
from sightline.recipes.ovip import OvipSpec, online_of
from sightline.relations.selection import OVIP

SELECTION = "{good: -99, small: 99, small_gap: 0, bad: -100, fallback: none}"
METHOD = (
    "method={name: ovip, reward: scenes, sampling: {n: 6, max_new_tokens: 12}, negatives: {kind: scenes}, "
    f"selection: {SELECTION}, stages: {{}}, max_staleness: 1}}"
)


def test_every_round_trains_online_and_the_next_goes_on_from_it(tmp_path):
    world = world_of(tmp_path / "w", prompts=8)
    loop = loop_of(world, tmp_path / "loop", METHOD, "train.max_steps=2", "train.batch_size=2")
    done = run_loop(loop, quiet=True)
    state = json.loads((tmp_path / "loop/state.json").read_text())
    assert done.stages == len(state["stages"]) and done.model.is_dir()
    for number in (1, 2):
        folder = tmp_path / f"loop/round-{number}"
        pairs = list(read_groups(folder / "train/pairs.jsonl"))
        assert len(pairs) >= 2 and all(len(pair.prompts) == 2 and pair.edges for pair in pairs)
        assert (folder / "model/config.json").is_file() and (folder / "exam").is_dir()
        assert not (folder / "pairs.jsonl").exists()
        figures = json.loads((folder / "figures.json").read_text())["pairs"]
        assert figures["pairs"] == sum(edge.kind == "text" for pair in pairs for edge in pair.edges)
        assert figures["chosen_reward"] > figures["rejected_reward"]
    again = run_loop(loop, quiet=True)
    assert again.stages == 0 and again.model == done.model


def test_the_defaults_are_the_published_values():
    online = online_of(OvipSpec(name="ovip", reward="scenes"), "prompts.jsonl")
    sampling = online.sampling
    assert (sampling.n, sampling.temperature, sampling.top_p, sampling.max_new_tokens) == (16, 1.2, 0.8, 256)
    found = asdict(OVIP)
    assert {name: found[name] for name in ("small", "small_gap", "good", "deviations", "least_deviation")} == {
        "small": 4, "small_gap": 4.0, "good": 6.0, "deviations": 2.0, "least_deviation": 1.5,
    }  # fmt: skip
    assert (found["bad"], found["fallback"], found["relaxed_gap"]) == (5.0, "reference", 2.0)
    assert online.relation == "ovip" and online.buffer.unit == "pair" and online.buffer.uses == 1


def test_what_the_training_asks_counts_by_what_it_holds(tmp_path, monkeypatch):
    """A reward, a model or a text of one's own: another one, or another content, is trained anew."""
    monkeypatch.chdir(tmp_path)
    world = world_of(tmp_path / "w")

    def stage(term, paint="flux", failed="drop"):
        made = f"{{kind: edit, describe: {{judge: 'openai:d', options: {{url: 'http://a'}}}}, paint: {{path: {paint}}}"
        method = f"method={{name: ovip, reward: {{it: {term}}}, negatives: {made}, failed: {failed}}}}}"
        loop = loop_of(world, tmp_path / "loop", method)
        spec = loop.model
        round = Round(number=1, folder=tmp_path / "loop/round-1", spec=spec, prompts=world / "prompts.jsonl", seed=1)
        recipe = Ovip(spec=loop.method).training(round, training_recipe(loop, 1, spec, str(round.folder)))
        made = train_stage(round, recipe, quiet=True)
        return [str(path) for path in made.reads], json.dumps(made.settings, sort_keys=True)

    (tmp_path / "rewards.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    first = stage("{kind: clip, path: hub/one}")
    assert first == stage("{kind: clip, path: hub/one, batch_size: 3}")
    assert first != stage("{kind: clip, path: hub/two}") and first != stage("{kind: clip, path: hub/one}", paint="sd3")
    assert first != stage("{kind: clip, path: hub/one}", failed="text")  # other pairs where a picture fails
    assert str(tmp_path / "rewards.py") in stage("{kind: function, path: 'rewards:one'}")[0]
    (tmp_path / "judge").mkdir()
    reads, settings = stage("{kind: judge, judge: 'local:judge', options: {workers: 2}}")
    assert "judge" in reads and "local:judge" not in settings and "workers" not in settings


def test_what_could_not_be_trained_is_refused_before_the_first_stage(tmp_path):
    world = world_of(tmp_path / "w")
    with pytest.raises(DataError, match="has no fact 'answer', the reference answer"):
        run_loop(loop_of(world, tmp_path / "a", "method={name: ovip, reward: scenes}"), quiet=True)
    clash = METHOD.replace("max_staleness: 1", "buffer: {fresh: 0.5}, max_staleness: 1")
    with pytest.raises(RecipeError, match=r"method\.buffer\.fresh: .*Remove fresh"):
        run_loop(loop_of(world, tmp_path / "b", clash), quiet=True)
    assert not (tmp_path / "a/round-1").exists() and not (tmp_path / "b/round-1").exists()

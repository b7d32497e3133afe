"""Online runs whose answers come from servers: what they learn, and what a server that goes away costs them."""

import threading
from dataclasses import replace

import pytest
import train_runs

from command_line import sightline
from engines.fake_vllm import FakeServer
from sightline.data.schema import read_groups
from sightline.errors import EngineError, VerificationError
from sightline.recipes.engine import EngineSpec
from sightline.recipes.load import dump_recipe
from sightline.recipes.schema import LoraSpec, ModelSpec, PartsSpec
from sightline.train.checkpoint import newest_step
from sightline.train.loop import train
from tiny_models import save_tiny


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    return save_tiny("llava", tmp_path_factory.mktemp("llava"))


@pytest.fixture
def server(llava):
    one = FakeServer(llava)
    yield one
    one.stop()


def recipe(llava, folder, server, **fields):
    base = train_runs.online(llava, folder, "train_runs:CountsE", schedule="constant", warmup=0)
    parts = PartsSpec(language="lora", projector="frozen")
    engine = EngineSpec(name="vllm", urls=(server.url,), **{"timeout": 20, "patience": 0.3} | fields)
    return replace(
        base,
        model=ModelSpec(path=str(llava), parts=parts, lora=LoraSpec(rank=4)),
        reference="adapter",
        online=replace(base.online, engine=engine),
    )


def answers(run):
    return [[(r.tokens, r.weight_versions) for r in group.responses] for group in read_groups(run / "samples.jsonl")]


@pytest.fixture(scope="module")
def whole(llava, tmp_path_factory):
    """A run that nothing happens to."""
    one = FakeServer(llava)
    yield train(recipe(llava, tmp_path_factory.mktemp("whole"), one), quiet=True)
    one.stop()


def test_a_run_without_its_server_stops_and_goes_on_as_if_nothing_was(llava, server, tmp_path, whole):
    broken = recipe(llava, tmp_path / "broken", server)

    def leave(record):
        if record["step"] == 3:  # the next round comes with the step after the next
            server.stop()

    with pytest.raises(EngineError, match="goes on from the last checkpoint"):
        train(broken, quiet=True, on_log=leave)
    assert newest_step(tmp_path / "broken/run") == 4
    server.start()
    done = train(broken, quiet=True)
    assert (done.resumed_from, done.steps) == (4, 6)
    assert train_runs.losses(done.run_dir) == train_runs.losses(whole.run_dir)
    assert answers(done.run_dir) == answers(whole.run_dir)
    versions = [{v for _, row in group for v in row} for group in answers(whole.run_dir)]
    assert set().union(*versions) == {0, 2, 4} and all(len(one) == 1 for one in versions)


def test_a_server_that_comes_back_in_time_costs_nothing_but_time(llava, server, tmp_path, whole):
    def restart(record):
        if record["step"] == 3:
            server.stop()
            threading.Timer(0.5, server.start).start()

    done = train(recipe(llava, tmp_path / "broken", server, patience=20), quiet=True, on_log=restart)
    assert train_runs.losses(done.run_dir) == train_runs.losses(whole.run_dir)
    assert answers(done.run_dir) == answers(whole.run_dir)


def test_whole_models_are_trained_on_servers_too(llava, server, tmp_path):
    base = train_runs.online(llava, tmp_path, "train_runs:CountsE")
    engine = EngineSpec(name="vllm", urls=(server.url,), sync="weights", timeout=20, patience=0.3)
    done = train(replace(base, online=replace(base.online, engine=engine)), quiet=True)
    assert done.steps == 6
    assert server.calls.count("/update_weights") == 3  # the check's weights are those of the first round


def test_a_run_whose_engine_disagrees_is_refused_before_its_first_step(llava, tmp_path):
    other = FakeServer(save_tiny("llava", tmp_path / "other", seed=3))
    try:
        bad = recipe(llava, tmp_path, other, max_kl=1e-3)
        with pytest.raises(VerificationError, match="disagree about the answers"):
            train(bad, quiet=True)
        assert not (tmp_path / "run/samples.jsonl").exists()
        unchecked = replace(bad, online=replace(bad.online, engine=replace(bad.online.engine, check=False)))
        assert train(unchecked, quiet=True, overwrite=True).steps == 6
    finally:
        other.stop()


def test_a_run_on_the_policy_itself_is_checked_as_well(llava, tmp_path, monkeypatch):
    import sightline.train.loop as loop

    asked = []
    original = loop.check_at_start
    monkeypatch.setattr(loop, "check_at_start", lambda *a: asked.append(original(*a)) or asked[-1])
    base = train_runs.online(llava, tmp_path, "train_runs:CountsE")
    train(base, quiet=True)
    (found,) = asked
    assert found.answers >= 8 and found.k3 < 1e-6
    train(base, quiet=True)  # nothing is left to do, and nothing is asked
    assert len(asked) == 1


def test_the_command_says_how_the_run_goes_on(llava, server, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(recipe(llava, tmp_path, server)))
    server.stop()
    done = sightline("train", path, "--quiet")
    assert done.code == 2 and "no engine answered for 0.3 s" in done.err
    assert "starts from the beginning: there is no checkpoint yet" in done.err

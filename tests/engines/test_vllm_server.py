"""Against a real server of vLLM on this machine: ``make test-engines`` sets it up and runs these.

One server at a time, of a tiny LLaVA and then of a tiny Qwen2.5-VL. Blocks of its prefix cache hold 32 tokens, and
prompts are longer: what it keeps wrongly shows.
"""

import contextlib
import itertools
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import train_runs

from engines.models import loaded, moved, prompts, save_packed, save_served
from engines.serving import ENVIRONMENT, serving
from sightline.data.schema import read_groups
from sightline.errors import EngineError, RecipeError, VerificationError
from sightline.models.named_adapters import save_adapter
from sightline.recipes.engine import EngineSpec
from sightline.recipes.schema import LoraSpec, ModelSpec, PartsSpec, SamplingSpec
from sightline.rollouts.check import check_engine
from sightline.rollouts.hf import HFEngine
from sightline.rollouts.transfer import Group
from sightline.rollouts.vllm import VLLMEngine
from sightline.rollouts.vllm_sync import AdapterSync, NoSync, WeightSync
from sightline.train.engine import score_batch
from sightline.train.loop import train

pytestmark = [
    pytest.mark.engines,
    pytest.mark.skipif("SIGHTLINE_ENGINES" not in os.environ, reason="starts a server of vLLM: make test-engines"),
]
FAMILIES = ("llava", "qwen2_5_vl")
SAMPLING = SamplingSpec(n=4, temperature=0.8, max_new_tokens=24)


@pytest.fixture(scope="module", params=FAMILIES)
def server(request, tmp_path_factory):
    assert ENVIRONMENT.is_dir(), f"{ENVIRONMENT} is missing: make test-engines makes it"
    folder = tmp_path_factory.mktemp(request.param)
    with serving(save_served(request.param, folder / "model"), folder) as running:
        yield running


@pytest.fixture
def groups(tmp_path):
    return prompts(tmp_path)


def engine(server, policy, renderer, sync, **fields):
    spec = EngineSpec(name="vllm", urls=(server.url,), **{"timeout": 120, "patience": 5} | fields)
    return VLLMEngine(policy, renderer, spec, sync)


def checked(asked, policy, groups):
    return check_engine(
        asked, asked.renderer, groups, SAMPLING, name="vllm", score=lambda some: score_batch(policy, some, "rows")
    )


def give_back(server, renderer):
    """The server's own weights."""
    policy, _ = loaded(server.model)
    engine(server, policy, renderer, WeightSync(policy, seconds=60)).update(0)


def test_greedy_answers_are_those_of_transformers(server, groups):
    policy, renderer = loaded(server.model)
    greedy = SamplingSpec(n=2, temperature=0, max_new_tokens=16)
    asked = engine(server, policy, renderer, NoSync())
    theirs, ours = asked.generate(groups, greedy, seed=0), HFEngine(policy, renderer).generate(groups, greedy, seed=0)
    for one, other in zip(theirs, ours, strict=True):
        assert [r.tokens for r in one.responses] == [r.tokens for r in other.responses]
        assert [(r.text, r.finish_reason) for r in one.responses] == [
            (r.text, r.finish_reason) for r in other.responses
        ]
        for mine, yours in zip(one.responses, other.responses, strict=True):
            assert mine.rollout_logprobs == pytest.approx(yours.rollout_logprobs, abs=3e-4)
            assert mine.weight_versions == (0,) * len(mine.tokens)


def test_answers_depend_on_seed_and_prompt_alone(server, groups):
    policy, renderer = loaded(server.model)
    asked = engine(server, policy, renderer, NoSync())
    first = asked.generate(groups, SAMPLING, seed=3)
    other = asked.generate(groups[::-1], replace(SAMPLING, batch_size=1), seed=3)[::-1]
    assert [[r.tokens for r in g.responses] for g in first] == [[r.tokens for r in g.responses] for g in other]
    assert len({r.tokens for g in first for r in g.responses}) == 16
    again = asked.generate(groups, SAMPLING, seed=4)
    assert all(a.responses[0].tokens != b.responses[0].tokens for a, b in zip(first, again, strict=True))


def test_log_probabilities_stay_those_of_temperature_1_without_the_ban(server, groups):
    """Trap 5. Every banned id takes part in the normaliser, as it does in the trainer."""
    policy, renderer = loaded(server.model)
    asked = engine(server, policy, renderer, NoSync())
    (answered, *_) = asked.generate(groups, SamplingSpec(n=8, temperature=2.0, max_new_tokens=64), seed=1)
    tokens = [token for response in answered.responses for token in response.tokens]
    assert len(tokens) > 200 and not set(tokens) & set(asked.forbidden)
    batch = score_batch(policy, [renderer.render(answered)], "rows")
    torch.testing.assert_close(batch.rollout_logprobs, batch.old_logprobs, atol=3e-4, rtol=0)


def test_without_the_ban_placeholders_are_sampled(server, groups):
    """What trap 5 is: the same request without its bias."""
    policy, renderer = loaded(server.model)
    asked = engine(server, policy, renderer, NoSync())
    body = asked._request(groups[0], SamplingSpec(n=16, temperature=2.0, max_new_tokens=128), 1)
    del body["sampling_params"]["logit_bias"]
    reply = asked.servers.all[0].post("/inference/v1/generate", body)
    assert {token for choice in reply["choices"] for token in choice["token_ids"]} & set(asked.forbidden)


def test_every_adapter_gets_a_name_and_is_scored_as_it_is(server, groups, tmp_path):
    """Trap 1: an adapter under an old name is answered from what the old one left in the prefix cache."""
    policy, renderer = loaded(server.model, lora=True)
    asked = engine(server, policy, renderer, AdapterSync(policy, tmp_path / "adapters"))
    for version in range(4):
        asked.update(version)
        found = checked(asked, policy, groups)
        assert found.largest < 1e-3 and found.answers == 8
        assert asked.generate(groups[:1], SAMPLING, seed=0)[0].responses[0].weight_versions[0] == version
        moved(policy, 0.5, seed=version)
    assert checked(asked, policy, groups).largest > 0.02  # it moved since the last update
    names = [one["id"] for one in asked.servers.all[0].get("/v1/models")["data"]]
    assert len(names) == 1 + AdapterSync.KEPT
    assert len(list((tmp_path / "adapters").iterdir())) == AdapterSync.KEPT


def test_an_adapter_under_an_old_name_is_answered_from_the_cache(server, groups, tmp_path):
    """What trap 1 is; the day this fails, names need not be new."""
    policy, renderer = loaded(server.model, lora=True)
    sync = AdapterSync(policy, tmp_path / "adapters")
    asked = engine(server, policy, renderer, sync)
    asked.update(0)
    checked(asked, policy, groups)
    moved(policy, 2.0)
    save_adapter(policy.model, "default", tmp_path / "adapters" / sync.model)
    body = {"lora_name": sync.model, "lora_path": str(tmp_path / "adapters" / sync.model), "load_inplace": True}
    server.post("/v1/load_lora_adapter", body)
    assert checked(asked, policy, groups).largest > 0.05


def test_all_weights_come_over_and_caches_are_cleared(server, groups):
    """Traps 2 and 4: the tower's features and the prompts are cached; layers have freed what they were loaded from."""
    policy, renderer = loaded(server.model)
    policy.requires_grad_(True)
    asked = engine(server, policy, renderer, WeightSync(policy, seconds=60))
    for version, part in enumerate(("", "vis", "language_model", "")):
        asked.update(version)
        found = checked(asked, policy, groups)
        assert found.largest < 1e-3, part
        assert asked.generate(groups[:1], SAMPLING, seed=0)[0].responses[0].weight_versions[0] == version
        moved(policy, 0.3, seed=version, only=part)
        assert checked(asked, policy, groups).largest > 0.01
    moved_back, _ = loaded(server.model)
    again = engine(server, moved_back, renderer, WeightSync(moved_back, seconds=60))  # another run, the same server
    again.update(0)
    assert checked(again, moved_back, groups).largest < 3e-4


@pytest.mark.parametrize(
    ("parts", "options"),
    [
        (PartsSpec(language="lora", projector="full"), {"rslora": True}),
        (PartsSpec(language="lora", projector="lora", vision="lora"), {"dora": True}),
    ],
)
def test_an_adapter_comes_over_merged(server, groups, parts, options):
    policy, renderer = loaded(server.model, parts=parts, **options)
    asked = engine(server, policy, renderer, WeightSync(policy, seconds=60))
    for version in range(2):
        asked.update(version)
        assert checked(asked, policy, groups).largest < 1e-3
        moved(policy, 0.5, seed=version)
    assert checked(asked, policy, groups).largest > 0.01
    give_back(server, renderer)


class Named(NoSync):
    """An adapter that is at the server already."""

    def __init__(self, model):
        super().__init__()
        self.model = model


def test_what_lies_on_the_tower_is_left_out_without_a_word(server, groups, tmp_path):
    """Why ``sync: adapter`` refuses it: without ``--enable-tower-connector-lora`` the server takes the adapter, and the
    answers are those of the language part alone."""
    policy, renderer = loaded(server.model, parts=PartsSpec(language="lora", projector="frozen", vision="lora"))
    with pytest.raises(RecipeError, match="leave out what lies on tower"):
        AdapterSync(policy, tmp_path)
    moved(policy, 1.0, only="language_model")
    named = engine(server, policy, renderer, Named("towered"))
    body = {"lora_name": "towered", "lora_path": str(tmp_path / "towered")}
    save_adapter(policy.model, "default", tmp_path / "towered")
    server.post("/v1/load_lora_adapter", body)
    assert checked(named, policy, groups).largest < 1e-3
    server.post("/v1/unload_lora_adapter", {"lora_name": "towered"})
    moved(policy, 1.0, only="vis")
    save_adapter(policy.model, "default", tmp_path / "towered")
    named = engine(server, policy, renderer, Named("towered2"))
    server.post("/v1/load_lora_adapter", body | {"lora_name": "towered2"})
    assert checked(named, policy, groups).largest > 0.01
    server.post("/v1/unload_lora_adapter", {"lora_name": "towered2"})


def test_a_transfer_that_breaks_off_is_made_again(server, groups, monkeypatch):
    """In the middle of the weights, with the server paused and half loaded."""
    policy, renderer = loaded(server.model)
    policy.requires_grad_(True)
    asked = engine(server, policy, renderer, WeightSync(policy, seconds=20), patience=60)
    asked.update(0)
    moved(policy, 0.3)
    send, broken = Group.send, []

    def breaks(self, tensors):
        if broken:
            return send(self, tensors)
        broken.append(True)
        send(self, itertools.islice(tensors, 5))
        raise RuntimeError("the line is cut")

    monkeypatch.setattr(Group, "send", breaks)
    asked.update(1)
    assert broken and checked(asked, policy, groups).largest < 1e-3
    give_back(server, renderer)


def test_without_a_pause_the_caches_stay(server, groups, monkeypatch):
    """What trap 2 is; the day this fails, the pause is not needed."""
    policy, renderer = loaded(server.model)
    policy.requires_grad_(True)
    asked = engine(server, policy, renderer, WeightSync(policy, seconds=60))
    asked.update(0)
    checked(asked, policy, groups)
    moved(policy, 0.5)
    link = asked.servers.all[0]
    monkeypatch.setattr(
        link, "post", lambda path, body=None: None if "/pause" in path else type(link).post(link, path, body)
    )
    asked.update(1)
    assert checked(asked, policy, groups).largest > 0.05
    monkeypatch.undo()
    asked.update(2)
    assert checked(asked, policy, groups).largest < 1e-3
    give_back(server, renderer)


def test_a_server_of_a_shorter_context_is_refused(server, groups):
    policy, renderer = loaded(server.model)
    asked = engine(server, policy, renderer, NoSync())
    with pytest.raises(EngineError, match="takes 512 tokens"):
        asked.generate(groups, SamplingSpec(n=1, max_new_tokens=3000), seed=0)


def test_other_pictures_than_the_trainers_are_refused(server, tmp_path):
    """The server cuts pictures otherwise: the trainer's processor was told another size."""
    policy, renderer = loaded(server.model)
    if "qwen" not in policy.config.model_type:
        pytest.skip("every picture of LLaVA takes the same tokens")
    renderer.processor.image_processor.size = {"shortest_edge": 64, "longest_edge": 256}
    asked = engine(server, policy, renderer, NoSync())
    groups = prompts(tmp_path, size=(64, 64))
    with pytest.raises(EngineError, match="tokens of pictures"):
        asked.generate(groups, SAMPLING, seed=0)
    found = checked(asked, policy, groups)
    with pytest.raises(VerificationError, match="other tokens"):
        found.refuse(0.015)


def test_a_killed_server_loses_nothing(server, groups, tmp_path):
    """It is killed while a round runs, and comes back without the adapter: the round goes on as if nothing was."""
    policy, renderer = loaded(server.model, lora=True)
    moved(policy, 0.5)
    asked = engine(server, policy, renderer, AdapterSync(policy, tmp_path / "adapters"), patience=400)
    asked.update(3)
    killed = []

    def kill(done, count):
        if not killed:
            killed.append(time.monotonic())
            server.stop()
            server.start(wait=False)

    answered = asked.generate(groups, replace(SAMPLING, batch_size=1), seed=7, on_progress=kill)
    assert killed and time.monotonic() - killed[0] > 5
    assert [[r.weight_versions[0] for r in group.responses] for group in answered] == [[3] * 4] * 4
    batch = score_batch(policy, [renderer.render(group) for group in answered], "rows")
    torch.testing.assert_close(batch.rollout_logprobs, batch.old_logprobs, atol=1e-3, rtol=0)


def test_weights_that_are_read_again_end_a_server_at_its_next_cached_picture(server, groups):
    """Trap 3: its workers forget the features of pictures, and its scheduler counts on them: the engine dies at the
    next question about a picture that it has seen. What was asked is answered when the server is there again."""
    policy, renderer = loaded(server.model)
    asked = engine(server, policy, renderer, NoSync(), patience=400)
    greedy = SamplingSpec(n=1, temperature=0, max_new_tokens=8)
    asked.generate(groups, greedy, seed=0)
    server.post("/collective_rpc", {"method": "reload_weights"})
    others = [other_question(group) for group in groups]
    with ThreadPoolExecutor(1) as pool:
        answering = pool.submit(asked.generate, others, greedy, seed=0)
        assert server.ended(within=120)
        server.start(wait=False)
        answered = answering.result()
    here = HFEngine(policy, renderer).generate(others, greedy, seed=0)
    assert [g.responses[0].tokens for g in answered] == [g.responses[0].tokens for g in here]


def other_question(group):
    """About the same picture: nothing behind it is in the prefix cache."""
    content = [{"type": "image"}, {"type": "text", "text": "how many objects can you see? what are they like?"}]
    prompt = replace(group.prompts[0], id=f"other-{group.id}", messages=({"role": "user", "content": content},))
    return replace(group, prompts=(prompt,))


@pytest.mark.parametrize("sync", ["adapter", "weights"])
def test_a_whole_run_samples_on_it(server, tmp_path, sync):
    base = train_runs.online(server.model, tmp_path, "train_runs:CountsE", schedule="constant", warmup=0)
    spec = EngineSpec(name="vllm", urls=(server.url,), sync=sync, timeout=120, patience=5)
    if sync == "adapter":
        parts = PartsSpec(language="lora", projector="frozen")
        base = replace(base, model=ModelSpec(path=str(server.model), parts=parts, lora=LoraSpec(rank=4)))
        base = replace(base, reference="adapter")
    done = train(replace(base, online=replace(base.online, engine=spec)), quiet=True)
    answered = [r for group in read_groups(done.run_dir / "samples.jsonl") for r in group.responses]
    assert done.steps == 6 and {r.weight_versions[0] for r in answered} == {0, 2, 4}
    assert all(r.finish_reason in ("stop", "length") and r.policy_version == r.weight_versions[-1] for r in answered)
    if sync == "weights":
        give_back(server, loaded(server.model)[1])


def test_the_check_finds_another_model(server, groups):
    policy, renderer = loaded(server.model)
    policy.requires_grad_(True)
    moved(policy, 1.0)
    with pytest.raises(VerificationError, match="disagree"):
        checked(engine(server, policy, renderer, NoSync()), policy, groups).refuse(0.015)


def test_weights_of_four_bits_need_a_cpu_that_has_them(tmp_path):
    """Trap 6: with AVX512 they are served (in bfloat16), and the check says how far they are from the trainer's;
    without it the server does not start."""
    model = save_packed(save_served("llava", tmp_path / "model"), tmp_path / "packed")
    able = "avx512f" in Path("/proc/cpuinfo").read_text()
    told = contextlib.nullcontext() if able else pytest.raises(RuntimeError, match="the server ended")
    with told, serving(model, tmp_path, dtype="bfloat16") as server:
        policy, renderer = loaded(tmp_path / "model")
        found = checked(engine(server, policy, renderer, NoSync()), policy, prompts(tmp_path))
        assert 1e-2 < found.largest < 1 and found.answers == 8


def test_the_recorded_answers_are_those_of_this_version(server):
    from engines.fake_vllm import RECORDED

    asked = server.url
    import urllib.request

    with urllib.request.urlopen(f"{asked}/version") as reply:
        assert json.loads(reply.read()) == RECORDED["version"]["body"]

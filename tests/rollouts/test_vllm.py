"""The client of vLLM against a stand-in that answers as a real server did; ``tests/engines`` meets a real one."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from engines.fake_vllm import FakeServer
from engines.models import loaded, moved, prompts
from sightline.errors import EngineError, RecipeError, VerificationError
from sightline.models.load import load_policy
from sightline.models.named_adapters import add_adapter
from sightline.models.serving import served_weights
from sightline.recipes.engine import EngineSpec
from sightline.recipes.schema import ModelSpec, PartsSpec, SamplingSpec
from sightline.rollouts.check import check_engine
from sightline.rollouts.hf import HFEngine
from sightline.rollouts.vllm import VLLMEngine
from sightline.rollouts.vllm_sync import AdapterSync, NoSync, WeightSync
from sightline.train.engine import score_batch
from tiny_models import save_tiny

SAMPLING = SamplingSpec(n=2, temperature=0.8, max_new_tokens=6, batch_size=2)


@pytest.fixture(scope="module", params=("llava", "qwen2_5_vl"))
def model(request, tmp_path_factory):
    return save_tiny(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    return save_tiny("llava", tmp_path_factory.mktemp("llava"))


@pytest.fixture
def servers():
    running = []

    def start(folder, count=1):
        running.extend(FakeServer(folder) for _ in range(count))
        return running

    yield start
    for one in running:
        one.stop()


def engine(policy, renderer, sync, running, **fields):
    urls = tuple(one.url for one in running)
    return VLLMEngine(
        policy, renderer, EngineSpec(name="vllm", urls=urls, **{"timeout": 20, "patience": 1} | fields), sync
    )


def checked(asked, policy, groups, layout="rows"):
    return check_engine(
        asked, asked.renderer, groups, SAMPLING, name="vllm", score=lambda some: score_batch(policy, some, layout)
    )


def tokens(groups):
    return [[response.tokens for response in group.responses] for group in groups]


def test_greedy_answers_are_those_of_transformers(model, servers, tmp_path):
    policy, renderer = loaded(model)
    groups, greedy = prompts(tmp_path), SamplingSpec(n=2, temperature=0, max_new_tokens=6)
    theirs = engine(policy, renderer, NoSync(), servers(model)).generate(groups, greedy, seed=0)
    ours = HFEngine(policy, renderer).generate(groups, greedy, seed=0)
    assert tokens(theirs) == tokens(ours)
    for one, other in zip(theirs, ours, strict=True):
        assert one == replace(other, responses=one.responses)
        for mine, yours in zip(one.responses, other.responses, strict=True):
            assert replace(mine, rollout_logprobs=None, weight_versions=None) == replace(yours, rollout_logprobs=None)
            assert mine.rollout_logprobs == pytest.approx(yours.rollout_logprobs, abs=1e-4)


def test_order_batches_and_servers_change_no_answer(llava, servers, tmp_path):
    policy, renderer = loaded(llava)
    groups, running = prompts(tmp_path), servers(llava, 2)
    first = engine(policy, renderer, NoSync(), running).generate(groups, SAMPLING, seed=3)
    asked = engine(policy, renderer, NoSync(), running[:1])
    again = asked.generate(groups[::-1], replace(SAMPLING, batch_size=1), seed=3)[::-1]
    assert tokens(first) == tokens(again) and len({t for row in tokens(first) for t in row}) == 8
    assert tokens(asked.generate(groups, SAMPLING, seed=4)) != tokens(first)
    assert all(one.calls.count("/inference/v1/generate") >= 2 for one in running)  # the work was shared


def test_adapters_get_new_names_and_are_followed(model, servers, tmp_path):
    policy, renderer = loaded(model, lora=True)
    groups, running = prompts(tmp_path, 2), servers(model)
    asked = engine(policy, renderer, AdapterSync(policy, tmp_path / "adapters"), running)
    names = set()
    for version in range(3):
        asked.update(version)
        found = checked(asked, policy, groups)
        assert found.largest < 1e-3 and found.answers == 8 and found.k3 < 1e-6
        names |= set(running[0].adapters)
        moved(policy, 5.0, seed=version)
    assert len(names) == 3 and len(running[0].adapters) == AdapterSync.KEPT
    assert len(list((tmp_path / "adapters").iterdir())) == AdapterSync.KEPT
    (answered, _) = asked.generate(groups, SAMPLING, seed=0)
    assert {v for r in answered.responses for v in r.weight_versions} == {2}
    found = checked(asked, policy, groups)  # the policy moved, and nobody told the server
    with pytest.raises(VerificationError, match="Engine and trainer disagree about the answers"):
        found.refuse(found.k3 / 2)
    assert found.largest > 0.02


@pytest.mark.parametrize("parts", [None, PartsSpec(language="lora", projector="full")])
def test_all_weights_are_followed(model, servers, tmp_path, parts):
    policy, renderer = loaded(model, parts=parts)
    policy.requires_grad_(True) if parts is None else None
    groups, running = prompts(tmp_path, 2), servers(model)
    asked = engine(policy, renderer, WeightSync(policy, seconds=20), running)
    for version in range(3):
        asked.update(version)
        assert checked(asked, policy, groups).largest < 1e-3
        moved(policy, 1.0, seed=version)
    assert checked(asked, policy, groups).largest > 0.01
    order = [
        call
        for call in running[0].calls
        if call not in ("/inference/v1/generate", "/weight_info", "/get_world_size", "/v1/models")
    ]
    transfer = ["/pause", "/start_weight_update", "/update_weights", "/finish_weight_update", "/resume"]
    assert order == ["/init_weight_transfer_engine", *transfer * 3]


@pytest.mark.parametrize("sync", ["adapter", "weights"])
def test_a_server_that_was_started_again_gets_the_policy_again(llava, servers, tmp_path, sync):
    policy, renderer = loaded(llava, lora=sync == "adapter")
    policy.requires_grad_(True) if sync == "weights" else None
    moved(policy, 1.0)
    groups, running = prompts(tmp_path), servers(llava)
    own = AdapterSync(policy, tmp_path / "adapters") if sync == "adapter" else WeightSync(policy, seconds=20)
    asked = engine(policy, renderer, own, running, patience=20)
    asked.update(1)
    whole = asked.generate(groups, SAMPLING, seed=5)

    def restart(done, count):
        if done == 1:
            running[0].stop()
            threading.Timer(0.7, running[0].start).start()

    again = asked.generate(groups, replace(SAMPLING, batch_size=1), seed=5, on_progress=restart)
    assert tokens(again) == tokens(whole)


def test_a_dead_server_leaves_its_work_to_the_others(llava, servers, tmp_path, caplog):
    policy, renderer = loaded(llava)
    groups, running = prompts(tmp_path), servers(llava, 2)
    asked = engine(policy, renderer, NoSync(), running)
    whole = asked.generate(groups, SAMPLING, seed=5)
    running[0].stop()
    assert tokens(asked.generate(groups, SAMPLING, seed=5)) == tokens(whole)
    assert caplog.text.count("the other 1 do its work") == 1


def test_without_a_server_the_run_ends_after_its_patience(llava, servers, tmp_path):
    policy, renderer = loaded(llava)
    running = servers(llava)
    asked = engine(policy, renderer, NoSync(), running, patience=0.5)
    running[0].stop()
    began = time.monotonic()
    with pytest.raises(EngineError, match=r"no engine answered for 0\.5 s .*refused.*goes on from the last checkpoint"):
        asked.generate(prompts(tmp_path), SAMPLING, seed=5)
    assert 0.5 < time.monotonic() - began < 60


def test_a_server_that_hangs_is_left_alone(llava, servers, tmp_path):
    policy, renderer = loaded(llava)
    groups, running = prompts(tmp_path, 2), servers(llava, 2)
    whole = engine(policy, renderer, NoSync(), running).generate(groups, SAMPLING, seed=5)
    asked = engine(policy, renderer, NoSync(), running, timeout=1.5, patience=60)
    running[1].broken = "hangs"
    assert tokens(asked.generate(groups, SAMPLING, seed=5)) == tokens(whole)


def test_a_server_that_fails_is_asked_again_and_not_for_ever(llava, servers, tmp_path):
    policy, renderer = loaded(llava)
    groups, running = prompts(tmp_path, 1), servers(llava)
    asked = engine(policy, renderer, NoSync(), running)
    whole = asked.generate(groups, SAMPLING, seed=5)
    running[0].broken = "fails"
    running[0].mends_after = 2
    patient = engine(policy, renderer, NoSync(), running, patience=60)
    assert tokens(patient.generate(groups, SAMPLING, seed=5)) == tokens(whole)
    running[0].broken = "fails"
    with pytest.raises(EngineError, match=r"no engine answered for 1 s .*answered 500"):
        asked.generate(groups, SAMPLING, seed=5)


def test_a_prompt_read_otherwise_is_refused(llava, servers, tmp_path):
    policy, renderer = loaded(llava)
    groups, running = prompts(tmp_path), servers(llava)
    asked = engine(policy, renderer, NoSync(), running)
    running[0].broken = "pads"
    with pytest.raises(
        EngineError, match=r"p\d: the engine reads the prompt as 17 tokens of pictures, and the trainer's 16"
    ):
        asked.generate(groups, SAMPLING, seed=5)
    found = checked(asked, policy, groups)
    assert found.answers == 0 and "trainer 64, engine 68" in "\n".join(found.lines())
    with pytest.raises(VerificationError, match="in other tokens"):
        found.refuse(0.015)


def test_a_server_of_a_shorter_context_is_refused(llava, servers, tmp_path):
    policy, renderer = loaded(llava)
    asked = engine(policy, renderer, NoSync(), servers(llava))
    with pytest.raises(EngineError, match=r"takes 512 tokens, .* has 10\d\d\. Start it with a larger --max-model-len"):
        asked.generate(prompts(tmp_path), replace(SAMPLING, max_new_tokens=1000), seed=0)


def test_an_answer_with_a_placeholder_is_an_error(llava, servers, tmp_path):
    policy, renderer = loaded(llava)
    running = servers(llava)
    running[0].broken = "placeholders"
    (answered,) = engine(policy, renderer, NoSync(), running).generate(prompts(tmp_path, 1), SAMPLING, seed=5)
    assert [(r.finish_reason, r.tokens) for r in answered.responses] == [("error", None)] * 2


def test_an_adapter_that_cannot_be_loaded_ends_the_run(llava, servers, tmp_path):
    policy, renderer = loaded(llava, lora=True)
    sync = AdapterSync(policy, tmp_path / "adapters")
    asked = engine(policy, renderer, sync, servers(llava))
    sync.publish(0)
    for folder in (tmp_path / "adapters").iterdir():
        folder.rename(tmp_path / "away")  # the server's machine does not see the folder
    with pytest.raises(EngineError, match="No adapter found"):
        asked.generate(prompts(tmp_path), SAMPLING, seed=0)


def test_what_servers_cannot_be_given_is_refused(llava, tmp_path):
    whole, _ = loaded(llava)
    with pytest.raises(RecipeError, match="it has none"):
        AdapterSync(whole, tmp_path)
    dora, _ = loaded(llava, lora=True, dora=True)
    with pytest.raises(RecipeError, match="without DoRA"):
        AdapterSync(dora, tmp_path)
    mixed, _ = loaded(llava, parts=PartsSpec(language="lora", projector="full"))
    with pytest.raises(RecipeError, match=r"multi_modal_projector is trained whole"):
        AdapterSync(mixed, tmp_path)
    tower, _ = loaded(llava, parts=PartsSpec(language="lora", projector="frozen", vision="lora"))
    with pytest.raises(RecipeError, match=r"it lies on model\.vision_tower.*leave out what lies on tower"):
        AdapterSync(tower, tmp_path)
    quantised = load_policy(
        ModelSpec(path=str(llava), quantization="nf4", parts=PartsSpec(language="lora", projector="frozen"))
    )
    with pytest.raises(RecipeError, match="its weights are quantised"):
        WeightSync(quantised, seconds=1)


def test_an_adapter_on_a_tied_weight_is_not_merged(llava, tmp_path):
    """It would change the other place as well, or be left out."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(llava)
    model.config.get_text_config().tie_word_embeddings = model.config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(tmp_path / "tied")
    AutoProcessor.from_pretrained(llava).save_pretrained(tmp_path / "tied")
    get_peft_model(model, LoraConfig(r=2, target_modules=["lm_head"])).save_pretrained(tmp_path / "head")
    spec = ModelSpec(path=str(tmp_path / "tied"), layout="rows")
    WeightSync(load_policy(spec), seconds=1)
    with pytest.raises(RecipeError, match=r"lies on lm_head\.weight, which the model ties"):
        WeightSync(load_policy(replace(spec, adapter=str(tmp_path / "head"), parts=None)), seconds=1)


def test_text_alone_needs_no_picture(llava, servers, tmp_path):
    policy, renderer = loaded(llava)
    (group, *_) = prompts(tmp_path)
    text = {"role": "user", "content": [{"type": "text", "text": "how many objects can you see?"}]}
    bare = replace(group, prompts=(replace(group.prompts[0], messages=(text,), images=()),))
    asked = engine(policy, renderer, NoSync(), servers(llava))
    found = checked(asked, policy, [bare])
    assert found.largest < 1e-5 and found.readings[0].pictures == ((), ())


def test_float32_weights_go_as_they_are(llava):
    policy, _ = loaded(llava)
    served = {one.name: one.whole() for one in served_weights(policy)}
    assert "model.vision_tower.vision_model.embeddings.position_embedding.weight" in served
    assert "model.multi_modal_projector.linear_1.weight" in served and "lm_head.weight" in served
    assert [id(one) for one in served.values()] == [id(one) for one in policy.base.parameters()]
    assert all(value.dtype == torch.float32 for value in served.values())


MERGED = [
    (PartsSpec(language="lora", projector="full", vision="full"), {}),
    (PartsSpec(language="lora", projector="lora", vision="lora"), {"rslora": True}),
    (PartsSpec(language="full", projector="lora"), {}),
    (PartsSpec(language="lora", projector="frozen"), {"dora": True}),
]


@pytest.mark.parametrize(("parts", "options"), MERGED)
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_an_adapter_is_merged_into_what_is_sent(family, parts, options, tmp_path):
    """The names are those of the model without an adapter, and its weights give the policy's log-probabilities; the
    policy stays as it is."""
    policy, renderer = loaded(save_tiny(family, tmp_path / "model"), parts=parts, **options)
    add_adapter(policy.model, "value", "default", trained=True)  # a critic's, which is nobody's weight
    moved(policy, 1.0)
    plain, _ = loaded(tmp_path / "model")
    names = {one.name: own for own, one in zip(dict(plain.base.named_parameters()), served_weights(plain), strict=True)}
    groups = HFEngine(policy, renderer).generate(prompts(tmp_path, 2), SAMPLING, seed=0)
    rendered = [renderer.render(group) for group in groups]
    before = score_batch(policy, rendered, "rows").old_logprobs
    own = dict(plain.base.named_parameters())
    served = served_weights(policy)
    assert sorted(one.name for one in served) == sorted(names)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):  # as a run in bf16 samples
        for one in served:
            whole = one.whole()
            assert (whole.shape, whole.dtype) == (one.stored.shape, one.stored.dtype)
            own[names[one.name]].copy_(whole)
    torch.testing.assert_close(score_batch(plain, rendered, "rows").old_logprobs, before, atol=1e-4, rtol=0)
    assert torch.equal(score_batch(policy, rendered, "rows").old_logprobs, before)


@pytest.mark.parametrize("sync", ["adapter", "weights"])
def test_two_ranks_ask_for_the_same_policy(llava, servers, tmp_path, sync):
    """The main process writes or sends it, once; both sample from it."""
    groups, running = prompts(tmp_path, 2), servers(llava)
    barrier, box = threading.Barrier(2), [None, None]

    class Ranks:
        def __init__(self, rank):
            self.rank = rank

        def gather_objects(self, value):
            box[self.rank] = value
            barrier.wait(timeout=20)
            gathered = list(box)
            barrier.wait(timeout=20)
            return gathered

    def same():
        torch.manual_seed(0)  # adapters start from random numbers
        policy, renderer = loaded(llava, lora=sync == "adapter")
        moved(policy, 1.0)
        return policy, renderer

    copies = [same(), same()]

    def of_rank(rank):
        (policy, renderer), own = copies[rank], Ranks(rank)
        link = (
            AdapterSync(policy, tmp_path / "adapters", own)
            if sync == "adapter"
            else WeightSync(policy, own, seconds=20)
        )
        asked = engine(policy, renderer, link, running)
        for version in range(2):
            asked.update(version)
            assert checked(asked, policy, groups).largest < 1e-3
            moved(policy, 1.0)
        return asked.generate(groups, SAMPLING, seed=1)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(of_rank, (0, 1))
    assert tokens(first) == tokens(second)
    assert running[0].calls.count("/update_weights") == (2 if sync == "weights" else 0)
    assert running[0].calls.count("/v1/load_lora_adapter") >= (2 if sync == "adapter" else 0)

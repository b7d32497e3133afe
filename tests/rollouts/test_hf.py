"""The rollout engine against the model's own generation, the scorer, and itself in other batches."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sightline.errors import DataError
from sightline.models.layout import lay_out
from sightline.models.load import load_policy
from sightline.recipes.schema import LoraSpec, ModelSpec, PartsSpec, SamplingSpec
from sightline.rollouts.hf import HFEngine, end_ids, placeholder_ids
from sightline.types import Group, Prompt, Response
from tiny_models import FAMILIES

NEW = 12
EVERY_FAMILY = pytest.mark.parametrize("family", FAMILIES)


def sharp_policy(folder, **options):
    """A random model whose answers depend on all they see: larger weights than at initialisation."""
    torch.manual_seed(0)
    policy = load_policy(ModelSpec(path=str(folder), **options))
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
        elif parameter.dim() == 2 and "lora" not in name:
            parameter.data.mul_(20 if "lm_head" in name else 5)
    return policy


def lift(policy, token, by):
    """Makes a token likelier everywhere, without a bias: the final norm's output gets a constant part."""
    head = policy.base.get_output_embeddings()
    head.register_forward_hook(
        lambda module, inputs, output: output.index_add(
            -1, torch.tensor([token]), output.new_full((*output.shape[:-1], 1), by)
        )
    )


def prompt_group(name, text, images):
    parts = [{"type": "image"} for _ in images] + [{"type": "text", "text": text}]
    return Group(prompts=(Prompt(id=name, messages=({"role": "user", "content": parts},), images=tuple(images)),))


@pytest.fixture
def groups(pictures):
    a, b, c = pictures[:3]
    return [
        prompt_group("describe", "describe the image", [a]),
        prompt_group("circle", "is there a red circle?", [b]),
        prompt_group("count", "how many objects can you see in it?", [a]),
        prompt_group("hello", "hello", []),
        prompt_group("two", "what is this", [c, a]),
    ]


def answers(groups):
    return {group.id: [response.tokens for response in group.responses] for group in groups}


def own_generation(engine, group, **options):
    """What the model's own ``generate`` makes of the prompt, greedily."""
    policy = engine.policy
    rendered = engine.renderer.render(group)
    (prompt,) = rendered.prompts
    ids = torch.tensor([prompt.tokens])
    placeholders = torch.zeros_like(ids, dtype=torch.bool)
    placeholders[0, list(prompt.placeholders)] = True
    pixels = policy.family.join([rendered.images[index].tensors for index in prompt.images])
    extra = policy.family.row_inputs(placeholders, placeholders, pixels)
    output = policy.base.eval().generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, **pixels, **extra, **options
    )
    return tuple(output[0, ids.shape[1] :].tolist())


@EVERY_FAMILY
def test_greedy_answers_equal_the_models_own_generation(tiny, groups, family):
    engine = HFEngine(sharp_policy(tiny[family]))
    found = answers(engine.generate(groups, SamplingSpec(temperature=0, max_new_tokens=NEW), seed=0))
    barred = placeholder_ids(engine.policy)
    for group in groups:
        expected = own_generation(engine, group, max_new_tokens=NEW, suppress_tokens=barred)
        assert found[group.id] == [expected]
    assert len({tokens[0] for tokens in found.values()}) >= 4  # the prompts do matter


@EVERY_FAMILY
@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.5])
def test_reported_log_probabilities_are_those_the_policy_scores(tiny, groups, family, temperature):
    policy = sharp_policy(tiny[family])
    engine = HFEngine(policy)
    sampling = SamplingSpec(n=3, temperature=temperature, top_p=0.9, max_new_tokens=NEW)
    sampled = engine.generate(groups, sampling, seed=1)
    batch = lay_out([engine.renderer.render(group) for group in sampled], "rows", policy.family, policy.config)
    with torch.no_grad():
        scored = policy(batch).logprobs
    torch.testing.assert_close(batch.rollout_logprobs, scored, atol=1e-4, rtol=0)
    assert batch.target.tolist() == [token for group in sampled for r in group.responses for token in r.tokens]


@EVERY_FAMILY
def test_answers_depend_neither_on_batch_nor_on_order(tiny, groups, family):
    policy = sharp_policy(tiny[family])
    lift(policy, policy.processor.tokenizer.eos_token_id, 6.5)
    engine = HFEngine(policy)
    sampling = SamplingSpec(n=4, max_new_tokens=NEW, batch_size=8)
    together = engine.generate(groups, sampling, seed=3)
    lengths = {len(response.tokens) for group in together for response in group.responses}
    assert len(lengths) > 3  # answers end at different steps, so the batch is compacted on the way
    alone = [engine.generate([group], sampling, seed=3)[0] for group in groups]
    in_pairs = engine.generate(groups[::-1], replace(sampling, batch_size=2), seed=3)[::-1]
    assert answers(together) == answers(alone) == answers(in_pairs)
    for one, other in zip(together, alone, strict=True):
        for a, b in zip(one.responses, other.responses, strict=True):
            assert a.rollout_logprobs == pytest.approx(b.rollout_logprobs, abs=1e-4)


def test_groups_come_back_in_order_with_their_prompts_and_without_old_responses(tiny, groups):
    engine = HFEngine(sharp_policy(tiny["llava"]))
    asked = [replace(group, responses=(Response(text="old"),)) for group in groups]
    sampled = engine.generate(asked, SamplingSpec(n=2, max_new_tokens=2), seed=0)
    assert [group.prompts for group in sampled] == [group.prompts for group in groups]
    assert all(len(group.responses) == 2 and "old" not in {r.text for r in group.responses} for group in sampled)


def test_seed_and_number_choose_the_answer_and_the_count_does_not(tiny, groups):
    engine = HFEngine(sharp_policy(tiny["llava"]))
    four = answers(engine.generate(groups, SamplingSpec(n=4, max_new_tokens=NEW), seed=0))
    two = answers(engine.generate(groups, SamplingSpec(n=2, max_new_tokens=NEW), seed=0))
    other = answers(engine.generate(groups, SamplingSpec(n=2, max_new_tokens=NEW), seed=1))
    assert {name: tokens[:2] for name, tokens in four.items()} == two
    assert all(len(set(tokens)) == 4 for tokens in four.values())
    assert all(two[name][0] != other[name][0] for name in two)


@EVERY_FAMILY
def test_placeholders_are_never_sampled_however_likely(tiny, groups, family):
    policy = sharp_policy(tiny[family])
    barred = placeholder_ids(policy)
    for token in barred:
        lift(policy, token, 1e4)
    engine = HFEngine(policy)
    for temperature in (0.0, 1.0):
        sampled = engine.generate(groups, SamplingSpec(n=2, temperature=temperature, max_new_tokens=4), seed=0)
        assert not {token for group in sampled for r in group.responses for token in r.tokens} & set(barred)
        # full softmax: nearly all of the mass is on what cannot be sampled
        assert max(value for group in sampled for r in group.responses for value in r.rollout_logprobs) < -5e3


def test_placeholders_are_named_by_the_config(tiny):
    policy = load_policy(ModelSpec(path=str(tiny["qwen2_5_vl"])))
    names = policy.processor.tokenizer.convert_ids_to_tokens(placeholder_ids(policy))
    assert set(names) == {"<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"}


def test_an_answer_that_ends_keeps_its_end_and_says_stop(tiny, groups):
    policy = sharp_policy(tiny["llava"])
    eos = policy.processor.tokenizer.eos_token_id
    lift(policy, eos, 6.5)
    sampled = HFEngine(policy).generate(groups, SamplingSpec(n=8, max_new_tokens=NEW), seed=0)
    reasons = set()
    for response in (response for group in sampled for response in group.responses):
        reasons.add(response.finish_reason)
        assert eos not in response.tokens[:-1]
        assert len(response.tokens) == len(response.rollout_logprobs) <= NEW
        assert response.finish_reason == ("stop" if response.tokens[-1] == eos else "length")
        assert response.finish_reason == "stop" or len(response.tokens) == NEW
        assert "</s>" not in response.text
        assert response.text == policy.processor.tokenizer.decode([t for t in response.tokens if t > 3]).strip()
    assert reasons == {"stop", "length"}


def test_every_end_of_the_generation_config_ends(tiny, groups):
    policy = sharp_policy(tiny["llava"])
    policy.base.generation_config.eos_token_id = [7, 2]
    assert end_ids(policy) == [2, 7]
    lift(policy, 7, 1e3)
    (response,) = HFEngine(policy).generate(groups[:1], SamplingSpec(max_new_tokens=NEW), seed=0)[0].responses
    assert response.tokens == (7,) and response.finish_reason == "stop"


def test_the_id_of_the_prompt_chooses_the_answer_too(tiny, pictures):
    engine = HFEngine(sharp_policy(tiny["llava"]))
    one, other = (prompt_group(name, "describe the image", pictures[:1]) for name in ("one", "other"))
    found = answers(engine.generate([one, other], SamplingSpec(max_new_tokens=NEW), seed=0))
    assert found["one"] != found["other"]


def test_greedy_answers_to_one_prompt_are_equal(tiny, groups):
    engine = HFEngine(sharp_policy(tiny["llava"]))
    (group,) = engine.generate(groups[:1], SamplingSpec(n=3, temperature=0, max_new_tokens=4), seed=0)
    assert len(group.responses) == 3 and len({response.tokens for response in group.responses}) == 1


def test_first_tokens_follow_the_distribution_of_the_policy(tiny, groups):
    policy = sharp_policy(tiny["llava"])
    engine = HFEngine(policy)
    size = 4000
    (group,) = engine.generate(groups[:1], SamplingSpec(n=size, temperature=0.8, max_new_tokens=1), seed=0)
    counts = torch.bincount(torch.tensor([r.tokens[0] for r in group.responses]), minlength=600)
    # log-probabilities at temperature 1 of the seen tokens give those at 0.8, up to one constant
    logprobs = {response.tokens[0]: response.rollout_logprobs[0] for response in group.responses}
    often = [token for token in logprobs if counts[token] >= 100]
    tempered = torch.tensor([logprobs[token] for token in often]).div(0.8).exp()
    expected = tempered / tempered.sum() * counts[often].sum()
    chi_square = float(((counts[often] - expected) ** 2 / expected).sum())
    assert len(often) >= 5 and chi_square < len(often) + 4 * (2 * len(often)) ** 0.5


def test_top_k_limits_what_is_sampled(tiny, groups):
    policy = sharp_policy(tiny["llava"])
    engine = HFEngine(policy)
    (all_of_it,) = engine.generate(groups[:1], SamplingSpec(n=500, max_new_tokens=1), seed=0)
    (limited,) = engine.generate(groups[:1], SamplingSpec(n=500, top_k=3, max_new_tokens=1), seed=0)
    logprobs = {r.tokens[0]: r.rollout_logprobs[0] for r in all_of_it.responses}
    best = sorted(logprobs, key=logprobs.__getitem__)[-3:]
    assert {r.tokens[0] for r in limited.responses} == set(best)


@EVERY_FAMILY
def test_each_picture_is_encoded_once_and_equal_beginnings_are_computed_once(tiny, pictures, family, monkeypatch):
    policy = sharp_policy(tiny[family])
    engine = HFEngine(policy)
    asked = [  # what is drawn follows from the name, so it names no folder
        prompt_group(f"{number}-{question}", question, [picture])
        for question in ("describe the image", "describe the picture", "is there a star?")
        for number, picture in enumerate(pictures[:2])
    ]
    encoded, widths = [], []
    image_features = policy.image_features
    monkeypatch.setattr(
        policy, "image_features", lambda batch: encoded.append(batch.image_tokens) or image_features(batch)
    )
    policy.language.register_forward_pre_hook(
        lambda module, args, kwargs: widths.append(tuple(kwargs["inputs_embeds"].shape[:2])), with_kwargs=True
    )
    engine.generate(asked, SamplingSpec(n=2, max_new_tokens=3, batch_size=6), seed=0)
    assert [len(tokens) for tokens in encoded] == [2]
    prompts = [engine.renderer.render(group).prompts[0].tokens for group in asked]
    assert widths[0][0] == 1 and widths[0][1] < sum(map(len, prompts)) - 4 * min(encoded[0])
    assert widths[1:] == [(12, 1)] * 2


def test_an_answer_depends_on_its_picture(tiny, pictures):
    engine = HFEngine(sharp_policy(tiny["llava"]))
    one, other = (prompt_group("same", "describe the image", [picture]) for picture in pictures[:2])
    sampling = SamplingSpec(temperature=0, max_new_tokens=NEW)
    assert answers(engine.generate([one], sampling, seed=0)) != answers(engine.generate([other], sampling, seed=0))


@pytest.mark.parametrize(
    "options",
    [
        {"parts": PartsSpec(language="lora", projector="full", vision="lora"), "lora": LoraSpec(rank=4, dropout=0.5)},
        {"parts": PartsSpec(language="full", projector="lora", vision="frozen"), "lora": LoraSpec(rank=4)},
        {"gradient_checkpointing": True},
        {"attention": "dense"},
    ],
    ids=["lora", "whole decoder beside an adapter", "gradient checkpointing", "dense"],
)
def test_samples_from_the_policy_as_it_is_trained(tiny, groups, options):
    policy = sharp_policy(tiny["llava"], **options)
    engine = HFEngine(policy)
    sampled = engine.generate(groups, SamplingSpec(n=2, max_new_tokens=NEW), seed=0)
    batch = lay_out([engine.renderer.render(group) for group in sampled], "tree", policy.family, policy.config)
    with torch.no_grad():
        scored = policy.eval()(batch).logprobs
    torch.testing.assert_close(batch.rollout_logprobs, scored, atol=1e-4, rtol=0)


def test_leaves_the_policy_as_it_was_and_trainable(tiny, groups):
    policy = sharp_policy(tiny["llava"])
    policy.train()
    policy.base.model.vision_tower.eval()
    modes = [module.training for module in policy.modules()]
    implementation = policy.language.config._attn_implementation
    engine = HFEngine(policy)
    sampled = engine.generate(groups, SamplingSpec(n=2, max_new_tokens=NEW), seed=0)
    assert [module.training for module in policy.modules()] == modes
    assert policy.language.config._attn_implementation == implementation
    batch = lay_out([engine.renderer.render(group) for group in sampled], "tree", policy.family, policy.config)
    policy(batch).logprobs.sum().backward()
    gradients = [parameter.grad for parameter in policy.parameters() if parameter.requires_grad]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    assert sum(float(gradient.norm()) for gradient in gradients) > 1.0


def test_nothing_that_sampling_leaves_behind_stops_training(tiny):
    # A prompt of a length of its own and an answer of one token: the same attention shapes in both.
    policy = sharp_policy(tiny["llava"])
    engine = HFEngine(policy)
    group = prompt_group("long", "how many? " * 61, [])
    (sampled,) = engine.generate([group], SamplingSpec(max_new_tokens=1), seed=0)
    batch = lay_out([engine.renderer.render(sampled)], "tree", policy.family, policy.config)
    policy(batch).logprobs.sum().backward()
    assert policy.base.get_output_embeddings().weight.grad.norm() > 0


def test_is_restored_after_an_error_too(tiny, groups):
    policy = sharp_policy(tiny["llava"])
    policy.train()
    implementation = policy.language.config._attn_implementation
    broken = prompt_group("broken", "describe", ["missing.png"])
    with pytest.raises(DataError, match=r"missing\.png"):
        HFEngine(policy).generate([*groups, broken], SamplingSpec(max_new_tokens=2), seed=0)
    assert policy.training and policy.language.config._attn_implementation == implementation
    assert torch.is_grad_enabled()


def test_dropout_is_off(tiny, groups):
    policy = sharp_policy(tiny["llava"], parts=PartsSpec(language="lora"), lora=LoraSpec(rank=4, dropout=0.9))
    policy.train()
    engine = HFEngine(policy)
    sampling = SamplingSpec(temperature=0, max_new_tokens=NEW)
    assert answers(engine.generate(groups, sampling, seed=0)) == answers(engine.generate(groups, sampling, seed=0))


def test_bfloat16_stays_near_its_scores(tiny, groups):
    torch.manual_seed(0)
    policy = load_policy(ModelSpec(path=str(tiny["llava"]), dtype="bfloat16"))
    engine = HFEngine(policy)
    sampled = engine.generate(groups, SamplingSpec(n=2, max_new_tokens=NEW), seed=0)
    batch = lay_out([engine.renderer.render(group) for group in sampled], "tree", policy.family, policy.config)
    with torch.no_grad():
        scored = policy(batch).logprobs
    torch.testing.assert_close(batch.rollout_logprobs, scored, atol=0.02, rtol=0)


def test_long_answers_outgrow_the_first_buffers(tiny, groups):
    engine = HFEngine(sharp_policy(tiny["llava"]))
    (found,) = answers(engine.generate(groups[:1], SamplingSpec(temperature=0, max_new_tokens=100), seed=0))["describe"]
    barred = placeholder_ids(engine.policy)
    assert found == own_generation(engine, groups[0], max_new_tokens=100, suppress_tokens=barred)
    assert len(found) > 64


def test_progress_is_reported_after_every_batch(tiny, groups):
    calls = []
    sampling = SamplingSpec(max_new_tokens=1, batch_size=2)
    engine = HFEngine(sharp_policy(tiny["llava"]))
    engine.generate(groups, sampling, seed=0, on_progress=lambda done, total: calls.append((done, total)))
    assert calls == [(2, 5), (4, 5), (5, 5)]


def test_no_groups_give_no_groups(tiny):
    assert HFEngine(sharp_policy(tiny["llava"])).generate([], SamplingSpec(), seed=0) == []


def test_a_group_of_several_prompts_is_refused(tiny, groups):
    both = replace(groups[0], prompts=groups[0].prompts + groups[1].prompts, source="rows.jsonl:3")
    with pytest.raises(DataError, match=r"rows\.jsonl:3.*2 prompts"):
        HFEngine(sharp_policy(tiny["llava"])).generate([both], SamplingSpec(), seed=0)


def test_a_prompt_without_room_for_its_answer_is_refused(tiny, groups):
    with pytest.raises(DataError, match=r"'describe' has \d+ tokens.*4096.*max_new_tokens"):
        HFEngine(sharp_policy(tiny["llava"])).generate(groups[:1], SamplingSpec(max_new_tokens=4090), seed=0)

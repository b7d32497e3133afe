"""Every family: what transformers' own processor and model say is what Sightline trains and samples with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from groups import corner_groups, user
from PIL import Image
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText, PaliGemmaProcessor

from sightline.data.render import Renderer
from sightline.models.family import family_of
from sightline.models.layout import lay_out
from sightline.models.load import load_policy
from sightline.models.policy import Policy
from sightline.recipes.schema import LoraSpec, ModelSpec, PartsSpec, SamplingSpec
from sightline.rendered import RenderedGroup
from sightline.rollouts import refill
from sightline.rollouts.hf import HFEngine, placeholder_ids
from sightline.types import Batch, Group, Prompt, Response
from tiny_families import BUILDERS

FORMS = ("gather", "segments", "dense")
"""Of attention; the first does not cap scores."""
FULL = PartsSpec(language="full", projector="full", vision="full")
LORA = PartsSpec(language="lora", projector="full", vision="lora")
TEXT_KEYS = {"input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids"}
DECAYS = ("A_log", "dt_bias", "in_proj_a.")
"""Gradients of these are differences of numbers a thousand times as large, which transformers takes in float32;
``test_recurrence`` takes them in float64."""
PER_ROW = {"batch_num_images", "cross_attention_mask"}
"""Processor outputs that say how pictures stand in a row: ``Family.row_inputs`` makes them."""
Folders = Callable[[str], Path]
each_family = pytest.mark.parametrize("model_type", BUILDERS)


def policy_of(path: Path, *, heads: frozenset[str] = frozenset({"logprobs"}), **options: object) -> Policy:
    torch.manual_seed(0)
    layouts = family_of(AutoConfig.from_pretrained(path)).layouts
    layout = "tree" if "tree" in layouts else "rows"
    policy = load_policy(ModelSpec(path=str(path), layout=layout, **options), heads=heads)  # type: ignore[arg-type]
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:  # zero at the start: an adapter that changes nothing proves nothing
            torch.nn.init.normal_(parameter, std=0.05)
    return policy


def groups_of(model_type: str, pictures: list[str]) -> list[Group]:
    """Text only, one picture, many, trained history; a family that sees a prompt whole cannot train its history."""
    groups = corner_groups(pictures)
    return groups[:5] + groups[:1] if model_type == "paligemma" else groups


def rendered(policy: Policy, groups: Sequence[Group]) -> list[RenderedGroup]:
    renderer = Renderer(policy.processor, policy.family)
    return [renderer.render(group) for group in groups]


def batch_of(policy: Policy, groups: Sequence[Group], layout: str) -> Batch:
    return lay_out(rendered(policy, groups), layout, policy.family, policy.config)  # type: ignore[arg-type]


def score(policy: Policy, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """Log-probs [N], and gradients of a loss that weighs every token differently."""
    policy.zero_grad(set_to_none=True)
    logprobs = policy(batch).logprobs
    assert logprobs is not None
    (torch.linspace(-1, 2, logprobs.shape[0]) * logprobs).sum().backward()
    return logprobs.detach(), {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}


def sharper(policy: Policy) -> Policy:
    """Likely tokens depend on more of what the policy sees."""
    with torch.no_grad():
        for parameter in policy.language.parameters():
            parameter.mul_(4 if parameter.dim() == 2 else 1)
    return policy.eval()


def questions(pictures: list[str]) -> list[Group]:
    """About a picture, about none, about two."""
    return [
        Group(prompts=(Prompt(id="one", messages=(user(None, "what is this?"),), images=(pictures[0],)),)),
        Group(prompts=(Prompt(id="none", messages=(user("hello"),)),)),
        Group(prompts=(Prompt(id="two", messages=(user(None, "or", None, "?"),), images=(pictures[2], pictures[0])),)),
    ]


def processed(policy: Policy, prompt: Prompt) -> dict[str, Tensor]:
    """What the processor's own call makes of a prompt."""
    processor = policy.processor
    text = processor.apply_chat_template(list(prompt.messages), tokenize=False, add_generation_prompt=True)
    images = [Image.open(path).convert("RGB") for path in prompt.images] or None
    if isinstance(processor, PaliGemmaProcessor):  # takes no text alone, and writes <bos> and the line break itself
        if images is None:
            return dict(processor.tokenizer(text, return_tensors="pt", return_token_type_ids=True))
        text = text.replace("<bos>", "").removesuffix("\n")
    made = dict(processor(text=[text], images=images, return_tensors="pt"))
    made.pop("labels", None)
    return made


def plain_logprobs(model: Any, policy: Policy, group: Group) -> Tensor:
    """Log-probs of each answer by a transformers model, on inputs of the processor: nothing of Sightline's."""
    rows = []
    for response, made in zip(group.responses, rendered(policy, [group])[0].responses, strict=True):
        inputs = processed(policy, group.prompts[response.prompt])
        answer = torch.tensor([made.tokens])
        for key in inputs.keys() & TEXT_KEYS:
            more = {"input_ids": answer, "attention_mask": torch.ones_like(answer)}
            if policy.family.prefix_rule == "full":
                more["token_type_ids"] = torch.ones_like(answer)
            inputs[key] = torch.cat([inputs[key], more.get(key, torch.zeros_like(answer))], dim=1)
        if (seen := inputs.get("cross_attention_mask")) is not None:
            inputs["cross_attention_mask"] = torch.cat([seen, *[seen[:, -1:]] * answer.shape[1]], dim=1)
        logits = model(**inputs).logits[0, -answer.shape[1] - 1 : -1].float()
        rows.append(torch.log_softmax(logits, -1).gather(1, answer[0, :, None])[:, 0])
    return torch.cat(rows)


@each_family
def test_prompts_and_log_probs_are_those_of_transformers(
    folder_of: Folders, pictures: list[str], model_type: str
) -> None:
    policy = policy_of(folder_of(model_type)).eval()
    groups = groups_of(model_type, pictures)[:5]
    for group in groups:
        (own,) = rendered(policy, [group])
        for prompt, made in zip(group.prompts, own.prompts, strict=True):
            expected = processed(policy, prompt)
            assert expected.pop("input_ids")[0].tolist() == list(made.tokens)
            assert set(expected) - TEXT_KEYS - PER_ROW == (set(policy.family.image_keys) if prompt.images else set())
            joined = policy.family.join([own.images[index].tensors for index in made.images])
            assert all(torch.equal(value.reshape(expected[key].shape), expected[key]) for key, value in joined.items())
    with torch.no_grad():
        model = AutoModelForImageTextToText.from_pretrained(folder_of(model_type))
        expected = torch.cat([plain_logprobs(model, policy, group) for group in groups])
        assert (policy(batch_of(policy, groups, "rows")).logprobs - expected).abs().max() < 1e-5
        assert expected.std() > 0.05


@pytest.mark.parametrize("parts", [FULL, LORA], ids=["full", "lora"])
@each_family
def test_layouts_agree(folder_of: Folders, pictures: list[str], model_type: str, parts: PartsSpec) -> None:
    """Whole models in trees of every form of attention; adapters, and ``packed``, which is a tree without branches, in
    the forms in turn: each form meets them in a third of the families."""
    policy = policy_of(folder_of(model_type), parts=parts, lora=LoraSpec(rank=4)).train()
    if "gemma4" in model_type:  # its tower's gradients are so small that in float32 rounding shows
        policy.double()
    groups = groups_of(model_type, pictures)
    logprobs, grads = score(policy, batch_of(policy, groups, "rows"))
    assert {policy.part_of(name.removeprefix("model.")) for name in grads} == {"language", "projector", "vision"}
    assert grads.keys() == {name for name, p in policy.named_parameters() if p.requires_grad}
    forms = FORMS[model_type == "paligemma" :]
    turn = (list(BUILDERS).index(model_type) + (parts is LORA)) % len(forms)
    for layout in sorted(policy.family.layouts - {"rows"}):
        for attention in forms if parts is FULL and layout == "tree" else forms[turn : turn + 1]:
            policy.attention = attention  # type: ignore[assignment]
            own, own_grads = score(policy, batch_of(policy, groups, layout))
            assert (own - logprobs).abs().max() < 1e-5, (layout, attention)
            assert own_grads.keys() == grads.keys()
            for name in grads:
                if not name.endswith("k_proj.bias"):  # zero by theory: softmax does not see it
                    most = 1e-3 if any(part in name for part in DECAYS) else 1e-5
                    assert (own_grads[name] - grads[name]).norm() <= most * grads[name].norm(), (layout, name)


@each_family
def test_a_log_prob_depends_on_its_picture_and_on_nothing_else(
    folder_of: Folders, pictures: list[str], model_type: str
) -> None:
    policy = policy_of(folder_of(model_type)).eval()
    groups = groups_of(model_type, pictures)
    for layout in sorted(policy.family.layouts):
        with torch.no_grad():
            alone = [policy(batch_of(policy, [group], layout)).logprobs for group in groups]
            together = policy(batch_of(policy, [groups[index] for index in (5, 3, 1, 4)], layout)).logprobs
            assert torch.allclose(together, torch.cat([alone[index] for index in (5, 3, 1, 4)]), atol=5e-6), layout
        batch = batch_of(policy, [groups[3]], layout)  # one answer under two pictures and under none
        true, other, none = (alone[3][batch.response == index] for index in range(3))
        assert (true - other).abs().max() > 1e-3
        assert (true - none).abs().max() > 1e-3


@each_family
def test_the_vision_tower_runs_once_for_all_pictures(folder_of: Folders, pictures: list[str], model_type: str) -> None:
    policy = policy_of(folder_of(model_type))
    for layout in sorted(policy.family.layouts - {"rows"}):
        batch = batch_of(policy, groups_of(model_type, pictures), layout)
        assert len(batch.image_tokens) == 3
        calls: list[int] = []
        tower = policy.base.get_submodule(policy.family.vision[0].rstrip("."))
        with tower.register_forward_hook(lambda *_, calls=calls: calls.append(1)):
            policy(batch)
        assert len(calls) == 1


@each_family
def test_greedy_answers_are_those_of_generate(folder_of: Folders, pictures: list[str], model_type: str) -> None:
    policy = sharper(policy_of(folder_of(model_type)))
    engine = HFEngine(policy)
    groups = questions(pictures)
    sampled = engine.generate(groups, SamplingSpec(temperature=0, max_new_tokens=8), seed=0)
    barred = placeholder_ids(policy)
    for group, answered in zip(groups, sampled, strict=True):
        inputs = processed(policy, group.prompts[0])
        output = policy.base.generate(**inputs, do_sample=False, max_new_tokens=8, suppress_tokens=barred)
        (response,) = answered.responses
        assert response.tokens == tuple(output[0, inputs["input_ids"].shape[1] :].tolist()), group.id
    assert len({answered.responses[0].tokens for answered in sampled}) >= 2  # the prompts do matter


@each_family
def test_sampled_log_probs_are_those_the_policy_scores(
    folder_of: Folders, pictures: list[str], model_type: str
) -> None:
    policy = sharper(policy_of(folder_of(model_type)))
    engine = HFEngine(policy)
    sampled = engine.generate(questions(pictures), SamplingSpec(n=3, max_new_tokens=5), seed=0)
    batch = batch_of(policy, sampled, "rows")
    with torch.no_grad():
        torch.testing.assert_close(batch.rollout_logprobs, policy(batch).logprobs, atol=1e-4, rtol=0)


@each_family
def test_answers_depend_neither_on_batch_nor_on_when_others_end_or_join(
    folder_of: Folders, pictures: list[str], model_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = sharper(policy_of(folder_of(model_type)))
    end = torch.tensor([policy.processor.tokenizer.eos_token_id])
    policy.base.get_output_embeddings().register_forward_hook(
        lambda module, inputs, output: output.index_add(-1, end, output.new_full((*output.shape[:-1], 1), 6.0))
    )
    engine, sampling = HFEngine(policy), SamplingSpec(n=4, max_new_tokens=8)
    asked = [
        replace(group, prompts=(replace(group.prompts[0], id=f"{group.prompts[0].id} {time}"),))
        for time in range(3)
        for group in questions(pictures)
    ]
    together = engine.generate(asked, sampling, seed=1)
    assert len({len(response.tokens) for group in together for response in group.responses}) > 2  # some leave early
    joined: list[int] = []
    start = refill.admitted
    monkeypatch.setattr(refill, "admitted", lambda *args: joined.append(args[2] * start(*args)) or start(*args))
    refilled = engine.generate(asked, replace(sampling, n=1, batch_size=2), seed=1)
    assert any(joined)  # some join others that are not finished
    for group, whole, part in zip(asked, together, refilled, strict=True):
        (alone,) = engine.generate([group], sampling, seed=1)
        expected = (*alone.responses, alone.responses[0])
        for response, other in zip(expected, (*whole.responses, *part.responses), strict=True):
            assert other.tokens == response.tokens
            assert other.rollout_logprobs == pytest.approx(response.rollout_logprobs, abs=1e-5)


@pytest.mark.parametrize("parts", [FULL, LORA], ids=["full", "lora"])
@each_family
def test_saved_and_loaded_gives_the_same_numbers(
    folder_of: Folders, pictures: list[str], tmp_path: Path, model_type: str, parts: PartsSpec
) -> None:
    path = folder_of(model_type)
    policy = policy_of(path, parts=parts, lora=LoraSpec(rank=4)).eval()
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn_like(parameter))
    policy.save(tmp_path)
    spec = {"path": str(path), "adapter": str(tmp_path)} if parts is LORA else {"path": str(tmp_path)}
    again = load_policy(ModelSpec(layout="rows", **spec), trainable=False)
    groups = groups_of(model_type, pictures)
    with torch.no_grad():
        expected = policy(batch_of(policy, groups, "rows")).logprobs
        assert torch.equal(again(batch_of(again, groups, "rows")).logprobs, expected)


@each_family
def test_length_from_the_size_of_a_picture_is_the_length_rendered(
    folder_of: Folders, tmp_path: Path, model_type: str
) -> None:
    policy = policy_of(folder_of(model_type))
    renderer = Renderer(policy.processor, policy.family)
    for size in [(31, 17), (64, 64), (150, 40), (40, 150), (33, 95), (128, 96)]:
        path = tmp_path / f"{size}.png"
        Image.new("RGB", size, (9, 99, 199)).save(path)
        group = Group(
            prompts=(Prompt(id="0", messages=(user("a", None, "what?", None),), images=(str(path),) * 2),),
            responses=(Response(text="a longer answer"),),
        )
        made = renderer.render(group)
        assert renderer.num_tokens(group) == len(made.prompts[0].tokens) + len(made.responses[0].tokens), size

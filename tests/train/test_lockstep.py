"""A picture for company touches what a real one touches, and changes nothing."""

from dataclasses import dataclass

import pytest
import torch
import train_runs

from sightline.data.render import Renderer
from sightline.errors import UnsupportedError
from sightline.models.layout import lay_out
from sightline.models.load import load_policy
from sightline.models.policy import Policy
from sightline.recipes.schema import ModelSpec, PartsSpec
from sightline.train.lockstep import Lockstep
from sightline.train.sharding import shard


@dataclass
class Two:
    """This rank, and another one that says what it has."""

    other: list[bool]
    sharded: bool = True

    def gather_objects(self, value):
        return [value, self.other]


@pytest.fixture(params=["llava", "llava_next", "qwen2_5_vl"])
def policy(request, tiny):
    return load_policy(ModelSpec(path=str(tiny[request.param]), parts=PartsSpec(vision="full"))).eval()


def batches(policy, tmp_path, layout):
    """One with a picture, one without."""
    renderer = Renderer(policy.processor, policy.family)
    pictures = train_runs.draw(tmp_path / "pictures")
    groups = [renderer.render(train_runs.group(index, pictures, 2)) for index in (0, 2)]
    assert [len(group.images) for group in groups] == [1, 0]
    return renderer, [lay_out([group], layout, policy.family, policy.config) for group in groups]


def scored(policy, batch):
    """Log-probabilities, and the gradients of their sum."""
    policy.zero_grad(set_to_none=True)
    logprobs = policy(batch).logprobs
    logprobs.sum().backward()
    return logprobs, {n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("layout", ["rows", "packed", "tree"])
def test_company_touches_what_a_picture_touches_and_changes_nothing(policy, tmp_path, layout):
    renderer, (shown, bare) = batches(policy, tmp_path, layout)
    lockstep = Lockstep.of(Two(other=[False, True]), renderer)
    same, company = lockstep.align([shown, bare])
    assert same is shown
    assert company.vision.keys() == shown.vision.keys()
    _, touched = scored(policy, shown)
    expected, alone = scored(policy, bare)
    found, gradients = scored(policy, company)
    assert torch.equal(found, expected)
    assert gradients.keys() == touched.keys() > alone.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, alone.get(name, torch.zeros_like(gradient)), rtol=0, atol=0)


@pytest.mark.parametrize("layout", ["rows", "tree"])
def test_the_decoder_waits_for_a_gradient_although_it_is_frozen(tiny, tmp_path, layout):
    """With only the projector trained, what enters the decoder has a gradient on every rank or on none: layers are
    reduced in an order that depends on it."""
    parts = PartsSpec(language="frozen", projector="full")
    policy = load_policy(ModelSpec(path=str(tiny["llava"]), parts=parts))
    renderer, (_, bare) = batches(policy, tmp_path, layout)
    entered = []
    policy.layers()[-1].register_forward_pre_hook(lambda module, inputs: entered.append(inputs[0].requires_grad))
    lockstep = Lockstep.of(Two(other=[True]), renderer)
    for batch in (bare, *lockstep.align([bare])):
        policy(batch)
    assert entered == [False, True]


def test_a_pass_without_any_picture_and_whole_parameters_need_no_company(tiny, tmp_path):
    policy = load_policy(ModelSpec(path=str(tiny["llava"])))
    renderer, (_, bare) = batches(policy, tmp_path, "tree")
    for ranks in (Two(other=[False]), Two(other=[True], sharded=False)):
        (same,) = Lockstep.of(ranks, renderer).align([bare])
        assert same is bare


def test_layers_are_found_in_decoder_and_tower_with_adapters_around_them(tiny):
    for family, count in (("llava", 4), ("llava_next", 4), ("qwen2_5_vl", 4)):
        parts = PartsSpec(language="lora", projector="full")
        for spec in (PartsSpec(), parts):
            layers = load_policy(ModelSpec(path=str(tiny[family]), parts=spec)).layers()
            assert len(layers) == count
            assert {type(layer).__name__ for layer in layers} <= {
                "LlamaDecoderLayer",
                "CLIPEncoderLayer",
                "Qwen2_5_VLDecoderLayer",
                "Qwen2_5_VLVisionBlock",
            }


def test_a_model_without_layers_is_refused(tiny, monkeypatch):
    policy = load_policy(ModelSpec(path=str(tiny["llava"])))
    monkeypatch.setattr(Policy, "layers", lambda self: [])
    with pytest.raises(UnsupportedError, match="marks no layers"):
        shard(policy, None)

"""QLoRA: the decoder in 4 or 8 bits trains exactly as its dequantised twin would, in every layout, whatever was
evaluated, sampled or referred to before, and what is trained is an adapter of the plain model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from groups import corner_groups
from torch import Tensor, nn
from transformers import AutoConfig, GptOssConfig, LlavaNextConfig, MixtralConfig

from sightline.data.render import Renderer
from sightline.errors import MissingExtra, RecipeError, UnsupportedError
from sightline.models import quantized
from sightline.models.family import base_name, family_of
from sightline.models.layout import lay_out
from sightline.models.load import load_policy
from sightline.models.policy import Policy
from sightline.models.quantized import check_quantization
from sightline.recipes.schema import LoraSpec, ModelSpec, PartsSpec, SamplingSpec
from sightline.rollouts.hf import HFEngine
from sightline.train.sharding import shard
from sightline.types import Batch, LayoutName
from tiny_families import BUILDERS, save_family
from tiny_models import FAMILIES, save_tiny

bnb = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed (extra: quantize)")

LORA = LoraSpec(rank=2)
PARTS = PartsSpec(language="lora", projector="full", vision="frozen")


def spec_of(path: Path, kind: str = "nf4", **options: object) -> ModelSpec:
    base: dict[str, object] = {"path": str(path), "quantization": kind, "parts": PARTS, "lora": LORA}
    return ModelSpec(**(base | options))  # type: ignore[arg-type]


def batch_of(policy: Policy, pictures: list[str], layout: LayoutName = "tree") -> Batch:
    renderer = Renderer(policy.processor, policy.family)
    groups = corner_groups(pictures)
    if policy.family.prefix_rule == "full":  # which cannot train history
        groups = groups[:5]
    return lay_out([renderer.render(one) for one in groups], layout, policy.family, policy.config).to(policy.device)


def stirred(policy: Policy) -> Policy:
    """Adapters as after some training: B is 0 in a new one, and A gets no gradient."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return policy


def dequantised(policy: Policy) -> Policy:
    """The same policy with plain weights: what the quantised ones stand for."""
    twin = policy.reference_copy()
    for (name, own), (_, other) in zip(twin.named_parameters(), policy.named_parameters(), strict=True):
        own.requires_grad_(other.requires_grad)
        assert own.data_ptr() != other.data_ptr(), name
    for module in list(twin.modules()):
        for leaf, layer in list(module.named_children()):
            if isinstance(layer, bnb.nn.Linear4bit | bnb.nn.Linear8bitLt):
                setattr(module, leaf, plain(layer))
    assert all(parameter.is_floating_point() for parameter in twin.parameters())
    return twin


def plain(layer: nn.Module) -> nn.Linear:
    made = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device=layer.weight.device)
    if isinstance(layer, bnb.nn.Linear4bit):
        weight = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    else:
        scale = layer.state.SCB if layer.weight.SCB is None else layer.weight.SCB
        weight = layer.weight.data.float() * scale[:, None] / 127
    with torch.no_grad():
        made.weight.copy_(weight)
        if layer.bias is not None:
            made.bias.copy_(layer.bias)
    return made.requires_grad_(False)


def gradients(policy: Policy, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    policy.zero_grad(set_to_none=True)
    logprobs = policy(batch).logprobs
    (logprobs * torch.linspace(-1, 1, logprobs.shape[0], device=logprobs.device)).sum().backward()
    found = {n: p.grad for n, p in policy.model.named_parameters() if p.requires_grad and p.grad is not None}
    return logprobs.detach(), found


def furthest(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Largest relative distance of any tensor, those that are nearly zero aside."""
    assert found.keys() == expected.keys() and found
    return max(float((found[n] - expected[n]).norm() / expected[n].norm()) for n in found if expected[n].norm() > 1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_linear_layers_of_the_decoder_are_quantised_and_nothing_else(tiny: dict[str, Path], family: str) -> None:
    policy = load_policy(spec_of(tiny[family]))
    low = {n for n, m in policy.base.named_modules() if isinstance(m, bnb.nn.Linear4bit)}
    kept = {n for n, m in policy.base.named_modules() if type(m) is nn.Linear and "lora_" not in n}
    assert len(low) == 2 * 7 and all(name.startswith(f"{policy.family.language}.layers.") for name in low)
    assert "lm_head" in kept and any("visual" in name or "vision" in name for name in kept)
    assert not any(name.startswith(f"{policy.family.language}.") for name in kept)
    whole = [name for name, p in policy.model.named_parameters() if not p.is_floating_point()]
    assert {policy.part_of(name) for name in whole} == {"language"} and len(whole) == len(low)
    trained = {policy.part_of(name) for name, p in policy.model.named_parameters() if p.requires_grad}
    assert trained == {"language", "projector"}


def test_experts_that_would_stay_large_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="its experts are no linear layers and would stay as large"):
        load_policy(spec_of(save_family("qwen3_5_moe", tmp_path)))
    for text in (MixtralConfig(), GptOssConfig()):  # they count them by another name
        with pytest.raises(RecipeError, match="its experts are no linear layers"):
            check_quantization(ModelSpec(path="x", quantization="nf4"), LlavaNextConfig(text_config=text))


@pytest.mark.parametrize("model_type", [name for name in BUILDERS if name != "qwen3_5_moe"])
def test_gradients_are_those_of_the_dequantised_model(model_type: str, pictures: list[str], tmp_path: Path) -> None:
    """Of every family, with both kinds of scales."""
    path = save_family(model_type, tmp_path)
    layout = "tree" if "tree" in family_of(AutoConfig.from_pretrained(path)).layouts else "rows"
    for double in (True, False) if model_type == "llava" else (True,):
        policy = stirred(load_policy(spec_of(path, double_quant=double, layout=layout)))
        batch = batch_of(policy, pictures, layout)
        logprobs, found = gradients(policy, batch)
        expected, oracle = gradients(dequantised(policy), batch)
        assert torch.allclose(logprobs, expected, atol=1e-5)
        assert furthest(found, oracle) < 1e-4
        low = {base_name(n) for n, p in policy.model.named_parameters() if not p.is_floating_point()}
        adapted = {base_name(name).split(".lora_")[0] for name in found if ".lora_" in name}
        assert adapted <= {name.removesuffix(".base_layer.weight") for name in low} and len(adapted) > 8


def test_int8_gradients_are_near_those_of_the_dequantised_model(tiny: dict[str, Path], pictures: list[str]) -> None:
    policy = stirred(load_policy(spec_of(tiny["llava"], "int8")))
    batch = batch_of(policy, pictures)
    logprobs, found = gradients(policy, batch)
    expected, oracle = gradients(dequantised(policy), batch)
    assert 0 < float((logprobs - expected).abs().max()) < 0.05  # inputs of products are rounded to 8 bits as well
    assert furthest(found, oracle) < 0.2


@pytest.mark.parametrize("family", FAMILIES)
def test_layouts_agree_on_a_quantised_model(tiny: dict[str, Path], pictures: list[str], family: str) -> None:
    policy = stirred(load_policy(spec_of(tiny[family])))
    rows, expected = gradients(policy, batch_of(policy, pictures, "rows"))
    for layout in ("packed", "tree"):
        found, own = gradients(policy, batch_of(policy, pictures, layout))  # type: ignore[arg-type]
        assert torch.allclose(found, rows, atol=5e-6), layout
        assert furthest(own, expected) < 1e-4


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_training_after_evaluation_sampling_and_reference_has_the_same_gradients(
    tmp_path_factory: pytest.TempPathFactory, pictures: list[str], kind: str
) -> None:
    model = save_tiny("llava", tmp_path_factory.mktemp("wide"), hidden=64)  # sizes that the layout for inference takes
    policy = stirred(load_policy(spec_of(model, kind)))
    batch = batch_of(policy, pictures)
    policy.train()
    _, before = gradients(policy, batch)
    policy.eval()
    with torch.no_grad():
        policy(batch)
    HFEngine(policy, Renderer(policy.processor, policy.family)).generate(
        [replace(corner_groups(pictures)[0], responses=(), edges=())], SamplingSpec(n=2, max_new_tokens=3), seed=0
    )
    policy(batch, reference=True)
    policy.train()
    _, after = gradients(policy, batch)
    assert furthest(after, before) < 1e-6
    assert all(float(value.norm()) > 0 for name, value in before.items() if "lora_" in name)


def test_whoever_loaded_4_bit_layers_they_keep_their_gradients(tiny: dict[str, Path]) -> None:
    layer = bnb.nn.Linear4bit(64, 64, quant_type="nf4", compute_dtype=torch.float32).to("cpu")
    layer.support_avx512bf16_for_cpu = True
    quantized.keep_gradients(nn.Sequential(layer))
    layer.eval()
    with torch.no_grad():
        layer(torch.randn(2, 64))
    inputs = torch.randn(2, 64, requires_grad=True)
    layer.train()(inputs).sum().backward()
    assert float(inputs.grad.norm()) > 0


def test_the_reference_is_the_quantised_base(tiny: dict[str, Path], pictures: list[str]) -> None:
    policy = load_policy(spec_of(tiny["llava"]))
    policy.keep_reference()
    batch = batch_of(policy, pictures)
    with torch.no_grad():
        start = policy(batch).logprobs
        copy = policy.reference_copy()
        stirred(policy)
        assert torch.equal(policy(batch, reference=True).logprobs, start)
        assert torch.equal(copy(batch).logprobs, start)
        assert not torch.allclose(policy(batch).logprobs, start, atol=1e-3)


def test_an_adapter_trained_on_quantised_weights_is_one_of_the_plain_model(
    tiny: dict[str, Path], pictures: list[str], tmp_path: Path
) -> None:
    policy = stirred(load_policy(spec_of(tiny["llava"])))
    policy.save(tmp_path / "adapter")
    batch = batch_of(policy, pictures)
    again = ModelSpec(path=str(tiny["llava"]), adapter=str(tmp_path / "adapter"))
    low = load_policy(replace(again, quantization="nf4"))
    plain_base = load_policy(again).to(low.device)
    held = policy.trainable_state()
    for other in (plain_base, low):
        assert other.trainable_state().keys() == held.keys()
        assert all(torch.equal(value, held[name]) for name, value in other.trainable_state().items())
    with torch.no_grad():
        assert torch.equal(low(batch).logprobs, policy(batch).logprobs)
        assert 1e-4 < float((plain_base(batch).logprobs - policy(batch).logprobs).abs().max()) < 0.5
    low.keep_reference()
    stirred(low)
    with torch.no_grad():
        assert torch.equal(low(batch, reference=True).logprobs, policy(batch).logprobs)


def test_bfloat16_computes_in_bfloat16_and_trains_in_float32(tiny: dict[str, Path], pictures: list[str]) -> None:
    policy = stirred(load_policy(spec_of(tiny["llava"], dtype="bfloat16", gradient_checkpointing=True)))
    layers = [module for module in policy.modules() if isinstance(module, bnb.nn.Linear4bit)]
    assert {layer.compute_dtype for layer in layers} == {torch.bfloat16}
    assert {p.dtype for p in policy.parameters() if p.requires_grad} == {torch.float32}
    batch = batch_of(policy.train(), pictures)
    logprobs, found = gradients(policy, batch)
    expected, oracle = gradients(dequantised(policy), batch)
    assert float((logprobs - expected).abs().max()) < 0.02
    assert furthest(found, oracle) < 0.1
    mixed = load_policy(spec_of(tiny["llava"], compute_dtype="bfloat16"))
    assert {m.compute_dtype for m in mixed.modules() if isinstance(m, bnb.nn.Linear4bit)} == {torch.bfloat16}


@pytest.mark.parametrize("options", [{"dora": True}, {"rslora": True}, {"dora": True, "rslora": True}])
def test_dora_and_rslora_on_quantised_weights(
    tiny: dict[str, Path], pictures: list[str], options: dict[str, bool]
) -> None:
    policy = stirred(load_policy(spec_of(tiny["llava"], lora=LoraSpec(rank=2, **options))))
    batch = batch_of(policy, pictures)
    rows, expected = gradients(policy, batch_of(policy, pictures, "rows"))
    found, own = gradients(policy, batch)
    assert torch.allclose(found, rows, atol=5e-6) and furthest(own, expected) < 1e-4
    kinds = {name.rsplit(".lora_", 1)[1].split(".")[0] for name in own if ".lora_" in name}
    assert kinds == {"A", "B"} | ({"magnitude_vector"} if "dora" in options else set())


def test_quantised_folders_are_not_quantised_again(tiny: dict[str, Path], tmp_path: Path) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor, BitsAndBytesConfig

    skipped = ["lm_head", "model.vision_tower", "model.multi_modal_projector"]
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", llm_int8_skip_modules=skipped)
    low = AutoModelForImageTextToText.from_pretrained(tiny["llava"], quantization_config=config)
    low.save_pretrained(tmp_path)
    AutoProcessor.from_pretrained(tiny["llava"], backend="pil").save_pretrained(tmp_path)
    with pytest.raises(RecipeError, match="quantised already"):
        load_policy(spec_of(tmp_path))
    policy = load_policy(spec_of(tmp_path, "none"))
    layers = [module for module in policy.modules() if isinstance(module, bnb.nn.Linear4bit)]
    assert layers and not any(layer.support_avx512bf16_for_cpu for layer in layers)
    with pytest.raises(UnsupportedError, match="quantised weights are not spread"):
        shard(policy, None)  # type: ignore[arg-type]


def test_an_adapter_that_holds_the_decoder_whole_is_refused(tiny: dict[str, Path], tmp_path: Path) -> None:
    parts = PartsSpec(language="full", projector="lora", vision="frozen")
    load_policy(spec_of(tiny["llava"], "none", parts=parts)).save(tmp_path / "whole")
    with pytest.raises(RecipeError, match=r"holds model\.language_model"):
        load_policy(ModelSpec(path=str(tiny["llava"]), adapter=str(tmp_path / "whole"), quantization="nf4"))


def test_quantised_parts_are_not_spread(tiny: dict[str, Path]) -> None:
    with pytest.raises(UnsupportedError, match="quantised weights are not spread"):
        shard(load_policy(spec_of(tiny["llava"])), None)  # type: ignore[arg-type]


def test_bitsandbytes_that_is_not_there_is_named(tiny: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantized, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'sightline\[quantize\]'"):
        load_policy(spec_of(tiny["llava"]))

"""Weights that do not fit the config are an error that names them, for models, adapters and judges."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForImageTextToText, LlamaConfig, LlamaForCausalLM

from sightline.errors import RecipeError
from sightline.models.load import load_policy
from sightline.models.text import load_text_model
from sightline.recipes.schema import LoraSpec, ModelSpec, PartsSpec
from tiny_models import FAMILIES, byte_level_tokenizer, save_tiny

Change = Callable[[dict[str, Tensor]], Mapping[str, Tensor]]
LAST = re.compile(r"vision_tower.*layers\.1\.|post_layernorm")
"""The layer of the tiny towers that nothing reads."""


def copied(folder: Path, target: Path) -> Path:
    return Path(shutil.copytree(folder, target))


def rewrite(folder: Path, change: Change, file: str = "model.safetensors") -> None:
    save_file(dict(change(load_file(folder / file))), folder / file, metadata={"format": "pt"})


def reconfigure(folder: Path, change: Callable[[dict], dict]) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))


def load(folder: Path) -> None:
    load_policy(ModelSpec(path=str(folder)))


def renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """As LLaVA's own code names them."""
    own = {"multi_modal_projector.linear_1": "mm_projector.0", "multi_modal_projector.linear_2": "mm_projector.2"}
    for there, here in own.items():
        tensors = {name.replace(there, here): value for name, value in tensors.items()}
    return tensors


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (renamed, r"4 missing \(model.multi_modal_projector.linear_1.bias, .*4 left over .*mm_projector.*Convert it"),
        (
            lambda tensors: {name: value for name, value in tensors.items() if "layers.0.self_attn.q" not in name},
            r"missing \(model.language_model.layers.N.self_attn.q_proj.weight.*Take files and config",
        ),
        (lambda tensors: tensors | {"score.weight": torch.zeros(2, 32)}, r"1 left over \(score.weight\)"),
        (
            lambda tensors: {n: v[:, :-1].contiguous() if "linear_1.weight" in n else v for n, v in tensors.items()},
            r"1 of another shape \(model.multi_modal_projector.linear_1.weight \[32, 31\] for \[32, 32\]\)",
        ),
        (lambda tensors: {n: v for n, v in tensors.items() if "lm_head" not in n}, r"1 missing \(lm_head.weight\)"),
    ],
    ids=["renamed", "missing", "left over", "shape", "head"],
)
def test_weights_that_do_not_fit_are_named(tiny: dict[str, Path], tmp_path: Path, change: Change, told: str) -> None:
    folder = copied(tiny["llava"], tmp_path / "model")
    rewrite(folder, change)
    with pytest.raises(RecipeError, match=told):
        load(folder)


def with_buffers(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """With buffers that transformers saved once. The names are old ones already: it writes files as it did."""
    assert "language_model.model.embed_tokens.weight" in tensors
    buffers = {
        "vision_tower.vision_model.embeddings.position_ids": torch.arange(17)[None],
        "language_model.model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
    }
    return tensors | buffers


def new_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """As the model itself names them."""
    new = {re.sub(r"^language_model\.model\.", "model.language_model.", name): v for name, v in tensors.items()}
    new = {name.replace("language_model.lm_head", "lm_head"): value for name, value in new.items()}
    return {re.sub(r"^(vision_tower|multi_modal|image_)", r"model.\1", name): value for name, value in new.items()}


@pytest.mark.parametrize("family", ["llava", "llava_next"])
@pytest.mark.parametrize("names", [with_buffers, new_names])
def test_names_and_buffers_of_other_versions_and_layers_that_nothing_reads(
    tiny: dict[str, Path], tmp_path: Path, names: Change, family: str
) -> None:
    folder = copied(tiny[family], tmp_path / "model")
    rewrite(folder, lambda tensors: {n: v for n, v in names(tensors).items() if not LAST.search(n)})
    again = load_policy(ModelSpec(path=str(folder))).base.state_dict()
    plain = AutoModelForImageTextToText.from_pretrained(tiny[family]).state_dict()
    assert all(torch.equal(again[name], value) for name, value in plain.items() if not LAST.search(name))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tied_head_need_not_be_in_the_files(tmp_path: Path, family: str) -> None:
    load(save_tiny(family, tmp_path / "model", tied=True))
    assert not [name for name in load_file(tmp_path / "model" / "model.safetensors") if "lm_head" in name]


@pytest.mark.parametrize(
    ("family", "change", "told"),
    [
        ("llava", lambda c: c | {"text_config": None, "vision_config": None}, "no text_config and no vision_config"),
        (
            "llava_next",
            lambda c: {k: v for k, v in c.items() if k != "vision_config"},
            "no vision_config, so the sizes",
        ),
        (
            "llava",
            lambda c: {"model_type": "llava", "mm_vision_tower": "openai/clip"},
            "layout of LLaVA's own code.*Convert it",
        ),
        ("llava", lambda c: {"model_type": "llava_llama", "mm_hidden_size": 8}, "layout of LLaVA's own code"),
        ("qwen2_5_vl", lambda c: {k: v for k, v in c.items() if k != "text_config"}, "no text_config"),
        ("llava", lambda c: c | {"text_config": {"model_type": "llama"}}, r"a model of 6,\d+,\d+,\d+ parameters, and"),
        ("qwen2_5_vl", lambda c: c | {"text_config": {}, "hidden_size": 64}, "parameters, and its files hold"),
    ],
)
def test_a_config_of_unknown_sizes_is_refused_before_anything_is_built(
    tiny: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, change: Callable, told: str
) -> None:
    folder = copied(tiny[family], tmp_path / "model")
    reconfigure(folder, change)
    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", lambda *_, **__: pytest.fail("built"))
    with pytest.raises(RecipeError, match=told):
        load(folder)


def test_sizes_of_the_text_at_the_top_are_read(tiny: dict[str, Path], tmp_path: Path) -> None:
    """As the first configs of Qwen2.5-VL have them."""
    folder = copied(tiny["qwen2_5_vl"], tmp_path / "model")
    reconfigure(folder, lambda c: {**c.pop("text_config"), **c, "model_type": "qwen2_5_vl"})
    load(folder)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda tensors: {n: v for n, v in tensors.items() if "q_proj.lora_B" not in n},
            r"2 missing \(base_model.model.model.language_model.layers.N.self_attn.q_proj.lora_B.weight\)",
        ),
        (
            lambda tensors: {n: v for n, v in tensors.items() if "linear_2" not in n},
            "linear_2",
        ),
        (
            lambda tensors: {
                n.replace(".language_model.layers", ".language_model.model.layers"): v for n, v in tensors.items()
            },
            r"28 missing .*28 left over \(base_model.model.model.language_model.model.layers",
        ),
        (
            lambda tensors: {n: v[:-1] if "q_proj.lora_B" in n else v for n, v in tensors.items()},
            r"size mismatch for .*q_proj.lora_B",
        ),
    ],
    ids=["lora", "full", "renamed", "shape"],
)
def test_adapters_that_do_not_fit(tiny: dict[str, Path], tmp_path: Path, change: Change, told: str) -> None:
    parts = PartsSpec(language="lora", projector="full")
    load_policy(ModelSpec(path=str(tiny["llava"]), parts=parts, lora=LoraSpec(rank=2))).save(tmp_path)
    rewrite(tmp_path, change, "adapter_model.safetensors")
    with pytest.raises(RecipeError, match=told):
        load_policy(ModelSpec(path=str(tiny["llava"]), adapter=str(tmp_path)), trainable=False)


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model of its own."""
    folder = tmp_path_factory.mktemp("judge")
    config = LlamaConfig(
        vocab_size=300, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    byte_level_tokenizer(["<s>", "</s>"], 300).save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "chat_template": "{{ messages }}"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def test_judges_that_do_not_fit(judge: Path, tmp_path: Path) -> None:
    load_text_model(ModelSpec(path=str(judge)), "cpu")
    folder = copied(judge, tmp_path / "renamed")
    rewrite(folder, lambda tensors: {name.replace("mlp", "ffn"): value for name, value in tensors.items()})
    with pytest.raises(RecipeError, match=r"3 missing \(model.layers.N.mlp.*3 left over \(model.layers.N.ffn"):
        load_text_model(ModelSpec(path=str(folder)), "cpu")
    folder = copied(judge, tmp_path / "large")
    reconfigure(folder, lambda config: config | {"num_hidden_layers": 30})
    with pytest.raises(RecipeError, match="describes a model of"):
        load_text_model(ModelSpec(path=str(folder)), "cpu")

"""Any text model may stand in a LLaVA: one that cannot be computed branch by branch is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from sightline.errors import UnsupportedError
from sightline.models.load import load_policy
from sightline.recipes.schema import ModelSpec

_OPTIONS: dict[str, dict[str, object]] = {
    "falcon_h1": {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8},
    "gpt_oss": {"num_local_experts": 2, "num_experts_per_tok": 1, "head_dim": 8},
    "olmo2": {},
}


def with_language(kind: str, model: Path, folder: Path) -> Path:
    """The tiny LLaVA ``model`` with a text model of another kind."""
    config = AutoConfig.from_pretrained(model)
    own = config.text_config
    sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    kept = {name: getattr(own, name) for name in (*sizes, "num_key_value_heads", "pad_token_id", "eos_token_id")}
    config.text_config = AutoConfig.for_model(kind, **kept, **_OPTIONS.get(kind, {}))
    torch.manual_seed(0)
    AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    for path in model.iterdir():
        if path.name not in {file.name for file in folder.iterdir()}:
            (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("falcon_h1", "read each other"),  # recurrent beside attention: what an answer is sees the one before it
        ("stablelm", "read each other"),  # does not hand on who sees whom: every token sees every other
        ("gpt_oss", "sinks"),  # in no layout
    ],
)
def test_text_models_that_would_be_computed_otherwise_are_refused(
    kind: str, found: str, tiny: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedError, match=found):
        load_policy(ModelSpec(path=str(with_language(kind, tiny["llava"], tmp_path))))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_text_models_that_keep_answers_apart_load(dtype: str, tiny: dict[str, Path], tmp_path: Path) -> None:
    path = with_language("olmo2", tiny["llava"], tmp_path)
    assert load_policy(ModelSpec(path=str(path), dtype=dtype)).config.text_config.model_type == "olmo2"  # type: ignore[arg-type]

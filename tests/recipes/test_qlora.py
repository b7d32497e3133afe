"""The recipe of LLaVA-ORPO from the command line to its end: LLaVA-NeXT on a Mistral decoder in 4 bits with the
projector trained, on RLAIF-V records as the hub has them, with W&B offline where it is installed."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoProcessor, LlavaNextConfig, LlavaNextForConditionalGeneration, MistralConfig

from sightline.models.load import load_policy
from sightline.recipes.schema import ModelSpec

pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed (extra: quantize)")

RECIPE = Path(__file__).parents[2] / "recipes/papers/llava_orpo.yaml"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def model(tiny: dict[str, Path], tmp_path: Path) -> Path:
    """LLaVA-NeXT on Mistral: heads of a size of their own, no sliding window, as llava-v1.6-mistral has it."""
    torch.manual_seed(0)
    config = LlavaNextConfig.from_pretrained(tiny["llava_next"])
    own = {n: v for n, v in config.text_config.to_dict().items() if n in ("vocab_size", "num_hidden_layers")}
    config.text_config = MistralConfig(
        **own,
        hidden_size=32,
        intermediate_size=64,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        sliding_window=None,
        max_position_embeddings=4096,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlavaNextForConditionalGeneration(config).save_pretrained(tmp_path / "model")
    AutoProcessor.from_pretrained(tiny["llava_next"], backend="pil").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def rows(pictures: list[str], tmp_path: Path) -> Path:
    """Columns of openbmb/RLAIF-V-Dataset, pictures embedded; one of them is damaged."""
    records: list[dict[str, Any]] = []
    for index, path in enumerate(pictures):
        stream = io.BytesIO()
        Image.open(path).save(stream, "JPEG")
        records.append(
            {
                "ds_name": "made by hand",
                "image": {"bytes": stream.getvalue() if index != 4 else b"no picture", "path": f"{index}.jpg"},
                "question": "What can you see in the picture?",
                "chosen": f"a red circle, and {index} more",
                "rejected": "two blue stars and a moon",
                "origin_dataset": "drawn",
                "origin_split": json.dumps({"model": "none", "type": "question_answering"}),
                "idx": index,
                "image_path": f"{index}.jpg",
            }
        )
    Dataset.from_list(records).to_parquet(tmp_path / "rlaif-v.parquet")
    return tmp_path / "rlaif-v.parquet"


def test_llava_orpo_from_rows_to_an_adapter(
    run: Run, model: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    tracked = find_spec("wandb") is not None
    folder = tmp_path / "run"
    small = [f"model.path={model}", f"data.train.0.path={rows}", f"output_dir={folder}", "train.batch_size=2"]
    small += ["train.max_steps=3", "train.learning_rate=1e-2", "train.warmup=0", "train.save_every=2"]
    small += [] if tracked else ["train.trackers=[]"]
    code, _, err = run("train", RECIPE, *small)
    assert code == 0, err
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2, 3]
    assert all(record["grad_norm"] > 0 for record in records)
    assert all(
        {"nll_loss", "log_odds_ratio", "rewards/accuracies", "logps/chosen"} <= set(record) for record in records
    )
    (bad,) = map(json.loads, (folder / "bad_rows.jsonl").read_text().splitlines())
    assert bad["row"] == 5
    assert bool(list(folder.rglob("*.wandb"))) == tracked

    held = load_file(folder / "model" / "adapter_model.safetensors")
    assert {name for name in held if "vision_tower" in name or "lm_head" in name} == set()
    layers = {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in held if ".lora_" in name}
    assert layers == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    plain = load_file(model / "model.safetensors")
    moved = [n for n in held if "projector.linear_1.weight" in n]
    before = next(value for name, value in plain.items() if name.endswith("projector.linear_1.weight"))
    assert len(moved) == 1 and not torch.allclose(held[moved[0]], before.bfloat16().float())

    adapter = load_policy(ModelSpec(path=str(model), adapter=str(folder / "model")), trainable=False)
    assert adapter.has_adapter
    assert not (folder / "model" / "README.md").exists(), "PEFT's form without anything in it is no model card"

    measured = ("--model", folder, "--data", rows, "--on-bad-row", "skip", "--out", tmp_path / "eval")
    code, out, err = run("eval", "preferences", *measured, "--generate", "1", "--max-tokens", "4")
    assert code == 0 and "accuracy/reference" in out + err, err
    figures = json.loads((tmp_path / "eval" / "preferences" / "results.json").read_text())
    assert figures["results"]["preferences_logprobs"]["accuracy/mean,none"] == 1
    page = (tmp_path / "eval" / "preferences" / "report.html").read_text()
    assert "two blue stars and a moon" in page and "data:image/" in page

    # the adapter is one of the plain model: written at a checkpoint, or merged, it is read without bitsandbytes
    for command, out in ((("export", folder, "--step", 2), tmp_path / "two"), (("merge", folder), tmp_path / "merged")):
        code, _, err = run(*command, "-o", out)
        assert code == 0 and "Verified: reloaded in a fresh process with plain transformers" in err, err
        assert "as it was trained, on weights in nf4, they differ" in (out / "README.md").read_text()
    assert "quantization_config" not in (tmp_path / "merged" / "config.json").read_text()
    code, out, err = run("show", RECIPE)
    assert code == 0 and "quantization: nf4" in out, err

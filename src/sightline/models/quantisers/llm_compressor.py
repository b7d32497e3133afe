"""GPTQ (Frantar et al. 2023, arXiv 2210.17323) and AWQ (Lin et al. 2024, arXiv 2306.00978) by LLM Compressor.

``python llm_compressor.py REQUEST`` reads a JSON request that ``models.compress`` wrote: ``source`` and ``folder``, the
``kind``, names of the linear ``layers`` to quantise, ``calibration`` (safetensors, ``ROW/NAME`` as the model's forward
takes them), ``dtype``, ``group`` size, ``decoder`` (path of the language model) and ``guard`` (a file of ours that
makes torchvision importable). Whatever is not in ``layers`` is left as it is.
"""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

sys.path[:] = [folder for folder in sys.path if folder != str(Path(__file__).parent)]  # its neighbours are no packages


def quantise(asked: dict[str, Any]) -> None:
    """Writes ``folder``."""
    if importlib.util.find_spec("llmcompressor") is None:
        raise SystemExit("LLM Compressor is not installed in this environment: pip install llmcompressor")
    _guard(asked["guard"])
    import torch
    from llmcompressor import oneshot
    from torch.utils.data import DataLoader
    from transformers import AutoModelForImageTextToText, AutoTokenizer

    model = AutoModelForImageTextToText.from_pretrained(
        asked["source"], dtype=getattr(torch, asked["dtype"]), trust_remote_code=False
    )
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    ignored = _others(model, asked["layers"])
    rows: Any = _rows(asked["calibration"])
    oneshot(
        model=model,
        processor=AutoTokenizer.from_pretrained(asked["source"], trust_remote_code=False),  # asked for, and not needed
        dataset=DataLoader(rows, batch_size=None, collate_fn=None),
        recipe=_recipe(asked, ignored),
        num_calibration_samples=len(rows),
        shuffle_calibration_samples=False,
    )
    model.save_pretrained(asked["folder"], save_compressed=True)


def _recipe(asked: dict[str, Any], ignored: list[str]) -> list[Any]:
    """What LLM Compressor does: 4 bits in groups, symmetric. With zero points, which AWQ could have, transformers 5.23
    does not read the folder (they are packed, and it expects them whole)."""
    weights = {
        "num_bits": 4,
        "type": "int",
        "strategy": "group",
        "group_size": asked["group"],
        "symmetric": True,
        "dynamic": False,
    }
    groups = {"decoder": {"targets": ["Linear"], "weights": weights}}
    if asked["kind"] == "gptq":
        from llmcompressor.modifiers.quantization import GPTQModifier

        return [GPTQModifier(config_groups=groups, ignore=ignored)]
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from llmcompressor.modifiers.transform.awq import AWQMapping, AWQModifier

    _do_not_pin()
    inside = f"re:{re.escape(asked['decoder'])}\\..*"  # a tower has layers of the same names
    mappings = [
        AWQMapping(f"{inside}{smooth}$", [f"{inside}{name}$" for name in balanced])
        for smooth, balanced in (
            ("input_layernorm", ("q_proj", "k_proj", "v_proj")),
            ("v_proj", ("o_proj",)),
            ("post_attention_layernorm", ("gate_proj", "up_proj")),
            ("up_proj", ("down_proj",)),
        )
    ]
    return [AWQModifier(mappings=mappings), QuantizationModifier(config_groups=groups, ignore=ignored)]


def _do_not_pin() -> None:
    """Release 0.14 pins what AWQ reads for the way to a GPU, and fails where there is none. This process is its own."""
    import torch
    from llmcompressor.pipelines.cache import IntermediatesCache

    if not torch.accelerator.is_available():
        IntermediatesCache.pin_memory = lambda *_: None


def _others(model: Any, layers: list[str]) -> list[str]:
    """Names of the linear layers that stay."""
    import torch

    there = {name for name, layer in model.named_modules() if isinstance(layer, torch.nn.Linear)}
    if missing := sorted(set(layers) - there):
        raise SystemExit(f"the transformers of this environment names the model's layers otherwise (no {missing[0]})")
    return sorted(there - set(layers))


def _rows(path: str) -> list[dict[str, Any]]:
    """Inputs of the model, row by row."""
    from safetensors.torch import load_file

    rows: dict[int, dict[str, Any]] = defaultdict(dict)
    for name, value in load_file(path).items():
        row, key = name.split("/", 1)
        rows[int(row)][key] = value
    return [rows[row] for row in sorted(rows)]


def _guard(path: str) -> None:
    """transformers imports no model beside a torchvision that does not load."""
    spec = importlib.util.spec_from_file_location("torchvision_guard", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path} is not there")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # what it declares lives as long as it does
    spec.loader.exec_module(module)
    module.ensure_torchvision()


if __name__ == "__main__":
    quantise(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))

"""Folders in few bits: the linear layers of the decoder quantised, all else as it was.

``nf4`` and ``int8`` by bitsandbytes, in this process; ``gptq`` and ``awq`` by LLM Compressor, which learns from rows
with their pictures and runs in an interpreter that has it. Vision tower, projector, embeddings and LM head are left
alone in all of them, norms in all but ``awq``, which moves scales into them.
"""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForImageTextToText, BitsAndBytesConfig

from sightline.errors import MissingExtra, RecipeError, UnsupportedError, VerificationError
from sightline.files import replace_file
from sightline.models import _torchvision
from sightline.models.export import quantised
from sightline.models.family import Family
from sightline.models.quantized import decoder_linears, has_experts
from sightline.models.reload import ProbeRow, inputs_of
from sightline.models.serving import FLAT_TOWERS

Kind = Literal["gptq", "awq", "nf4", "int8"]
CALIBRATED = ("gptq", "awq")
"""Those that learn from rows."""
BITS = {"gptq": "4 bits", "awq": "4 bits", "nf4": "4 bits", "int8": "8 bits"}
_GROUP = 128
"""Most weights that share a scale under GPTQ and AWQ; fewer where that divides no row."""
_LEAST_GROUP = 32
"""What servers read."""
_BLOCK_OF_NF4 = 64
"""Weights that share a scale under bitsandbytes: on CPUs that repack them it cannot run rows of fewer."""
_SCRIPT = Path(__file__).parent / "quantisers" / "llm_compressor.py"
_ASKED = "import importlib.util; print(importlib.util.find_spec('llmcompressor') is not None)"
_BLOCK = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
"""What a decoder layer is made of that AWQ can be laid over: Llama's, Mistral's, Qwen's."""
_LAST = 30
"""Lines of what a quantiser said that an error shows the end of."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What of one model is quantised."""

    kind: Kind
    decoder: str
    """Path of the language model."""
    layers: tuple[str, ...]
    """Linear layers that are quantised."""
    left: tuple[str, ...]
    """Modules that hold no such layer, and hold all other linear layers."""
    group: int
    """Weights that share a scale, of ``gptq`` and ``awq``."""

    @classmethod
    def of(cls, model: Any, family: Family, kind: Kind) -> Plan:
        """
        Args:
            model: in full precision, without adapters.
            family: of the model.
            kind: how it will be quantised.

        Raises:
            UnsupportedError: quantised already, a mixture of experts, or layers that ``gptq`` and ``awq`` cannot take.
        """
        if (found := quantised(model)) is not None:
            raise UnsupportedError(
                f"the model is quantised already ({found}). Export a run on the model in full precision that it was "
                "made from"
            )
        if has_experts(model.config):
            raise UnsupportedError(
                "the model is a mixture of experts: its experts are no linear layers and would stay as large as they "
                "are. Leave --quantize out"
            )
        layers = decoder_linears(model, family)
        if kind == "awq":
            _check_blocks(model.get_submodule(family.language))
        group = math.gcd(_GROUP, *(model.get_submodule(name).in_features for name in layers))
        least = {"nf4": _BLOCK_OF_NF4, "int8": 1}.get(kind, _LEAST_GROUP)
        if group < least:
            others = "int8" if group < _BLOCK_OF_NF4 else "nf4 or int8"
            raise UnsupportedError(
                f"the inputs of the decoder's layers are multiples of {group} alone, and {kind} needs groups of "
                f"{least} weights at least. Take {others}"
            )
        return cls(
            kind=kind, decoder=family.language, layers=tuple(layers), left=tuple(_left(model, layers)), group=group
        )

    @classmethod
    def of_config(cls, config: Any, family: Family, kind: Kind) -> Plan:
        """The same without any weights: what cannot be quantised is known before anything is merged."""
        with torch.device("meta"):
            return cls.of(AutoModelForImageTextToText.from_config(config, trust_remote_code=False), family, kind)

    def patterns(self) -> list[str]:
        """Regular expressions of the names of what is left, by the ends of their paths: every program names the
        modules around them otherwise."""
        return [rf"re:(.*\.)?{re.escape(end)}(\..*)?$" for end in map(self._end, self.left)]

    def skipped(self) -> list[str]:
        """Names of what is left as bitsandbytes configs hold them: transformers compares them with the start of a
        path, and vLLM with single names on it."""
        return list(dict.fromkeys([*self.left, *map(self._end, self.left)]))

    def _end(self, name: str) -> str:
        parts = name.split(".")
        for length in range(1, len(parts) + 1):
            end = ".".join(parts[-length:])
            if not any(f".{end}." in f".{layer}." for layer in self.layers):
                return end
        raise AssertionError(name)


def check_quantiser(kind: Kind, python: Path | None) -> str:
    """The interpreter that will quantise, before anything is loaded.

    Args:
        kind: how.
        python: of an environment with LLM Compressor; None: this one.

    Raises:
        MissingExtra: bitsandbytes, or what reads compressed weights, is not there.
        RecipeError: no LLM Compressor, or an interpreter that nothing needs, cannot be run, or has none.
    """
    if kind not in CALIBRATED:
        if python is not None:
            raise RecipeError(f"--quantizer-python is for {' and '.join(CALIBRATED)}. Leave it out with {kind}")
        if find_spec("bitsandbytes") is None:
            raise MissingExtra("bitsandbytes", "quantize")
        return sys.executable
    if find_spec("compressed_tensors") is None:  # transformers reads the folder with it
        raise MissingExtra("compressed-tensors", "compressed")
    if python is None and find_spec("llmcompressor") is None:
        raise RecipeError(
            f"--quantize {kind} needs LLM Compressor, which is not in this environment and wants another transformers. "
            "Make one for it (python -m venv quantiser; quantiser/bin/pip install llmcompressor) and name its "
            "interpreter: --quantizer-python quantiser/bin/python"
        )
    return sys.executable if python is None else _other_python(python)


def _other_python(python: Path) -> str:
    program = python.absolute()  # not resolved: an environment is found from where its link stands
    try:
        done = subprocess.run([program, "-c", _ASKED], capture_output=True, text=True)
    except OSError as error:
        raise RecipeError(
            f"--quantizer-python {python} cannot be run ({error.strerror}). Give the bin/python of the other "
            "environment"
        ) from None
    if done.stdout.strip() != "True":
        raise RecipeError(
            f"--quantizer-python {python} has no LLM Compressor. Install it there ({python} -m pip install "
            "llmcompressor), or name the interpreter that has it"
        )
    return str(program)


def compress(
    plan: Plan, source: Path, folder: Path, dtype: str, *, rows: Sequence[Mapping[str, Any]], python: str, scratch: Path
) -> None:
    """Writes the quantised model, without its processor.

    Args:
        plan: what is quantised.
        source: folder of the whole model.
        folder: to write to; it is there.
        dtype: of what is not quantised.
        rows: what the model's forward takes of rows to learn from; empty but for ``gptq`` and ``awq``.
        python: interpreter for these two.
        scratch: folder for the request.

    Raises:
        VerificationError: the quantiser failed.
    """
    if plan.kind not in CALIBRATED:
        _by_bitsandbytes(plan, source, folder, dtype)
    else:
        _by_llm_compressor(plan, source, folder, dtype, rows=rows, python=python, scratch=scratch)
        _set_ignored(folder / "config.json", plan)
        (folder / "recipe.yaml").unlink(missing_ok=True)  # its own, and no recipe of ours
    _name_towers(folder)


def model_inputs(processor: Any, row: ProbeRow) -> dict[str, Any]:
    """What the model's forward takes of a row."""
    return {name: value for name, value in inputs_of(processor, row).items() if torch.is_tensor(value)}


def check_untouched(plan: Plan, family: Family, before: Mapping[str, str], after: Mapping[str, str]) -> int:
    """Holds the exact fingerprints of all that is not quantised against each other; gives how many there are.

    Raises:
        VerificationError: something else was changed as well.
    """
    low = {f"{name}.weight" for name in plan.layers}
    own = [name for name in before if name not in low]
    if plan.kind == "awq":  # its scales lie in norms and biases of the decoder too
        own = [name for name in own if family.part_of(name) != "language"]
    if changed := sorted(name for name in own if before[name] != after.get(name)):
        raise VerificationError(
            f"{len(changed)} tensors that were to be left alone are not as they were (first {changed[0]}). Nothing was "
            "kept"
        )
    if whole := sorted(name for name in low if name in before and before[name] == after.get(name)):
        raise VerificationError(f"{len(whole)} layers were not quantised (first {whole[0]}). Nothing was kept")
    return len(own)


def _left(model: nn.Module, layers: Sequence[str]) -> list[str]:
    around = {""}
    for name in layers:
        parts = name.split(".")
        around |= {".".join(parts[:length]) for length in range(1, len(parts) + 1)}
    found = dict[str, None]()
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear) and name not in around:
            parts = name.split(".")
            paths = (".".join(parts[:length]) for length in range(1, len(parts) + 1))
            found[next(path for path in paths if path not in around)] = None
    return list(found)


def _check_blocks(decoder: nn.Module) -> None:
    for layer in decoder.get_submodule("layers").children():
        names = {name for name, _ in layer.named_children()}
        if names != _BLOCK:
            raise UnsupportedError(
                "--quantize awq moves scales between the parts of a decoder layer, and knows those of "
                f"{sorted(_BLOCK)}; this one has {sorted(names)}. Take gptq"
            )


def _by_bitsandbytes(plan: Plan, source: Path, folder: Path, dtype: str) -> None:
    kind = torch.float32 if dtype == "float32" else torch.bfloat16
    how = (
        {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": True,
            "bnb_4bit_compute_dtype": kind,
        }
        if plan.kind == "nf4"
        else {"load_in_8bit": True}
    )
    config = BitsAndBytesConfig(**how, llm_int8_skip_modules=plan.skipped())
    model = AutoModelForImageTextToText.from_pretrained(
        source, quantization_config=config, dtype=kind, trust_remote_code=False
    )
    # by the names in memory: transformers cannot take back how it read quantised weights
    model.save_pretrained(folder, save_original_format=False)


def _by_llm_compressor(
    plan: Plan, source: Path, folder: Path, dtype: str, *, rows: Sequence[Mapping[str, Any]], python: str, scratch: Path
) -> None:
    calibration, request = scratch / "calibration.safetensors", scratch / "quantise.json"
    tensors = {f"{number}/{name}": value for number, row in enumerate(rows) for name, value in row.items()}
    save_file({name: value.contiguous() for name, value in tensors.items()}, calibration)
    asked = {
        **asdict(plan),
        "source": str(source),
        "folder": str(folder),
        "dtype": dtype,
        "calibration": str(calibration),
        "guard": str(_torchvision.__file__),
    }
    replace_file(request, json.dumps(asked))
    done = subprocess.run([python, str(_SCRIPT), str(request)], capture_output=True, text=True, cwd=scratch)
    if done.returncode != 0 or not (folder / "config.json").is_file():
        last = "\n".join(done.stderr.strip().splitlines()[-_LAST:]) or "no message"
        raise VerificationError(f"{python} did not quantise the model. Its last lines:\n{last}")


def _set_ignored(config: Path, plan: Plan) -> None:
    """LLM Compressor notes what it left by names of a checkpoint; those who read it back compare names in memory."""
    values = json.loads(config.read_text(encoding="utf-8"))
    values["quantization_config"]["ignore"] = plan.patterns()
    replace_file(config, json.dumps(values, indent=2) + "\n")


def _name_towers(folder: Path) -> None:
    """Gives the tensors of CLIP and SigLIP towers the name of published checkpoints: servers know no other, and
    transformers reads both."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config["vision_config"]["model_type"] not in FLAT_TOWERS:
        return
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        save_file({_named(name): value for name, value in load_file(path).items()}, path, metadata=metadata)
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        values = json.loads(index.read_text(encoding="utf-8"))
        values["weight_map"] = {_named(name): file for name, file in values["weight_map"].items()}
        replace_file(index, json.dumps(values, indent=2) + "\n")


def _named(name: str) -> str:
    return re.sub(r"^((?:model\.)?vision_tower\.)(?!vision_model\.)", r"\1vision_model.", name)

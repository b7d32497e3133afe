"""What somebody else's program would read of a folder: log-probabilities and weights, by plain transformers and PEFT.

``python -m sightline.models.reload REQUEST ANSWER`` does it in a process of its own, in which nothing of Sightline has
touched a model: the folder is verified as it stands on the disk.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor
from transformers.utils import logging

from sightline.errors import VerificationError

_LOGPROBS, _IDS = "logprobs/", "ids/"


@dataclass(frozen=True, kw_only=True)
class ProbeRow:
    """A conversation with its pictures, as the chat template wrote it."""

    text: str
    images: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a model says of some rows, and what it is made of."""

    ids: tuple[Tensor, ...]
    """Per row, token ids [T] as the processor made them."""
    logprobs: tuple[Tensor, ...]
    """Per row [T-1]: of every token after the first that the LM head can write, float32."""
    weights: Mapping[str, str]
    """Fingerprint of every tensor, vision tower included, at the precision of bfloat16 unless asked for exact ones."""


@torch.no_grad()
def read_model(model: Any, processor: Any, rows: Sequence[ProbeRow], *, exact: bool = False) -> Reading:
    """Log-probabilities of rows by the model's own forward. ``exact``: fingerprints of the weights as they are."""
    weights = weights_of(model, exact=exact)  # before: on some CPUs 4-bit layers repack theirs when they first run
    ids, logprobs = [], []
    for row in rows:
        inputs = inputs_of(processor, row).to(model.device)
        given = {name: value for name, value in inputs.items() if name != "labels"}  # PaliGemma's processor makes some
        logits = model(**given, use_cache=False).logits[0, :-1].float()
        tokens = inputs["input_ids"][0]
        ids.append(tokens.cpu())
        predicted = tokens[1:] < logits.shape[-1]  # Mllama's head has no row for its image token
        found = logits[predicted].log_softmax(-1).gather(1, tokens[1:][predicted, None])
        logprobs.append(found[:, 0].cpu())
    return Reading(ids=tuple(ids), logprobs=tuple(logprobs), weights=weights)


def weights_of(model: nn.Module, *, exact: bool = False) -> dict[str, str]:
    """Fingerprint of every tensor of a model by its name. Unless ``exact``, rounded to bfloat16 first: the same weights
    in another precision are the same, and other weights are not."""
    return {name: _digest(value, exact) for name, value in model.state_dict().items()}


def read_fresh(
    folder: Path, rows: Sequence[ProbeRow], scratch: Path, *, base: str | None, dtype: str, exact: bool = False
) -> Reading:
    """Reads a folder in a process of its own.

    Args:
        folder: a model, or an adapter.
        rows: what to read it with.
        scratch: folder for request and answer.
        base: the model of an adapter; None: ``folder`` is a whole model.
        dtype: ``float32`` or ``bfloat16``, that the weights are loaded in.
        exact: fingerprint weights as they are.

    Raises:
        VerificationError: it cannot be loaded.
    """
    request, answer = scratch / "request.json", scratch / "answer.safetensors"
    asked = {"folder": str(folder), "base": base, "dtype": dtype, "exact": exact, "rows": [asdict(row) for row in rows]}
    request.write_text(json.dumps(asked), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "sightline.models.reload", str(request), str(answer)], capture_output=True, text=True
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise VerificationError(
            f"what was written does not load in a fresh process with plain transformers: {last}. Nothing was kept"
        )
    tensors = load_file(answer)
    weights = json.loads(answer.with_suffix(".json").read_text(encoding="utf-8"))
    numbers = range(len(rows))
    return Reading(
        ids=tuple(tensors[f"{_IDS}{n}"] for n in numbers),
        logprobs=tuple(tensors[f"{_LOGPROBS}{n}"] for n in numbers),
        weights=weights,
    )


def load_plain(folder: str, base: str | None, dtype: str) -> tuple[Any, Any]:
    """Model and processor of a folder, as anybody loads them."""
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    # the same backend as in training: which is the default depends on what is installed, and so do the pixels
    processor.image_processor = AutoImageProcessor.from_pretrained(folder, backend="pil", trust_remote_code=False)
    config = AutoConfig.from_pretrained(base or folder, trust_remote_code=False)
    if base is not None and hasattr(config, "image_grid_pinpoints"):  # an adapter may have fewer (the card says it)
        config.image_grid_pinpoints = processor.image_processor.image_grid_pinpoints
    model = AutoModelForImageTextToText.from_pretrained(
        base or folder, config=config, dtype=getattr(torch, dtype), trust_remote_code=False
    )
    if base is not None:
        model = PeftModel.from_pretrained(model, folder)
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), processor


def answer_request(request: Path, answer: Path) -> None:
    """What the process of its own does."""
    asked = json.loads(request.read_text(encoding="utf-8"))
    rows = [ProbeRow(text=row["text"], images=tuple(row["images"])) for row in asked["rows"]]
    model, processor = load_plain(asked["folder"], asked["base"], asked["dtype"])
    reading = read_model(model, processor, rows, exact=asked["exact"])
    tensors = {f"{_IDS}{n}": value.contiguous() for n, value in enumerate(reading.ids)}
    tensors |= {f"{_LOGPROBS}{n}": value.contiguous() for n, value in enumerate(reading.logprobs)}
    save_file(tensors, answer)
    answer.with_suffix(".json").write_text(json.dumps(dict(reading.weights)), encoding="utf-8")


def inputs_of(processor: Any, row: ProbeRow) -> Any:
    """What a processor makes of a row."""
    pictures = [Image.open(path).convert("RGB") for path in row.images]
    bos = processor.tokenizer.bos_token
    special = not (bos and row.text.startswith(bos))
    return processor(text=[row.text], images=pictures or None, return_tensors="pt", add_special_tokens=special)


def _digest(value: Tensor, exact: bool) -> str:
    rounded = value.is_floating_point() and not exact
    plain = value.detach().to("cpu", torch.bfloat16) if rounded else value.detach().cpu()
    return hashlib.sha256(plain.contiguous().view(-1).view(torch.uint8).numpy().data).hexdigest()[:16]


if __name__ == "__main__":
    logging.disable_progress_bar()
    answer_request(Path(sys.argv[1]), Path(sys.argv[2]))

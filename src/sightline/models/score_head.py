"""The score head of a reward model: one number per response, and the files it is kept in."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sightline.errors import CheckpointError
from sightline.recipes.schema import ReadsSpec

WEIGHTS, SETTINGS = "score_head.safetensors", "score_head.json"
_FORMAT = 1
_KEY = "weight"
LOADED_WITH = ("dtype", "layout", "attention", "quantization", "double_quant", "compute_dtype")
"""Fields that a model's section of a recipe and the settings of a score head share."""


@dataclass(frozen=True, kw_only=True)
class ScoreSettings:
    """With what a reward model was trained and must be used."""

    reads: ReadsSpec = field(default_factory=ReadsSpec)
    """What it reads in place of the rows as they are."""
    dtype: str = "float32"
    """Type its weights are loaded in."""
    layout: str = "tree"
    attention: str = "auto"
    quantization: str = "none"
    double_quant: bool = True
    compute_dtype: str | None = None


class ScoreHead(nn.Module):
    """A linear map from the hidden state at the end of a response to its score. No bias: a constant would cancel
    in every comparison."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        bound = hidden_size**-0.5
        self.weight = nn.Parameter(torch.empty(hidden_size, dtype=torch.float32).uniform_(-bound, bound))
        """[D]"""
        self.settings = ScoreSettings()

    def forward(self, hidden: Tensor) -> Tensor:
        """[R,D] hidden states to [R] scores, always in float32: bf16 scores tie too easily."""
        with torch.autocast(hidden.device.type, enabled=False):
            return hidden.float() @ self.weight

    def save(self, folder: Path, weight: Tensor | None = None) -> None:
        """Writes weights (None: its own) and settings beside a model or an adapter."""
        whole = self.weight if weight is None else weight
        save_file({_KEY: whole.detach().cpu().contiguous()}, folder / WEIGHTS)
        values = {"format": _FORMAT, "hidden_size": whole.shape[0], **asdict(self.settings)}
        (folder / SETTINGS).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def has_score_head(folder: str | Path) -> bool:
    """Whether a model or adapter folder is that of a reward model."""
    return (Path(folder) / WEIGHTS).is_file()


def load_score_head(folder: str | Path, hidden_size: int) -> ScoreHead:
    """The score head in a model or adapter folder.

    Raises:
        CheckpointError: no head, one of another format or of other tensors, or one for another hidden size.
    """
    path = Path(folder)
    settings = read_score_settings(path)
    tensors = load_file(path / WEIGHTS)
    if tensors.keys() != {_KEY}:
        raise CheckpointError(
            f"{path / WEIGHTS} holds {', '.join(sorted(tensors)) or 'nothing'}, where {_KEY} was expected. "
            "Take the score head that a run with algorithm.name: reward_model wrote"
        )
    weight = tensors[_KEY]
    if weight.shape != (hidden_size,):
        raise CheckpointError(
            f"{path / WEIGHTS} is for a hidden size of {weight.shape[0]}, the model has {hidden_size}. "
            "Load it with the model it was trained on"
        )
    head = ScoreHead(hidden_size)
    with torch.no_grad():
        head.weight.copy_(weight)
    head.settings = settings
    return head


def read_score_settings(folder: Path) -> ScoreSettings:
    """What a reward model was trained with.

    Raises:
        CheckpointError: no reward model there, or one that another version wrote.
    """
    if not has_score_head(folder) or not (folder / SETTINGS).is_file():
        raise CheckpointError(
            f"{folder} holds no reward model: {WEIGHTS} and {SETTINGS} were expected. "
            "Train one with algorithm.name: reward_model"
        )
    values = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    if values.pop("format", None) != _FORMAT:
        raise CheckpointError(f"{folder / SETTINGS} was written in another format by another version. Train anew")
    del values["hidden_size"]
    reads = values.pop("reads")
    reads["facts"] = tuple(reads["facts"])
    return ScoreSettings(reads=ReadsSpec(**reads), **values)

"""The value head of a critic: one number per scored token, and the files it is kept in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sightline.errors import CheckpointError

WEIGHTS = "value_head.safetensors"
_HEAD = "value_head"
VALUE = "value"
"""Name of the critic's own adapter, and of its folder beside the policy's."""


def is_of_critic(name: str) -> bool:
    """Whether a trained tensor of a policy, by its name, may be one of a critic: of its head, or of its adapter."""
    return name.startswith(f"{_HEAD}.") or VALUE in name.split(".")


class ValueHead(nn.Module):
    """A linear map from the hidden state that predicts a token to the value of writing on from there.

    Starts at zero: the first advantages are then the rewards to come, whatever the hidden states are.
    """

    def __init__(self, hidden_size: int, *, adapter: str | None = None) -> None:
        """
        Args:
            hidden_size: D.
            adapter: that is switched to for the hidden states it reads; None: those of the policy.
        """
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(hidden_size, dtype=torch.float32))
        """[D]"""
        self.bias = nn.Parameter(torch.zeros(1, dtype=torch.float32))
        """[1]: spread parameters have an axis."""
        self.adapter = adapter

    def forward(self, hidden: Tensor) -> Tensor:
        """[N,D] hidden states to [N] values, in float32."""
        with torch.autocast(hidden.device.type, enabled=False):
            return hidden.float() @ self.weight + self.bias

    def save(self, folder: Path, state: Mapping[str, Tensor] | None = None) -> None:
        """Writes the weights into a folder, which is made if need be.

        Args:
            folder: of the critic.
            state: of the policy, with the weights as ``value_head.NAME``; None: its own are whole.
        """
        whole = {
            name: value if state is None else state[f"{_HEAD}.{name}"] for name, value in self.state_dict().items()
        }
        folder.mkdir(exist_ok=True)
        save_file({name: value.detach().cpu().contiguous() for name, value in whole.items()}, folder / WEIGHTS)


def load_value_head(folder: str | Path, hidden_size: int, *, adapter: str | None = None) -> ValueHead:
    """The value head in a folder.

    Raises:
        CheckpointError: none, or one of other tensors or another hidden size.
    """
    file = Path(folder) / WEIGHTS
    if not file.is_file():
        raise CheckpointError(f"{folder} holds no {WEIGHTS}. Give the folder of a critic that a run with ppo wrote")
    tensors, head = load_file(file), ValueHead(hidden_size, adapter=adapter)
    own = {name: tuple(value.shape) for name, value in head.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    if found != own:
        raise CheckpointError(f"{file} holds {found}, where {own} was expected. Load it with the model of its training")
    head.load_state_dict(tensors)
    return head

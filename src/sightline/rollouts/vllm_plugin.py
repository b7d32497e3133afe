"""A vLLM plugin: the weight transfer of ``online.engine.sync: weights``. It runs in the processes of the server.

Put Sightline beside vLLM (``pip install --no-deps sightline``), and start the server with
``--weight-transfer-config '{"backend": "sightline"}'``. On a CPU the weights come by gloo, on GPUs by NCCL.
"""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass
from typing import Any

import torch
from vllm.config.weight_transfer import WeightTransferConfig
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from sightline.rollouts.transfer import Group, Manifest, Meeting

NAME = "sightline"


@dataclass
class InitInfo(WeightTransferInitInfo):
    """See ``transfer.Meeting``."""

    address: str
    port: int
    size: int
    seconds: float


@dataclass
class UpdateInfo(WeightTransferUpdateInfo):
    """See ``transfer.Manifest``."""

    names: list[str]
    dtypes: list[str]
    shapes: list[list[int]]


class TransferEngine(WeightTransferEngine[InitInfo, UpdateInfo]):
    """Weights in the format of a checkpoint, loaded layer by layer as vLLM loads a checkpoint."""

    init_info_cls = InitInfo
    update_info_cls = UpdateInfo

    def __init__(self, config: WeightTransferConfig, vllm_config: Any, device: torch.device, model: Any) -> None:
        super().__init__(config, vllm_config, device, model)
        self._group: Group | None = None

    def init_transfer_engine(self, init_info: InitInfo) -> None:
        self.shutdown()
        own, parallel = Meeting(**asdict(init_info)), self.parallel_config
        rank = 1 + parallel.data_parallel_index * parallel.world_size + parallel.rank
        self._group = Group(own, rank, self.device)

    def start_weight_update(self) -> None:
        # packed layers have freed what a checkpoint would be loaded into: load_weights alone fails on a CPU
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """As the base does, which would synchronise an accelerator on a CPU as well."""
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: UpdateInfo) -> None:
        if self._group is None:
            raise RuntimeError("weights were announced before /init_weight_transfer_engine")
        for name, tensor in self._group.receive(Manifest(**asdict(update_info))):
            self.model.load_weights([(name, tensor)])

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)

    def shutdown(self) -> None:
        if self._group is not None:
            self._group.close()
            self._group = None


def register() -> None:
    """The entry point of the group ``vllm.general_plugins``; may be called more than once."""
    with contextlib.suppress(ValueError):  # there already
        WeightTransferEngineFactory.register_engine(NAME, TransferEngine)

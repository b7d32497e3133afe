"""Regional compilation: every layer of the decoder as one graph of its own, for any length.

All layers run one code object, so what is compiled for the first serves the others: a graph each for training, for
scoring without gradients and for the reference (adapters off). Layers of vision towers are left as they are: the
hooks by which transformers takes hidden states out of CLIP's cut their graphs into pieces (docs/log.md). So are layers
with linear attention: what follows a tree there plans on the host, and would be compiled anew for every batch.
"""

from __future__ import annotations

import torch._functorch.config as functorch
from torch import nn
from torch._dynamo import config
from torch._dynamo.utils import counters
from transformers.modeling_layers import GradientCheckpointingLayer

from sightline.models.recurrence import carries_state

GRAPHS = 32
"""Most graphs of one code object before torch gives up and runs it as it is; its own limit of 8 falls short where
several models are trained, scored and sampled in one process."""

KEPT = 0.9
"""Share of what a layer would keep for its backward pass that it may keep: norms and activations are computed again, a
quarter of the memory for a hundredth of the time; attention and matrix products are not."""


def compile_layers(language: nn.Module, backend: str = "inductor") -> None:
    """Compiles the layers of a decoder at their first call. Changes no result beyond rounding.

    In half precision results are rounded where they are without compiling, so that policy and reference, which are
    different graphs, still begin alike.
    """
    config.recompile_limit = max(config.recompile_limit, GRAPHS)
    functorch.activation_memory_budget = KEPT
    options = {"emulate_precision_casts": True} if backend == "inductor" else None
    for module in language.modules():
        if isinstance(module, GradientCheckpointingLayer) and not carries_state(module):
            module.compile(dynamic=True, backend=backend, options=options)


def graphs() -> int:
    """Graphs compiled so far in this process: a number that grows with every length is a fault."""
    return int(counters["stats"]["unique_graphs"])

"""Layers that carry a state from token to token (linear attention) in the flat layouts.

No mask parts what such a layer scans in order: the state at the end of one answer would run into the next. The package
tree-recurrence makes the gated delta layers of a model follow the batch's tree instead, each segment from the state its
parent ends in. This is the only file that knows it.
"""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sightline.models.attention_plan import TreePlan, positions_of
from sightline.models.family import Family

_CARRY = "its linear-attention layers carry a state across the borders of rows and branches"


def if_installed(family: Family, config: Any) -> Family:
    """``Family.by_config`` of a recurrent family: in ``rows`` alone where tree-recurrence is not installed."""
    if find_spec("tree_recurrence") is not None:
        return family
    return _rows_alone(family, "only tree-recurrence makes them stop there (pip install 'sightline[recurrence]')")


def follow_trees(model: Any, family: Family) -> Family:
    """Makes the recurrent layers of a model follow the tree of a batch; they stay as they are in ``rows``.

    Returns:
        the family; in ``rows`` alone where some layer would still mix what is in a batch.
    """
    if not family.recurrent or "tree" not in family.layouts:
        return family
    import tree_recurrence

    support = tree_recurrence.install(model)
    return family if support.mode == "tree" else _rows_alone(family, f"tree-recurrence says: {support.reason}")


def carries_state(layer: nn.Module) -> bool:
    """Whether a layer has a state that decays from token to token."""
    return any(name.rpartition(".")[2] == "A_log" for name, _ in layer.named_parameters())


def tree_inputs(plan: TreePlan) -> dict[str, Tensor]:
    """What the layers read a batch's tree from, by the names of TRL's tree batches. On the host: they plan there.

    Segments without tokens are left out: tree-recurrence takes the first of them for the end of the batch.
    """
    spans = [(above, own) for above, own in zip(plan.ancestors, plan.spans, strict=True) if own[1] > own[0]]
    paths = [positions_of((*above, own)) for above, own in spans]
    own = [end - start for _, (start, end) in spans]
    return {
        "tree_kv_index": torch.from_numpy(np.concatenate(paths)),
        "tree_cu_seqlens_q": torch.from_numpy(np.cumsum([0, *own], dtype=np.int32)),
        "tree_cu_seqlens_k": torch.from_numpy(np.cumsum([0, *map(len, paths)], dtype=np.int32)),
    }


def _rows_alone(family: Family, why: str) -> Family:
    return replace(family, layouts=frozenset(("rows",)), reason=f"{_CARRY}, and {why}")

"""Makes ``import torchvision`` safe next to a CPU build of torch.

The wheel of torchvision on the package index is built for CUDA: beside a CPU torch its compiled half
does not load and ``import torchvision`` raises ``operator torchvision::nms does not exist``. As
transformers only looks whether the package is *present*, every model class then fails to import.
The Python half (transforms, image processors) needs two operator schemas and nothing else, so they
are declared here. Does nothing where torchvision is absent or loads by itself. Delete this file when
the index offers a CPU build (https://github.com/pytorch/vision/issues/7296).
"""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

_library: Any = None  # declarations live as long as the Library object does


def ensure_torchvision() -> bool:
    """True if torchvision can be imported, after declaring its operators if need be."""
    global _library
    if importlib.util.find_spec("torchvision") is None:
        return False
    import torch

    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    else:
        return True
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    _library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        _library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision  # noqa: F401

    return True

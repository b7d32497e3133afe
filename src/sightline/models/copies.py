"""Sums rows that were copied, in float32 and always in the same order: the backward pass of a gather."""

from __future__ import annotations

import torch
from torch import Tensor

_WIDTH = 1024
"""Columns that one program of the kernel sums."""


def sum_copies(rows: Tensor, index: Tensor, order: Tensor, starts: Tensor, base: Tensor | None = None) -> Tensor:
    """``base[t] +`` the sum of all rows i with ``index[i] == t``.

    Args:
        rows: [K,*].
        index: [K] long: which row of the result each belongs to.
        order: [K] long: ``index`` sorted, as places in it.
        starts: [T+1] long: where the entries of each t begin in ``order``.
        base: [T,*]; None: zeros.

    Returns:
        [T,*] in the type of ``rows``; sums are float32 (float64 for float64).
    """
    total = starts.shape[0] - 1
    flat, shape = rows.flatten(1), (total, *rows.shape[1:])
    if rows.is_cuda:
        return _kernel_sum(flat.contiguous(), order, starts, base).view(shape)
    wide = torch.promote_types(rows.dtype, torch.float32)
    start = flat.new_zeros(total, flat.shape[1], dtype=wide) if base is None else base.reshape(total, -1).to(wide)
    return start.index_add(0, index, flat.to(wide)).to(rows.dtype).view(shape)


def _kernel_sum(rows: Tensor, order: Tensor, starts: Tensor, base: Tensor | None) -> Tensor:
    """CUDA's own ``index_add`` adds in the type of its input, in no fixed order."""
    total, columns = starts.shape[0] - 1, rows.shape[1]
    result = rows.new_empty(total, columns)
    start = None if base is None else base.reshape(total, columns).contiguous()
    if total:
        from sightline.models.copies_kernel import sum_rows

        sum_rows[(total, -(-columns // _WIDTH))](rows, order, starts, start, result, columns, _WIDTH)
    return result

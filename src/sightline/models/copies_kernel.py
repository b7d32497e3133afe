"""The sum of copied rows as a kernel for GPUs. Imported only where there is one: torch for CPUs brings no Triton."""

import triton
import triton.language as tl


@triton.jit
def sum_rows(rows, order, starts, base, result, columns, width: tl.constexpr):  # type: ignore[no-untyped-def]
    """One program: ``width`` columns of one row of the result. Pointers to rows [K,columns], order [K], starts [T+1],
    base [T,columns] or None, result [T,columns]."""
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * width + tl.arange(0, width)
    inside = column < columns
    total = tl.zeros((width,), dtype=tl.float32)
    if base is not None:
        total += tl.load(base + token * columns + column, mask=inside, other=0).to(tl.float32)
    first = tl.load(starts + token)
    last = tl.load(starts + token + 1)
    for place in range(first, last):
        row = tl.load(order + place)
        total += tl.load(rows + row * columns + column, mask=inside, other=0).to(tl.float32)
    tl.store(result + token * columns + column, total, mask=inside)

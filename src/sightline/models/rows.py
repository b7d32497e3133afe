"""The layout ``rows``: a model's own forward, with its positions, its masks and its merging of pictures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sightline.models.family import Family
from sightline.types import Batch


def rows_hidden(model: Any, family: Family, batch: Batch) -> Tensor:
    """[T,D]: last hidden states of a batch in layout ``rows``, computed on rows padded on the right.

    Args:
        model: the transformers model with the LM head.
        family: its declaration.
        batch: on its device.
    """
    if batch.vision and not batch.placeholder.shape[0]:
        with _company(model, family.features(model.model, batch.vision)):
            return rows_hidden(model, family, replace(batch, vision={}))
    if family.pick is not None and batch.parent.shape[0] > 1:
        return torch.cat([rows_hidden(model, family, row) for row in _one_by_one(family, batch)])
    column = torch.arange(int(batch.length.max()), device=batch.tokens.device)
    kept = column[None, :] < batch.length.to(batch.tokens.device)[:, None]
    ids = torch.zeros_like(kept, dtype=torch.long)
    ids[kept] = batch.tokens
    placeholders, blocks = torch.zeros_like(kept), torch.zeros_like(kept)
    placeholders[kept] = torch.zeros_like(batch.tokens, dtype=torch.bool).index_fill(0, batch.placeholder, True)
    if batch.block is not None:
        blocks[kept] = batch.block >= 0
    output = model.model(
        input_ids=ids,
        attention_mask=kept.long(),
        use_cache=False,
        **batch.vision,
        **family.row_inputs(placeholders, blocks, batch.vision),
    )
    hidden: Tensor = output.last_hidden_state[kept]
    return hidden


def _one_by_one(family: Family, batch: Batch) -> Iterator[Batch]:
    """The rows of a batch, each with its own pictures."""
    assert family.pick is not None
    marks = torch.zeros_like(batch.segment).index_fill(0, batch.placeholder, 1)
    first = 0
    for row in range(batch.parent.shape[0]):
        own = batch.segment == row
        last, held = first, int(marks[own].sum())
        while held > 0:
            held -= batch.image_tokens[last]
            last += 1
        yield replace(
            batch,
            tokens=batch.tokens[own],
            segment=torch.zeros_like(batch.segment[own]),
            parent=batch.parent[row : row + 1],
            length=batch.length[row : row + 1],
            block=None if batch.block is None else batch.block[own],
            placeholder=marks[own].nonzero()[:, 0],
            image_tokens=batch.image_tokens[first:last],
            vision=family.pick(batch.vision, first, last) if last > first else {},
        )
        first = last


@contextmanager
def _company(model: Any, features: Tensor) -> Iterator[None]:
    """Gives features that no token stands for a gradient of 0: the model's own forward refuses them, where the flat
    layouts copy none of them into the embeddings."""
    embeddings = model.get_input_embeddings()
    hook = embeddings.register_forward_hook(lambda module, inputs, output: output + features[:0].sum())
    try:
        yield
    finally:
        hook.remove()

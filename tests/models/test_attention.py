"""The forms of the tree's attention, apart from any model: each equals the dense mask."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from itertools import accumulate

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode

from sightline.models import attention_plan
from sightline.models.attention import tree_attention
from sightline.models.attention_plan import Form, cheaper_form, plan_attention
from sightline.models.copies import sum_copies
from sightline.types import Batch

SIZE = 8
EMPTY = torch.empty(0, dtype=torch.long)


@dataclass(frozen=True, kw_only=True)
class Tree:
    """Segments by parent and length; blocks as (segment, first, end) inside of it."""

    parents: list[int]
    lengths: list[int]
    blocks: tuple[tuple[int, int, int], ...] = ()

    def batch(self) -> Batch:
        tokens = sum(self.lengths)
        starts = [end - length for end, length in zip(accumulate(self.lengths), self.lengths, strict=True)]
        block = torch.full((tokens,), -1)
        for number, (segment, first, end) in enumerate(self.blocks):
            block[starts[segment] + first : starts[segment] + end] = number
        return Batch(
            layout="tree", tokens=torch.arange(tokens), positions=torch.arange(tokens),
            segment=torch.arange(len(self.lengths)).repeat_interleave(torch.tensor(self.lengths)),
            parent=torch.tensor(self.parents), length=torch.tensor(self.lengths), vision={}, image_tokens=(),
            placeholder=EMPTY, feature=EMPTY, source=EMPTY, target=EMPTY, response=EMPTY, group=EMPTY, last=EMPTY,
            pairs=EMPTY.reshape(0, 2), pair_weight=EMPTY.float(), pair_kind=(), num_groups=1,
            block=block if self.blocks else None, blocked=tuple(sorted({segment for segment, _, _ in self.blocks})),
        )  # fmt: skip


def random_tree(seed: int, *, blocks: bool = False) -> Tree:
    """Groups of depth 1 to 3, in pre-order, with empty trunks and single tokens among their segments."""
    draw = random.Random(seed)
    parents: list[int] = []
    lengths: list[int] = []

    def grow(parent: int, depth: int) -> None:
        parents.append(parent)
        lengths.append(draw.choice([0, 1, 2, 5, 9]) if depth > 1 else draw.choice([1, 1, 3, 6]))
        segment = len(parents) - 1
        for _ in range(draw.randint(1, 3) if depth > 1 else 0):
            grow(segment, depth - 1)

    for _ in range(draw.randint(1, 3)):
        grow(-1, draw.randint(1, 3))
    long = [segment for segment, length in enumerate(lengths) if length >= 5]
    chosen = [(segment, 1, lengths[segment] - 1) for segment in long[:2]] if blocks else []
    return Tree(parents=parents, lengths=lengths, blocks=tuple(chosen))


def inputs(tokens: int, heads: int, key_heads: int, *, transposed: bool) -> list[Tensor]:
    """query [1,H,T,d], key and value [1,h,T,d]; ``transposed``: views of [T,H,d], as projections give them."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for count in (heads, key_heads, key_heads):
        shape = (1, tokens, count, SIZE) if transposed else (1, count, tokens, SIZE)
        part = torch.randn(shape, generator=generator, dtype=torch.float64)
        found.append((part.transpose(1, 2) if transposed else part).requires_grad_())
    return found


def attend(batch: Batch, form: Form, qkv: list[Tensor], window: int | None) -> tuple[Tensor, ...]:
    """Output, and gradients of query, key and value."""
    output, _ = tree_attention(
        torch.nn.Module(), *qkv, None, plan_attention(batch, form), sliding_window=window, scaling=0.3
    )
    upstream = torch.linspace(-1, 2, output.numel(), dtype=output.dtype).reshape(output.shape).sin()
    return output.detach(), *torch.autograd.grad((upstream * output).sum(), qkv)


@pytest.mark.parametrize("heads", [(4, 4), (6, 2)], ids=["all heads", "grouped heads"])
@pytest.mark.parametrize("form", ["segments", "gather", "merge"])
def test_every_form_equals_the_dense_mask(form: Form, heads: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(60):
        tree = random_tree(seed, blocks=seed % 3 == 2)
        windows = (None,) if form == "merge" else (None, 1, 4)
        qkv = inputs(sum(tree.lengths), *heads, transposed=seed % 2 == 1)
        for window in windows:
            monkeypatch.setattr(attention_plan, "SMALL_ENTRIES", (0, 30, 2**30)[seed % 3])
            expected = attend(tree.batch(), "dense", qkv, window)
            found = attend(tree.batch(), form, qkv, window)
            for one, other in zip(found, expected, strict=True):
                assert (one - other).abs().max() < 1e-12, (seed, window, tree)


@pytest.mark.parametrize("form", ["dense", "segments", "gather", "merge"])
def test_a_comb_equals_each_path_by_itself(form: Form) -> None:
    """Without any of our masks or plans: torch's causal attention of every root-to-leaf path."""
    trunk, branches = 24, (5, 3, 7)
    tree = Tree(parents=[-1, 0, 0, 0], lengths=[trunk, *branches])
    query, key, value = inputs(trunk + sum(branches), 4, 2, transposed=True)
    found = attend(tree.batch(), form, [query, key, value], None)[0]
    start = trunk
    for length in branches:
        path = torch.tensor([*range(trunk), *range(start, start + length)])
        q, k, v = (part[:, :, path] for part in (query, key, value))
        alone = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True, scale=0.3)
        assert (found[:, path] - alone.transpose(1, 2)).abs().max() < 1e-12
        start += length


def test_blocks_and_windows_mean_what_the_models_mean() -> None:
    """Four tokens, the middle two a picture: it sees itself; a window of 2 reaches one token back, and within a block
    ahead."""
    plan = plan_attention(Tree(parents=[-1], lengths=[4], blocks=((0, 1, 3),)).batch(), "dense")
    places = torch.arange(4)
    assert plan.visible(places, places, 0).int().tolist() == [[1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    assert plan.visible(places, places, 2).int().tolist() == [[1, 0, 0, 0], [1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 1, 1]]
    for whole, first in ((False, [1, 1, 1, 0]), (True, [1, 1, 1, 0])):  # a prompt of three and an answer, window 2
        batch = replace(Tree(parents=[-1], lengths=[4], blocks=((0, 0, 3),)).batch(), whole=whole)
        seen = plan_attention(batch, "dense").visible(places, places, 2).int().tolist()
        assert seen == [first, [1, 1, 1, 0], [whole, 1, 1, 0], [0, 0, 1, 1]]


def test_plan_fields_are_those_of_tree_batches_elsewhere() -> None:
    plan = plan_attention(Tree(parents=[-1, 0, 1, 0], lengths=[2, 1, 2, 1]).batch(), "gather").gather
    assert plan is not None
    assert plan.tree_kv_index.tolist() == [0, 1, 0, 1, 2, 0, 1, 2, 3, 4, 0, 1, 5]
    assert plan.lengths.queries.tolist() == [0, 2, 3, 5, 6]
    assert plan.lengths.keys.tolist() == [0, 2, 5, 10, 13]
    assert plan.lengths.most.tolist() == [2, 5]


def test_the_form_follows_what_would_be_copied() -> None:
    comb = Tree(parents=[-1, *[0] * 8], lengths=[600, *[100] * 8]).batch()  # 4,800 tokens are copied
    assert cheaper_form(comb, key_bytes=2**17, windows=False) == "merge"  # 600 MiB
    assert cheaper_form(comb, key_bytes=2**14, windows=False) == "gather"
    assert cheaper_form(comb, key_bytes=2**17, windows=True) == "gather"
    blocked = Tree(parents=[-1, *[0] * 8], lengths=[600, *[100] * 8], blocks=((0, 4, 500),)).batch()
    assert cheaper_form(blocked, key_bytes=2**17, windows=False) == "gather"


def test_copies_are_summed_in_float32() -> None:
    rows = torch.tensor([[256.0], [1.0], [1.0], [4.0]], dtype=torch.bfloat16)  # 256 + 1 is 256 in bfloat16
    index = torch.tensor([1, 1, 1, 0])
    found = sum_copies(rows, index, torch.tensor([3, 0, 1, 2]), torch.tensor([0, 1, 4, 4]))
    assert found.tolist() == [[4.0], [258.0], [0.0]]
    base = torch.tensor([[0.0], [2.0], [3.0]], dtype=torch.bfloat16)
    found = sum_copies(rows, index, torch.tensor([3, 0, 1, 2]), torch.tensor([0, 1, 4, 4]), base)
    assert found.tolist() == [[4.0], [260.0], [3.0]]


class FullLength(TorchDispatchMode):
    """Counts results as large as all keys together."""

    def __init__(self, numel: int) -> None:
        super().__init__()
        self.numel, self.count = numel, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        leaves = torch.utils._pytree.tree_leaves(result)
        self.count += sum(torch.is_tensor(leaf) and leaf.numel() == self.numel for leaf in leaves)
        return result


def full_length_results(branches: int) -> int:
    tree = Tree(parents=[-1, *[0] * branches], lengths=[200, *[150] * branches])
    qkv = inputs(sum(tree.lengths), 2, 2, transposed=False)
    output, _ = tree_attention(torch.nn.Module(), *qkv, None, plan_attention(tree.batch(), "segments"))
    with FullLength(qkv[0].numel()) as seen:
        output.backward(torch.ones_like(output))
    return seen.count


def test_the_backward_pass_makes_no_tensor_of_full_length_per_branch() -> None:
    assert full_length_results(2) == full_length_results(9) <= 12


def kept_bytes(form: Form) -> int:
    """Bytes that attention keeps for its backward pass."""
    tree = Tree(parents=[-1, *[0] * 8], lengths=[60, *[10] * 8])
    qkv = inputs(sum(tree.lengths), 2, 2, transposed=True)
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        tree_attention(torch.nn.Module(), *qkv, None, plan_attention(tree.batch(), form))
    return sum(kept.values())


def test_copies_of_keys_are_not_kept() -> None:
    """Query, key, value and output of 140 tokens take 4 x 2 x 8 x 8 bytes each; the copies would be 620 tokens more."""
    tokens = 140 * 2 * SIZE * 8
    for form in ("gather", "merge"):
        assert kept_bytes(form) < 4 * tokens + 0.5 * 620 * 2 * SIZE * 8

"""Qwen3.5: gated delta layers follow the tree where tree-recurrence is installed, and are refused where it is not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from test_matrix import FULL, LORA, batch_of, groups_of, policy_of, score
from transformers.models.qwen3_5 import modeling_qwen3_5

from sightline.errors import UnsupportedError
from sightline.models import recurrence
from sightline.models.attention_plan import plan_attention
from sightline.models.load import load_policy
from sightline.models.recurrence import tree_inputs
from sightline.recipes.schema import LoraSpec, ModelSpec, PartsSpec

tree_recurrence = pytest.importorskip("tree_recurrence", reason="needs tree-recurrence: pip install -e '.[dev]'")
from tree_recurrence._hooks import hook_of  # noqa: E402
from tree_recurrence.reference import chunk_gated_delta_rule  # noqa: E402

Folders = Callable[[str], Path]


@pytest.fixture
def kernel(folder_of: Folders, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """A rule in double precision that knows where sequences begin, as the kernel on a GPU does; whether each call
    went on from a state."""
    policy_of(folder_of("qwen3_5"))  # puts the hooks in place
    calls: list[bool] = []

    def rule(*args: Any, initial_state: Any = None, **options: Any) -> Any:
        calls.append(initial_state is not None)
        return chunk_gated_delta_rule(*args, initial_state=initial_state, **options)

    hook = hook_of(modeling_qwen3_5, "torch_chunk_gated_delta_rule")
    assert hook is not None
    monkeypatch.setattr(hook, "original", rule)
    yield calls


@pytest.mark.parametrize("forks", [True, False], ids=["forks", "rescans"])
@pytest.mark.parametrize("parts", [FULL, LORA], ids=["full", "lora"])
def test_with_the_rule_in_double_precision_all_layouts_are_one(
    folder_of: Folders, pictures: list[str], kernel: list[bool], parts: PartsSpec, forks: bool
) -> None:
    """In float32 the gradients of the decays, small differences of large numbers, hide this behind rounding."""
    policy = policy_of(folder_of("qwen3_5"), parts=parts, lora=LoraSpec(rank=4)).train().double()
    fewest = 1 if forks else 2**30
    tree_recurrence.install(policy.base, policy=tree_recurrence.Policy(fork_min_saved_tokens=fewest))
    groups = groups_of("qwen3_5", pictures)
    logprobs, grads = score(policy, batch_of(policy, groups, "rows"))
    for layout in ("packed", "tree"):
        kernel.clear()
        own, own_grads = score(policy, batch_of(policy, groups, layout))
        assert (own - logprobs).abs().max() < 1e-6
        assert own_grads.keys() == grads.keys()
        for name in grads:
            assert (own_grads[name] - grads[name]).norm() <= 1e-6 * grads[name].norm(), (layout, name)
        assert any(kernel) == (forks and layout == "tree")


def test_checkpointed_and_copied_models_follow_as_well(folder_of: Folders, pictures: list[str]) -> None:
    policy = policy_of(folder_of("qwen3_5"), parts=FULL).train()
    batch = batch_of(policy, groups_of("qwen3_5", pictures), "tree")
    expected, grads = score(policy, batch)
    again = policy_of(folder_of("qwen3_5"), parts=FULL, gradient_checkpointing=True).train()
    own, own_grads = score(again, replace(batch, plans={}))
    assert torch.equal(own, expected)
    assert all((own_grads[name] - grads[name]).norm() <= 1e-5 * grads[name].norm() for name in grads)
    with torch.no_grad():
        assert torch.equal(policy.reference_copy()(batch).logprobs, expected)


def test_the_layers_read_the_paths_of_the_tree(folder_of: Folders, pictures: list[str]) -> None:
    policy = policy_of(folder_of("qwen3_5"))
    batch = batch_of(policy, groups_of("qwen3_5", pictures), "tree")
    read = tree_recurrence.TreePlan.from_kwargs(tree_inputs(plan_attention(batch, "dense")))
    assert read.parents.tolist() == batch.parent.tolist()
    assert read.lengths.tolist() == batch.length.tolist()
    # a segment without tokens, between a prompt and its answers
    length, parent = torch.tensor([3, 0, 2, 1]), torch.tensor([-1, 0, 1, 1])
    segment = torch.repeat_interleave(torch.arange(4), length)
    hollow = replace(batch, tokens=batch.tokens[:6], segment=segment, parent=parent, length=length, blocked=())
    read = tree_recurrence.TreePlan.from_kwargs(tree_inputs(plan_attention(hollow, "dense")))
    assert read.parents.tolist() == [-1, 0, 0]
    assert np.split(read.kv_index, read.cu_seqlens_k[1:-1])[2].tolist() == [0, 1, 2, 5]


def test_only_layers_of_attention_are_compiled(folder_of: Folders) -> None:
    policy = policy_of(folder_of("qwen3_5"))
    policy.compile_layers("eager")
    assert [layer._compiled_call_impl is not None for layer in policy.language.layers] == [False, True]


@pytest.mark.parametrize("layout", ["packed", "tree"])
def test_without_the_package_there_are_rows_alone(
    folder_of: Folders, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    monkeypatch.setattr(recurrence, "find_spec", lambda name: None)
    with pytest.raises(UnsupportedError, match=rf"'{layout}'.*pip install 'sightline\[recurrence\]'.*Set model.layout"):
        load_policy(ModelSpec(path=str(folder_of("qwen3_5")), layout=layout))  # type: ignore[arg-type]
    policy = load_policy(ModelSpec(path=str(folder_of("qwen3_5")), layout="rows"))
    assert policy.family.layouts == {"rows"}


def test_layers_that_cannot_follow_are_refused_with_the_packages_reason(
    folder_of: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = SimpleNamespace(mode="none", reason="Mixer: 1 layers had their forward replaced")
    monkeypatch.setattr(tree_recurrence, "install", lambda model: answer)
    with pytest.raises(UnsupportedError, match="tree-recurrence says: Mixer: 1 layers had their forward replaced"):
        load_policy(ModelSpec(path=str(folder_of("qwen3_5")), layout="tree"))
    load_policy(ModelSpec(path=str(folder_of("qwen3_5")), layout="rows"))


def test_layers_that_say_they_follow_and_do_not_are_found_out(
    folder_of: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sightline.models.flat.tree_inputs", lambda plan: {})
    with pytest.raises(UnsupportedError, match="answers that are computed together read each other"):
        load_policy(ModelSpec(path=str(folder_of("qwen3_5")), layout="tree"))


def test_bitsandbytes_is_imported_late_and_fetches_no_compiled_code_where_kernels_is_installed() -> None:
    """A process of its own, with a package `kernels` that notes what it is asked for."""
    asked = (
        "import sys, types; kernels = types.ModuleType('kernels'); calls = []; "
        "kernels.__spec__ = types.SimpleNamespace(name='kernels'); "
        "kernels.get_kernel = lambda *a, **k: calls.append(a); sys.modules['kernels'] = kernels; "
        "import sightline.train.loop, peft.helpers; "
        "print([name for name in sys.modules if name.startswith('bitsandbytes')]); "
        "assert peft.import_utils.is_bnb_4bit_available() and 'bitsandbytes.nn' in sys.modules; "
        "assert peft.helpers.bnb.nn is sys.modules['bitsandbytes'].nn and sys.modules['kernels'] is kernels; "
        "print(calls)"
    )
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n[]\n", done.stderr

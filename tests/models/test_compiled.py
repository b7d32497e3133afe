"""Compiled layers: the same numbers, whatever else is asked for, and no graph per length."""

from __future__ import annotations

from pathlib import Path
from threading import Event, Thread

import pytest
import torch
from groups import corner_groups
from test_layouts import batch_of, policy_of, relative, score

from sightline.data.render import Renderer
from sightline.models.attention_plan import Form
from sightline.models.compiled import graphs
from sightline.models.decoding import decoding
from sightline.recipes.schema import LoraSpec, PartsSpec, SamplingSpec
from sightline.rollouts.hf import HFEngine
from sightline.types import Group, Prompt

FULL = PartsSpec(language="full", projector="full", vision="full")
LORA = PartsSpec(language="lora", projector="full", vision="frozen")


@pytest.fixture(autouse=True)
def forget_graphs():
    """Graphs of one test must not serve another."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


COMBINATIONS = [
    ("llava", FULL, False, "rows", "auto"),
    ("llava_next", LORA, False, "packed", "segments"),
    ("llava", LORA, True, "tree", "gather"),
    ("qwen2_5_vl", FULL, False, "tree", "merge"),
]


@pytest.mark.parametrize(("family", "parts", "checkpointing", "layout", "form"), COMBINATIONS)
def test_layers_give_the_same_numbers_in_every_layout(
    tiny: dict[str, Path],
    pictures: list[str],
    family: str,
    parts: PartsSpec,
    checkpointing: bool,
    layout: str,
    form: Form,
) -> None:
    """Traced whole, and run as traced: what differs between the combinations."""
    options = {"parts": parts, "lora": LoraSpec(rank=4), "gradient_checkpointing": checkpointing}
    plain, compiled = (policy_of(tiny[family], **options).train() for _ in range(2))
    compiled.load_trainable_state(plain.trainable_state())
    compiled.compile_layers("aot_eager")
    plain.attention = compiled.attention = form
    batch = batch_of(plain, corner_groups(pictures)[:2], layout)
    logprobs, grads = score(plain, batch)
    own, own_grads = score(compiled, batch)
    assert (own - logprobs).abs().max() < 1e-5
    assert relative(own_grads, grads) < 1e-5


def test_one_graph_serves_all_lengths_and_layers(tiny: dict[str, Path], pictures: list[str]) -> None:
    """Compiled for real. A graph for training, one without gradients, one for the reference."""
    policy = policy_of(tiny["llava"], parts=LORA, lora=LoraSpec(rank=4)).train()
    policy.attention = "gather"
    groups = corner_groups(pictures)
    batches = [batch_of(policy, some, "tree") for some in (groups, groups[:1], groups[1:4])]
    expected = [score(policy, batch) for batch in batches]
    with torch.no_grad():
        references = [policy(batch, reference=True).logprobs for batch in batches]
    before = graphs()
    policy.compile_layers()
    for batch, (logprobs, grads), reference in zip(batches, expected, references, strict=True):
        own, own_grads = score(policy, batch)
        assert (own - logprobs).abs().max() < 1e-5
        assert relative(own_grads, grads) < 1e-5
        with torch.no_grad():
            assert (policy(batch, reference=True).logprobs - reference).abs().max() < 1e-5
    assert graphs() - before == 2
    copy = policy.reference_copy()
    assert all(layer._compiled_call_impl is None for layer in copy.layers())  # it would call the original's
    prompt = Group(prompts=(Prompt(id="0", messages=groups[0].prompts[0].messages, images=(pictures[0],)),))
    engine = HFEngine(policy, Renderer(policy.processor, policy.family))
    engine.generate([prompt], SamplingSpec(n=2, max_new_tokens=4), seed=0)
    assert graphs() - before == 2  # sampling takes the layers as they are


def test_two_models_that_decode_at_once_leave_compiled_layers_compiled(
    tiny: dict[str, Path], pictures: list[str]
) -> None:
    """A judge in a thread of its own ends after the policy that samples; what follows is training."""
    policy, judge = (policy_of(tiny["llava"], parts=LORA, lora=LoraSpec(rank=4)).train() for _ in range(2))
    batch = batch_of(policy, corner_groups(pictures)[:1], "rows")
    policy.compile_layers("eager")
    began, over, start = Event(), Event(), graphs()

    def judged() -> None:
        with decoding(judge):
            began.set()
            over.wait(60)

    thread = Thread(target=judged, daemon=True)
    with decoding(policy):
        thread.start()
        assert began.wait(60)
        with torch.no_grad():
            policy(batch)
        assert graphs() == start, "it decodes"
    over.set()
    thread.join()
    score(policy, batch)
    assert graphs() > start

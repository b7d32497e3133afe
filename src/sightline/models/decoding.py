"""A policy while it decodes: its attention and modes are switched, and no other thread works with it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch

from sightline.models.branches import BRANCHES
from sightline.models.policy import Policy, decoders

_turns: WeakKeyDictionary[Policy, threading.RLock] = WeakKeyDictionary()
_giving = threading.Lock()


@contextmanager
def alone(policy: Policy) -> Iterator[None]:
    """Waits for its turn: decoding switches what other threads would compute with, and gives it back as it found it."""
    with _giving:
        turn = _turns.setdefault(policy, threading.RLock())
    with turn:
        yield


@contextmanager
def decoding(policy: Policy) -> Iterator[None]:
    """Evaluation mode, no gradient, and the decoder's attention switched where it shares by mask; all restored on
    leaving. Other threads wait.

    Not ``inference_mode``: a tensor that is cached while sampling may be read while training.
    """
    with alone(policy), _switched(policy):
        yield


@contextmanager
def _switched(policy: Policy) -> Iterator[None]:
    modes = [(module, module.training) for module in policy.modules()]
    switched = decoders(policy.language) if policy.family.branches else []
    before = [decoder.config._attn_implementation for decoder in switched]
    # compiled layers run as they are: every token changes what a branch holds. Not by torch's stance, which is that of
    # the whole process: of two models that decode in two threads, the one that ends last would leave its own for good
    compiled = [(module, module._compiled_call_impl) for module, _ in modes if module._compiled_call_impl is not None]
    try:
        policy.eval()
        for module, _ in compiled:
            module._compiled_call_impl = None
        for decoder in switched:
            decoder.set_attn_implementation(BRANCHES)
        with torch.no_grad(), policy.autocast():
            yield
    finally:
        for module, call in compiled:
            module._compiled_call_impl = call
        for decoder, implementation in zip(switched, before, strict=True):
            decoder.set_attn_implementation(implementation)
        for module, training in modes:
            module.training = training

"""Writes a trained policy as a folder for others, and shows that the folder is that policy.

What was written is read again in a fresh process with plain transformers (and PEFT, where it is an adapter), and must
give the log-probabilities of the policy in memory on rows with pictures, from the same tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from sightline.errors import UnsupportedError, VerificationError
from sightline.models.adapters import switched
from sightline.models.policy import Policy
from sightline.models.quantized import is_quantized
from sightline.models.reload import ProbeRow, Reading, read_fresh, read_model


@dataclass(frozen=True, kw_only=True)
class Bound:
    """How far log-probabilities may be apart, in nats."""

    mean: float
    most: float


BOUNDS = {
    "float32": Bound(mean=1e-4, most=2e-3),
    "bfloat16": Bound(mean=0.05, most=0.5),
    "quantised weights": Bound(mean=0.05, most=0.5),
}
"""By the type that weights are written in. bfloat16 rounds every product to 8 bits; so does bitsandbytes by itself in
4-bit layers on some CPUs, and what is merged into them is rounded once more."""
_SURVIVES = 0.5
"""A merged model must be nearer to the trained one than this share of the way that the adapter moved it."""


@dataclass(frozen=True, kw_only=True)
class Gap:
    """Between a model in full precision and what was trained: the same adapter on quantised weights."""

    kind: str
    """How they were quantised."""
    mean: float
    """Mean difference of a token's log-probability, in nats."""
    most: float

    def sentence(self) -> str:
        """For people."""
        return (
            f"as it was trained, on weights in {self.kind}, they differ from these by {self.mean:.1e} on average and "
            f"{self.most:.1e} at most"
        )


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What the comparison found."""

    rows: int
    pictures: int
    tokens: int
    mean: float
    """Mean difference of a token's log-probability, in nats."""
    most: float
    dtype: str
    """Which of ``BOUNDS`` holds."""
    moved: float | None = None
    """How far the adapter had moved them, on average; None: nothing was merged."""
    low: Gap | None = None
    """How far the model is from the one that was trained on quantised weights; None: there was none."""

    def sentence(self) -> str:
        """For people."""
        bound = BOUNDS[self.dtype]
        text = (
            f"reloaded in a fresh process with plain transformers, log-probabilities of {self.tokens} tokens in "
            f"{self.rows} rows with {self.pictures} pictures differ from the trained model by {self.mean:.1e} nats on "
            f"average and {self.most:.1e} at most (bounds for {self.dtype}: {bound.mean:g} and {bound.most:g})"
        )
        text += "" if self.moved is None else f"; the adapter had moved them by {self.moved:.1e}"
        return text if self.low is None else f"{text}; {self.low.sentence()}"


def merge(policy: Policy, dtype: str, *, into_quantised: bool = False) -> Any:
    """The transformers model with the policy's adapter merged into its weights. The policy is used up.

    Args:
        policy: with an adapter.
        dtype: of the weights afterwards.
        into_quantised: merge into quantised weights all the same, which rounds what was trained to their few bits.

    Raises:
        UnsupportedError: no adapter, quantised weights without being told to, or weights quantised in memory.
    """
    if not policy.has_adapter:
        raise UnsupportedError("there is no adapter to merge: the whole model was trained. Use sightline export")
    kind = quantised(policy.base)
    if kind is None and is_quantized(policy.base):
        raise UnsupportedError(
            "the weights were quantised in memory (model.quantization), and transformers loads no folder of such. "
            "Leave --into-quantised out: the adapter is then merged into the weights that they were made from"
        )
    if kind is not None and not into_quantised:
        raise UnsupportedError(
            f"the model is quantised ({kind}), and merging would round what was trained to its few bits. Merge into "
            "the model in full precision that it was made from, or pass --into-quantised"
        )
    _untie(policy.base)
    merged = policy.model.merge_and_unload(safe_merge=True)
    if quantised(merged) is None:
        merged.to(getattr(torch, dtype))
        merged.config.dtype = getattr(torch, dtype)
    return merged


def _untie(model: Any) -> None:
    """Parts an LM head from the input embeddings it shares a tensor with, where an adapter would be merged into one of
    them: into the other as well, that is."""
    ends = model.get_input_embeddings(), model.get_output_embeddings()
    embedding, head = (one.get_base_layer() if isinstance(one, BaseTunerLayer) else one for one in ends)
    if head.weight is embedding.weight and any(isinstance(one, BaseTunerLayer) for one in ends):
        head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
        for config in (model.config, model.config.get_text_config()):
            config.tie_word_embeddings = False


def quantised(model: Any) -> str | None:
    """How the weights of a transformers model are quantised; None: they are not."""
    settings = getattr(model.config, "quantization_config", None)
    if settings is None and not getattr(model, "is_quantized", False):
        return None
    values = settings if isinstance(settings, dict) else getattr(settings, "to_dict", dict)()
    return str(getattr(values.get("quant_method", "unknown"), "value", values.get("quant_method", "unknown")))


@dataclass(frozen=True, kw_only=True)
class Expected:
    """The policy in memory, as a folder must reproduce it."""

    rows: Sequence[ProbeRow]
    trained: Reading
    dtype: str
    """Of the weights as they are written."""
    base: str | None
    """The model of an adapter; None: a whole model is written."""
    quantised: bool
    before: Reading | None = None
    """Without the adapter, where it is merged."""
    low: Gap | None = None
    """To the model in quantised weights that was trained."""

    @classmethod
    def of(cls, policy: Policy, rows: Sequence[ProbeRow], *, dtype: str, base: str | None, merging: bool) -> Expected:
        """Reads the policy by its model's own forward; one that is merged also with its adapter off."""
        before, trained = None, read_policy(policy, rows)
        with policy.autocast():
            if merging:
                with switched(policy.model, None):
                    before = read_model(policy.model, policy.processor, rows)
        low = quantised(policy.base) is not None
        return cls(rows=rows, trained=trained, dtype=dtype, base=base, quantised=low, before=before)


def read_policy(policy: Policy, rows: Sequence[ProbeRow]) -> Reading:
    """A policy by its model's own forward."""
    policy.eval()
    with policy.autocast():
        return read_model(policy.model, policy.processor, rows)


def gap(kind: str, low: Reading, trained: Reading) -> Gap:
    """Between two readings of the same rows."""
    apart = (torch.cat(low.logprobs) - torch.cat(trained.logprobs)).abs()
    return Gap(kind=kind, mean=float(apart.mean()), most=float(apart.max()))


def verify(folder: Path, expected: Expected, weights: Mapping[str, str], scratch: Path) -> Verified:
    """Reads a folder in a fresh process and compares it with the trained model.

    Args:
        folder: as written.
        expected: of the policy in memory.
        weights: fingerprints of the tensors that were to be written.
        scratch: folder for the process.

    Raises:
        VerificationError: it is another model, or its processor makes other tokens.
    """
    found = read_fresh(folder, expected.rows, scratch, base=expected.base, dtype=expected.dtype)
    _check_weights(weights, found.weights)
    for number, (here, there) in enumerate(zip(expected.trained.ids, found.ids, strict=True)):
        if not torch.equal(here, there):
            raise VerificationError(
                f"the processor as written makes other tokens of row {number + 1} ({len(there)} tokens, {len(here)} in "
                "training). Nothing was kept"
            )
    trained, before = torch.cat(expected.trained.logprobs), expected.before
    apart = (trained - torch.cat(found.logprobs)).abs()
    verified = Verified(
        rows=len(expected.rows),
        pictures=sum(len(row.images) for row in expected.rows),
        tokens=len(apart),
        mean=float(apart.mean()),
        most=float(apart.max()),
        dtype="quantised weights" if expected.quantised else expected.dtype,
        moved=None if before is None else float((trained - torch.cat(before.logprobs)).abs().mean()),
        low=expected.low,
    )
    _check_bound(verified)
    return verified


def _check_weights(there: Mapping[str, str], found: Mapping[str, str]) -> None:
    names = sorted(name for name in {**there, **found} if there.get(name) != found.get(name))
    if names:
        raise VerificationError(
            f"{len(names)} tensors of what was written are not those of the trained model (first {names[0]}). Nothing "
            "was kept"
        )


def _check_bound(verified: Verified) -> None:
    bound = BOUNDS[verified.dtype]
    if not (verified.mean <= bound.mean and verified.most <= bound.most):  # also where they are no numbers
        raise VerificationError(f"what was written is not the trained model: {verified.sentence()}. Nothing was kept")
    if verified.moved and verified.mean > _SURVIVES * verified.moved:
        raise VerificationError(
            f"merging in {verified.dtype} lost what was trained: {verified.sentence()}. Nothing was kept. Pass "
            "--dtype float32, or keep the adapter as it is"
        )

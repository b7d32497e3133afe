"""Fills the columns of a batch that an algorithm needs and the data does not bring: log-probabilities under the
reference, and under the policy before the step.

The reference is the policy as it was when training began. Three ways to have it give the same numbers:

=========  ==================================================  ===========================================
adapter    the same module: its new adapters off, or a frozen  no memory but that of a loaded adapter, one
           copy of the adapter it goes on from in their place  more forward; adapters only
copy       a frozen copy of the module                         the weights twice, one more forward
cache      numbers computed once and kept on disk              no forward while training; fixed rows only
=========  ==================================================  ===========================================
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sightline.data.sampler import cost, plan_micro_batches
from sightline.errors import CheckpointError, DataError, UnsupportedError
from sightline.files import replacing
from sightline.rendered import RenderedGroup
from sightline.train.clock import Clock
from sightline.types import Batch, Head, LayoutName, Response, Scores

_LOGPROBS: frozenset[Head] = frozenset({"logprobs"})
_CRITIC: frozenset[Head] = frozenset({"logprobs", "values"})
_ENTROPY: frozenset[Head] = frozenset({"entropy"})
_SCORED = frozenset({"ref_logprobs", "old_logprobs", "old_entropy"})
"""Columns that take a forward pass."""
_LACKS: Mapping[str, Callable[[Response], bool]] = {
    "weights": lambda response: response.weights is None,
    "rollout_logprobs": lambda response: response.rollout_logprobs is None,
    "rewards": lambda response: response.reward is None,
    "reward_parts": lambda response: not response.rewards,
    "labels": lambda response: response.label is None,
    "values": lambda response: "values" not in response.columns,
}
"""Columns that the data must bring, and how a response is told that lacks one."""
_OF_DATA = frozenset(_LACKS)
_REMEDIES = {
    "labels": "; relation: mismatched gives labels to rows with chosen and rejected (kto)",
    "values": "; online.greedy gives each prompt a greedy answer to measure by (remax)",
}


class Scorer(Protocol):
    """The part of ``models.policy.Policy`` that a column needs. Called under the runtime's autocast."""

    training: bool

    def __call__(self, batch: Batch, heads: frozenset[Head], reference: bool = False) -> Scores: ...

    def train(self, mode: bool = True) -> object: ...


class Reference(Protocol):
    """Gives reference log-probabilities of a batch."""

    def logprobs(self, batch: Batch, groups: Sequence[RenderedGroup]) -> Tensor:
        """[N] float32 for a batch laid out from ``groups``."""
        ...


class AdapterReference:
    """The policy with its adapters as training found them."""

    def __init__(self, policy: Scorer) -> None:
        self._policy = policy

    def logprobs(self, batch: Batch, groups: Sequence[RenderedGroup]) -> Tensor:
        return scored(self._policy, batch, reference=True)


class CopyReference:
    """A frozen copy of the policy, made before training."""

    def __init__(self, copy: Scorer) -> None:
        copy.train(False)
        self._copy = copy

    def logprobs(self, batch: Batch, groups: Sequence[RenderedGroup]) -> Tensor:
        return scored(self._copy, batch)


def scored(policy: Scorer, batch: Batch, *, reference: bool = False) -> Tensor:
    """[N] log-probabilities without gradient and without dropout; the policy's mode is restored."""
    logprobs = _scores(policy, batch, _LOGPROBS, reference=reference).logprobs
    assert logprobs is not None
    return logprobs


def _scores(policy: Scorer, batch: Batch, heads: frozenset[Head], *, reference: bool = False) -> Scores:
    mode = policy.training
    policy.train(False)
    try:
        with torch.no_grad():
            return policy(batch, heads, reference)
    finally:
        policy.train(mode)


class Columns:
    """Fills what an algorithm needs."""

    def __init__(
        self,
        needs: frozenset[str],
        reference: Reference | None = None,
        policy: Scorer | None = None,
        clock: Clock | None = None,
        *,
        critic: bool = False,
    ) -> None:
        """
        Args:
            needs: names of columns.
            reference: fills ``ref_logprobs``.
            policy: fills ``old_logprobs`` and ``old_entropy``: the policy as it is before the step, without dropout.
            clock: measures how long each takes.
            critic: whether ``values`` are those of the policy's value head, with the same pass, and not of the data.

        Raises:
            UnsupportedError: a column that nothing here can fill.
        """
        if unknown := needs - _OF_DATA - _SCORED:
            raise UnsupportedError(f"The algorithm needs the columns {sorted(unknown)}, which nothing fills.")
        if "ref_logprobs" in needs and reference is None:
            raise UnsupportedError("The algorithm needs reference log-probabilities. Set reference in the recipe.")
        assert policy is not None or not needs & {"old_logprobs", "old_entropy"}
        self._needs, self._of_data = needs, (needs & _OF_DATA) - ({"values"} if critic else set())
        self._reference = reference
        self._policy = policy
        self._clock = clock or Clock(torch.device("cpu"), on=False)
        self._critic = critic

    @property
    def scores(self) -> bool:
        """Whether any column takes a forward pass."""
        return bool(self._needs & _SCORED)

    def fill(self, batch: Batch, groups: Sequence[RenderedGroup]) -> Batch:
        """The batch with every column that is needed; log-probabilities that it has already are kept.

        Raises:
            DataError: a column that the data must bring is missing; names the groups.
        """
        for name in self._of_data:
            if vars(batch)[name] is None:
                lacking = [g.group for g in groups if any(map(_LACKS[name], g.group.responses))]
                raise DataError(
                    f"the algorithm needs {name}, and not every response has it",
                    source=", ".join(group.source or group.id for group in lacking),
                    remedy=f"Give every response of these groups its {name}, or choose another algorithm"
                    + _REMEDIES.get(name, ""),
                )
        if "ref_logprobs" in self._needs and batch.ref_logprobs is None:
            assert self._reference is not None
            with self._clock("reference"):
                batch = batch.with_columns(ref_logprobs=self._reference.logprobs(batch, groups))
        return batch.with_columns(**self._before(batch))

    def _before(self, batch: Batch) -> dict[str, Tensor]:
        """What the policy as it is says of a batch that does not know it from before its round."""
        lacking = {name for name in ("old_logprobs", "old_entropy") if vars(batch)[name] is None} & self._needs
        if batch.dependence is not None:  # made from the entropies, which are not kept
            lacking -= {"old_entropy"}
        if not lacking:
            return {}
        assert self._policy is not None
        heads = (_CRITIC if self._critic else _LOGPROBS) | (_ENTROPY if "old_entropy" in lacking else set())
        with self._clock("old_logprobs"):
            scores = _scores(self._policy, batch, heads)
        found = {"old_logprobs": scores.logprobs, "old_entropy": scores.entropy}
        filled = {name: values for name, values in found.items() if name in lacking and values is not None}
        return filled if scores.values is None else filled | {"values": scores.values}


class CachedReference:
    """Numbers computed once before training, found again by a fingerprint of everything they depend on.

    The fingerprint covers the model's weights, the precision, and the row as the processor and the template
    rendered it: token ids, scored tokens and pixels. Whatever changes one of them changes the fingerprint, so
    that a stale number is never found, and is computed anew.

    Files: ``{rank}-{number}.safetensors``, each renamed into place when whole; a killed run goes on where the
    last one ended.
    """

    def __init__(self, folder: Path, model: str) -> None:
        """
        Args:
            folder: where the numbers are kept.
            model: fingerprint of the weights (:func:`fingerprint_weights`) and of the precision.
        """
        self._folder, self._model = folder, model
        self._known: dict[str, Tensor] = {}

    def load(self) -> None:
        """Reads all numbers in the folder, those of other ranks included."""
        for path in sorted(self._folder.glob("*.safetensors")):
            self._known.update(load_file(path))

    def missing(self, groups: Iterable[RenderedGroup]) -> Iterator[RenderedGroup]:
        """Those groups whose numbers are not there."""
        return (group for group in groups if self.fingerprint(group) not in self._known)

    def save(self, numbers: Mapping[str, Tensor], rank: int) -> None:
        """Keeps the numbers of some groups, by fingerprint, in a file of their own."""
        number = len(list(self._folder.glob(f"{rank:04d}-*.safetensors")))
        final = self._folder / f"{rank:04d}-{number:06d}.safetensors"
        with replacing(final) as aside:
            save_file({key: value.contiguous() for key, value in numbers.items()}, aside)
        self._known.update(numbers)

    def fingerprint(self, group: RenderedGroup) -> str:
        """SHA-256 of the weights' fingerprint and of the row as rendered."""
        digest = hashlib.sha256(self._model.encode())
        for prompt in group.prompts:
            digest.update(repr((prompt.tokens, prompt.images, prompt.trained)).encode())
        for response in group.responses:
            digest.update(repr((response.prompt, response.tokens, response.trained)).encode())
        for image in group.images:
            _update(digest, image.tensors)
        return digest.hexdigest()

    def logprobs(self, batch: Batch, groups: Sequence[RenderedGroup]) -> Tensor:
        """[N], put together group by group.

        Raises:
            CheckpointError: a group whose numbers were not computed before training.
        """
        laid_out = batch.structure
        filled = laid_out.target.new_zeros(laid_out.target.shape, dtype=torch.float32)
        owner = laid_out.group[laid_out.response]
        for index, group in enumerate(groups):
            numbers = self._known.get(self.fingerprint(group))
            if numbers is None:
                raise CheckpointError(
                    f"No reference numbers for {group.group.source or group.group.id}: its text or picture changed "
                    "while training ran. Start the run again: they are computed before training."
                )
            filled[owner == index] = numbers.to(filled.device)
        return batch.sent(filled)


def fill_cache(
    cache: CachedReference,
    chunks: Iterable[Sequence[RenderedGroup]],
    score: Callable[[Sequence[Sequence[RenderedGroup]]], Iterable[tuple[Batch, Tensor]]],
    *,
    rank: int,
    layout: LayoutName,
    budget: int,
) -> int:
    """Computes what the cache lacks, and saves it chunk by chunk.

    Args:
        cache: loaded.
        chunks: this rank's groups, some at a time; as many chunks on every rank.
        score: lays micro-batches of groups out and gives for each (batch, [N] log-probabilities) under the policy
            before training. It is called once for every chunk, with nothing where nothing is missing.
        rank: this rank.
        layout: for the cost of a group.
        budget: most tokens of a forward pass.

    Returns:
        Groups computed.
    """
    computed = 0
    for chunk in chunks:
        missing = list({cache.fingerprint(group): group for group in cache.missing(chunk)}.values())
        numbers: dict[str, Tensor] = {}
        plan = plan_micro_batches([cost(group, layout) for group in missing], budget)
        micros = [[missing[index] for index in micro.members] for micro in plan]
        for groups, (batch, logprobs) in zip(micros, score(micros), strict=True):
            owner = batch.group[batch.response]
            numbers |= {cache.fingerprint(g): logprobs[owner == index].cpu() for index, g in enumerate(groups)}
        if numbers:
            cache.save(numbers, rank)
        computed += len(missing)
    return computed


def fingerprint_weights(module: nn.Module) -> str:
    """SHA-256 of all parameters and persistent buffers: names, types, shapes and bytes."""
    digest = hashlib.sha256()
    _update(digest, module.state_dict())
    return digest.hexdigest()


def _update(digest: hashlib._Hash, tensors: Mapping[str, Tensor]) -> None:
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{value.dtype}|{tuple(value.shape)}|".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)

"""Where the groups of an optimizer step come from: rows on disk, or the policy itself (``train.online``)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

from sightline.data.encode import ChatEncoder
from sightline.data.render import Renderer
from sightline.data.sampler import Sampler, share
from sightline.data.stored import fingerprint
from sightline.errors import CheckpointError, DataError
from sightline.rendered import RenderedGroup
from sightline.types import Group, Stat, World

_ENCODED = 8
"""Groups by which another template or tokenizer is told."""


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What one rank takes into one step."""

    groups: Sequence[RenderedGroup]
    """Never empty: a rank without a share takes another rank's first group for company."""
    counted: bool = True
    """False: run with weight 0."""
    stats: Mapping[str, Stat] = field(default_factory=dict)
    """This rank's part of what the source itself reports (rewards, lengths)."""
    on_policy: bool = False
    """Whether no optimizer step was taken since the columns of the round were filled."""


RoundColumns = dict[tuple[str, int], dict[str, tuple[float, ...]]]
"""By id of the group and index of the response: columns by their name, one number for each trained token."""


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """Renders the groups of a run.

    Rows are checked when they are read, but pictures are decoded only now: one that is seen to be damaged here, or is
    gone, makes a bad row as any other, under the same policy. Thread-safe.
    """

    renderer: Renderer
    leave_out: Callable[[Group, DataError], None] | None = None
    """Told once of every group that is left out; None: the error ends the run."""
    _left_out: set[tuple[Any, ...]] = field(default_factory=set)

    def __call__(self, group: Group) -> RenderedGroup | None:
        """The group as rendered; None: it is left out, now and from now on."""
        key = (group.id, *(prompt.images for prompt in group.prompts))
        if key in self._left_out:
            return None
        try:
            return self.renderer.render(group)
        except DataError as error:
            if self.leave_out is None:
                remedy = f"{error.remedy}. With data.on_bad_row: skip the run goes on from its last checkpoint"
                raise DataError(error.found, source=error.source, remedy=remedy) from error
            if key not in self._left_out:
                self._left_out.add(key)
                self.leave_out(group, error)
            return None

    def taken(self, made: Sequence[RenderedGroup | None], spare: Iterable[Group], *, counted: bool = True) -> Taken:
        """Those groups that could be rendered; where there is none, the first of ``spare`` that can, for company.

        Raises:
            DataError: none at all.
        """
        whole = [one for one in made if one is not None]
        if whole:
            return Taken(groups=whole, counted=counted)
        company = next((one for one in map(self, spare) if one is not None), None)
        if company is None:
            raise DataError("no row of the data can be rendered any more", remedy="Are the pictures still there?")
        return Taken(groups=[company], counted=False)


class Source(Protocol):
    """Groups for every optimizer step. Every rank calls every method, with the same arguments."""

    def begin(self, step: int) -> bool:
        """Whether a round of sampling begins with this step; its groups are then there. Called before ``take``."""
        ...

    def round(self) -> Taken:
        """This rank's share of all groups of the round."""
        ...

    def keep(self, columns: RoundColumns) -> None:
        """Puts the columns that the ranks found for their shares with the groups of the round."""
        ...

    def take(self, step: int) -> Taken:
        """This rank's groups of the step, counted from 0. Steps are taken in order."""
        ...

    def steps(self, epochs: float) -> int:
        """Optimizer steps in so many epochs."""
        ...

    def epochs(self, steps: int) -> float:
        """Epochs done after so many steps."""
        ...

    def drawn(self, steps: int) -> Mapping[str, int]:
        """Groups that so many optimizer steps have taken of each source of a mixture; empty: there is one source."""
        ...

    def state(self) -> dict[str, Any]:
        """Plain JSON, for a checkpoint. The same on every rank."""
        ...

    def restore(self, state: Mapping[str, Any] | None) -> None:
        """Goes back to a state; None: to the very beginning."""
        ...

    def close(self) -> None: ...


def rows_state(groups: Sequence[Group]) -> dict[str, Any]:
    """What a checkpoint keeps of the rows of a source."""
    return {"groups": len(groups), "rows": fingerprint(groups)}


def check_rows(state: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """
    Args:
        state: of a checkpoint, with its ``rows_state``.
        own: the ``rows_state`` of the data as they are now.

    Raises:
        CheckpointError: other rows, so that the steps done cannot be told from those to come.
    """
    if state.get("groups", own["groups"]) != own["groups"]:
        raise CheckpointError(
            f"The checkpoint was made with {state['groups']} groups, the data now give {own['groups']}. "
            "Bring the old data back, or start again with another output_dir."
        )
    if state.get("rows", own["rows"]) != own["rows"]:
        raise CheckpointError(
            "The rows are not those that the checkpoint was made with: a question, an answer or a comparison "
            "changed, or their order. Bring the old data back, or start again with another output_dir."
        )


def tokens_fingerprint(groups: Sequence[Group], encoder: ChatEncoder) -> str:
    """SHA-256 of the token ids of the first groups: of what template and tokenizer make of them."""
    digest = hashlib.sha256()
    for group in groups[:_ENCODED]:
        digest.update(repr([encoder.prompt(prompt.messages) for prompt in group.prompts]).encode())
        written = [(one, group.prompts[one.prompt].messages) for one in group.responses if one.tokens is None]
        digest.update(repr([encoder.answer(messages, one.text) for one, messages in written]).encode())
    return digest.hexdigest()


class OfflineSource:
    """Groups from disk, rendered ahead in threads.

    Reading pictures and tokenizing hardly hold Python's lock, so threads do; nothing is pickled.
    """

    def __init__(
        self, groups: Sequence[Group], render: Rendering, sampler: Sampler, *, world: World, workers: int
    ) -> None:
        """
        Args:
            groups: the data set, the same on every rank.
            render: leaves out, or refuses, what cannot be rendered after all.
            sampler: order of the groups.
            world: this rank, and how many there are.
            workers: threads; 0: render when taken.
        """
        self._groups, self._render, self._sampler, self._world = groups, render, sampler, world
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="render") if workers else None
        self._rows = rows_state(groups)
        self._ahead: dict[int, list[Future[RenderedGroup | None]]] = {}

    def begin(self, step: int) -> bool:
        return False

    def round(self) -> Taken:
        raise TypeError("rows on disk have no rounds")

    def keep(self, columns: RoundColumns) -> None:
        raise TypeError("rows on disk have no rounds")

    def take(self, step: int) -> Taken:
        counted = bool(self._mine(step))
        company = (self._groups[index] for index in (*self._sampler.indices(step), *range(len(self._groups))))
        return self._render.taken(self._made(step), company, counted=counted)

    def _made(self, step: int) -> list[RenderedGroup | None]:
        if self._pool is None:
            return [self._render(group) for group in self._wanted(step)]
        for soon in (step, step + 1):
            if soon not in self._ahead:
                self._ahead[soon] = [self._pool.submit(self._render, group) for group in self._wanted(soon)]
        return [future.result() for future in self._ahead.pop(step)]

    def steps(self, epochs: float) -> int:
        return self._sampler.steps(epochs)

    def epochs(self, steps: int) -> float:
        return self._sampler.epochs(steps)

    def drawn(self, steps: int) -> Mapping[str, int]:
        return self._sampler.drawn(steps) if len(self._sampler.mixture) > 1 else {}

    def state(self) -> dict[str, Any]:
        return self._rows

    def restore(self, state: Mapping[str, Any] | None) -> None:
        """
        Raises:
            CheckpointError: the data set changed, so that the steps done cannot be told from those to come.
        """
        check_rows(state or {}, self._rows)

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def _mine(self, step: int) -> list[int]:
        return share(self._sampler.indices(step), self._world.rank, self._world.size)

    def _wanted(self, step: int) -> list[Group]:
        return [self._groups[index] for index in self._mine(step) or self._sampler.indices(step)[:1]]

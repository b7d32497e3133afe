"""Who is told how a run goes, and may end it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a run leaves."""

    run_dir: Path
    model_dir: Path
    """The trained model, or its adapter."""
    steps: int
    """Optimizer steps done in all."""
    resumed_from: int
    """Step that this call went on from; 0: it started."""
    last: Mapping[str, Any]
    """The last record logged by this call; empty if there was nothing left to do."""
    stopped: str | None = None
    """Why a callback ended the run before its last step; None: none did."""


class Callback:
    """Told how a run goes. Override what you need: every method does nothing of itself.

    All are called on the main process alone, between two optimizer steps, and what they raise ends the run.

    >>> class Enough(Callback):
    ...     def on_log(self, record):
    ...         if record["loss"] < 0.1:
    ...             self.stop("the loss is below 0.1")
    """

    _why: str | None = None

    def on_start(self, run_dir: Path, step: int, steps: int) -> None:
        """Before the first step of a call that trains.

        Args:
            run_dir: ``output_dir``, with the recipe and the environment in it.
            step: optimizer steps that are done: 0, or those of the checkpoint that the run goes on from.
            steps: optimizer steps of the whole run.
        """

    def on_step(self, step: int, steps: int) -> None:
        """After every optimizer step, behind ``on_log``; ``step`` of ``steps`` are done."""

    def on_log(self, record: Mapping[str, Any]) -> None:
        """With every record that goes to ``metrics.jsonl``: ``step``, ``epoch``, ``loss`` and what else was due."""

    def on_checkpoint(self, folder: Path, step: int) -> None:
        """After a checkpoint is whole in its folder."""

    def on_end(self, result: TrainResult) -> None:
        """After the model is saved: the run is at its last step, or was stopped. Not after an error."""

    def stop(self, why: str) -> None:
        """Ends the run after the step that is under way: a checkpoint and the model are saved, and the same call
        goes on from there. ``why`` is kept in the result."""
        self._why = why


@dataclass(frozen=True, kw_only=True)
class OnLog(Callback):
    """A function that is told every record."""

    tell: Callable[[Mapping[str, Any]], None]

    def on_log(self, record: Mapping[str, Any]) -> None:
        self.tell(record)


def forget_stops(callbacks: Sequence[Callback]) -> None:
    """What they stopped before was another call."""
    for one in callbacks:
        if one._why is not None:
            one._why = None


def asked_to_stop(callbacks: Sequence[Callback]) -> str | None:
    """Why one of them wants the run to end; None: none does."""
    return next((one._why for one in callbacks if one._why is not None), None)

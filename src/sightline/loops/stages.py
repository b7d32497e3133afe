"""The seam of loops: what a round is, what a stage of it is, what a method adds, and what a loop leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from sightline.recipes.schema import ModelSpec, Recipe
from sightline.types import Group


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One piece of work of a round. It is done once, and again only if what it reads or its settings change."""

    name: str
    """Unique in its round: ``sample``, ``score``, ``pairs``, ``train``, ``merge``, ``exam``."""
    out: Path
    """The file or folder that stands when it is done. Whoever runs it removes it before the stage is done again."""
    reads: Sequence[Path] = ()
    """Files and folders whose contents change the output; of a folder of a model its weights, settings and tokenizer. A
    name that is no path on this machine (of the hub) stands for itself."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What else changes the output. Plain JSON, without paths of the loop's own folder, which may move."""
    eased: Sequence[str] = ()
    """Settings whose value ``stop`` may be another one while the stage is under way: nothing has failed so far, and
    what is there is as any of them would have it."""
    run: Callable[[], None]
    """Does it. Called again after a kill, with the same inputs, it goes on item by item where it was, and what it
    leaves equals what an unbroken call leaves."""


@dataclass(frozen=True, kw_only=True)
class Round:
    """One round of a loop, and where its files lie."""

    number: int
    """From 1."""
    folder: Path
    spec: ModelSpec
    """The model that answers in this round and is trained in it, model t-1, as it is loaded to be asked and trained."""
    prompts: Path
    """Group file of what is asked: groups without responses."""
    seed: int
    """Of this round: another in each, so that no answer is drawn by the same numbers twice."""

    @property
    def model(self) -> Path:
        """The folder of the model of ``spec``; of the first round possibly a name on the hub."""
        return Path(self.spec.path)

    @property
    def root(self) -> Path:
        """Folder of the loop, which may move: pictures below it are named relative to the files of the round."""
        return self.folder.parent

    @property
    def pairs(self) -> Path:
        """Group file that the round trains on."""
        return self.folder / "pairs.jsonl"

    @property
    def run(self) -> Path:
        """Run directory of the training."""
        return self.folder / "train"

    @property
    def merged(self) -> Path:
        """Folder of the model that the round makes, model t."""
        return self.folder / "model"


class Method(Protocol):
    """How a round makes what it learns from."""

    def check(self, prompts: Sequence[Group]) -> None:
        """Looks, before anything is computed, whether the method can do with these prompts.

        Raises:
            SightlineError: what it needs is missing; names it.
        """
        ...

    def stages(self, round: Round) -> list[Stage]:
        """The stages of a round in their order, the last of which writes ``round.pairs`` (groups with edges); none
        where the training makes its own answers."""
        ...

    def training(self, round: Round, plain: Recipe) -> Recipe:
        """The training of a round: ``plain``, which trains on ``round.pairs``, as it is or with other parts
        (``online`` in the place of ``data``). Where it reads other files than the pairs, prompts are among them."""
        ...


@dataclass(frozen=True, kw_only=True)
class LoopResult:
    """What a loop leaves."""

    folder: Path
    best: int
    """Round whose model is the best; 0: none is better than the start."""
    model: Path
    """Its folder."""
    value: float | None
    """Its figure of ``exam.best``; None: there is no exam."""
    ended: str
    """Why there are no more rounds."""
    stages: int
    """That this call did."""

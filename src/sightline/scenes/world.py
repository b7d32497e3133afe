"""The built-in world: drawn scenes as data, as a reward and as a benchmark, by one object."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, get_args

from sightline.errors import RecipeError
from sightline.scenes import benchmark, language
from sightline.scenes.benchmark import Record
from sightline.scenes.language import Companion, Kind, Question
from sightline.scenes.reward import ScenesReward
from sightline.scenes.scene import COLOURS, SHAPES, SIZES, Scene, SceneObject
from sightline.types import Group, Prompt, Response

Split = Literal["train", "held_out"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)

_SHIFT: Final = 0.06
"""Largest shift of an object off the middle of its cell, as a share of the cell."""
_HELD_OUT: Final = 4
"""One in so many scenes is held out."""
_TRIES: Final = 8
"""Questions drawn for each one wanted: some repeat, some cannot be asked about a scene."""


def usual_companions() -> dict[str, Companion]:
    """What goes with what in the default world."""
    return {
        "star": Companion(shape="moon", colour="yellow"),
        "heart": Companion(shape="ring", colour="purple"),
        "bolt": Companion(shape="drop", colour="blue"),
    }


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """A world of drawn shapes with a co-occurrence prior, fully determined by its fields.

    As data: :meth:`groups`. As prompts: :meth:`prompts`. As a reward: :meth:`reward`. As a benchmark:
    :meth:`grade` and :meth:`metrics`. What is true of a picture is in ``Prompt.facts``; nothing else is needed
    to score an answer, so the reward and the benchmark also read Groups from a file.

    Example:
        >>> world = Scenes(seed=1)
        >>> world.scene("train", 0) == world.scene("train", 0)
        True
        >>> world.scene("train", 0).signature == world.scene("held_out", 0).signature
        False
    """

    seed: int = 0
    prior: float = 0.75
    """The dial, 0 to 1: probability that a training caption names the absent companion of an object."""
    companions: Mapping[str, Companion] = field(default_factory=usual_companions)
    """Shape to what usually goes with it."""
    context: float = 0.5
    """Share of scenes, 0 to 1, that are drawn around an object with a companion."""
    together: float = 0.3
    """How often, 0 to 1, the companion is there in such a scene."""
    shapes: tuple[str, ...] = tuple(SHAPES)
    colours: tuple[str, ...] = tuple(COLOURS)
    objects: tuple[int, int] = (2, 4)
    """Fewest and most objects of a scene; a companion that is there makes it two at least."""
    repeats: float = 0.1
    """Probability, 0 to 1, that an object has a shape that is there already."""
    sized: float = 0.2
    """Probability, 0 to 1, that a caption tells the size of an object."""
    grid: int = 3
    """Cells along each side of the picture; a cell holds one object at most."""
    pixels: int = 96
    """Side of the picture."""
    scoring: ScenesReward = field(default_factory=ScenesReward)
    """What an answer is worth."""

    def __post_init__(self) -> None:
        for name in ("prior", "context", "together", "repeats", "sized"):
            value = vars(self)[name]
            if not 0 <= value <= 1:
                raise RecipeError(f"scenes: {name} is {value}, expected a probability. Give a number from 0 to 1.")
        _check_known("shapes", self.shapes, SHAPES)
        _check_known("colours", self.colours, COLOURS)
        _check_known("companions", (*self.companions, *(c.shape for c in self.companions.values())), self.shapes)
        _check_known("companions", (c.colour for c in self.companions.values()), self.colours)
        fewest, most = self.objects
        room = min(self.grid**2, len(self.shapes) - len(self.companions))
        if not 1 <= fewest <= most <= room or most < 2:
            raise RecipeError(
                f"scenes: objects is {self.objects}, expected 1 <= fewest <= most and 2 <= most <= {room}: not more "
                "than cells, nor than shapes less companions. Give fewer objects, a larger grid or more shapes."
            )

    def scene(self, split: Split, index: int) -> Scene:
        """Scene number ``index`` of a split.

        The splits share no scene: to which one a scene belongs is decided by a hash of what is where.
        """
        for attempt in range(1000):
            scene = self._draw(random.Random(f"{self.seed}/{split}/{index}/{attempt}"), f"{split}-{index:06d}")
            if split_of(scene) == split:
                return scene
        raise RecipeError(f"scenes: no scene of split {split!r} in 1000 draws. Expected one of {get_args(Split)}.")

    def groups(
        self,
        split: Split,
        n: int,
        directory: str | Path,
        *,
        kinds: Sequence[Kind] = KINDS,
        questions_per_scene: int = 4,
        start: int = 0,
    ) -> Iterator[Group]:
        """Training data: one group per scene, with several prompts about the one picture and an answer to each.

        Args:
            split: Which scenes.
            n: How many scenes.
            directory: Where the pictures are written.
            kinds: What is asked. ``caption``: one caption, which carries the prior. The other kinds, each as often
                as it is named, are drawn from for the questions; their answers are true.
            questions_per_scene: Questions besides the caption; fewer where a scene does not give so many.
            start: Index of the first scene.
        """
        for scene, path in self._pictures(split, range(start, start + n), directory):
            asked = self._questions(scene, kinds, questions_per_scene)
            prompts = tuple(self._prompt(scene, path, question, k) for k, question in enumerate(asked))
            answers = tuple(Response(text=question.answer, prompt=k) for k, question in enumerate(asked))
            yield Group(prompts=prompts, responses=answers, source=f"scenes:{scene.id}")

    def prompts(
        self,
        split: Split,
        n: int,
        directory: str | Path,
        *,
        kind: Kind = "caption",
        per_scene: int = 1,
        start: int = 0,
        drawn: bool = False,
    ) -> Iterator[Group]:
        """Prompts to sample answers to: groups of one prompt and no response, ``per_scene`` for each of ``n`` scenes.

        A scene gives one caption prompt, and fewer questions than asked for where it does not have so many. Where its
        pictures are ``drawn``, by an earlier call with the same scenes and directory, they are not written again.
        """
        for scene, path in self._pictures(split, range(start, start + n), directory, drawn=drawn):
            for k, question in enumerate(self._questions(scene, (kind,), per_scene)):
                yield Group(prompts=(self._prompt(scene, path, question, k),), source=f"scenes:{scene.id}")

    def reward(self, group: Group) -> Group:
        """The group with a reward on every response; see :class:`ScenesReward`."""
        return self.scoring.reward(group)

    def grade(self, groups: Iterable[Group]) -> list[Record]:
        """Every response as a row of counts; see :mod:`sightline.scenes.benchmark`."""
        return benchmark.grade(groups)

    def metrics(self, records: Sequence[Record]) -> dict[str, float]:
        """CHAIR, Hal, Cover, Cog, the yes/no figures and length; see ``benchmark.RATIOS``."""
        return benchmark.metrics(records)

    def vocabulary(self) -> tuple[str, ...]:
        """Every word and mark that prompts and answers are made of, sorted."""
        return language.vocabulary()

    def tempting(self, scene: Scene) -> list[str]:
        """Shapes that are absent although they go with what is there, sorted."""
        return sorted({self.companions[s].shape for s in scene.shapes if s in self.companions} - scene.shapes)

    def _draw(self, rng: random.Random, name: str) -> Scene:
        number = rng.randint(*self.objects)
        shapes: list[str] = []
        if self.companions and rng.random() < self.context:
            shapes.append(rng.choice(list(self.companions)))
            if rng.random() < self.together:
                shapes.append(self.companions[shapes[0]].shape)
        number = max(number, len(shapes))
        while len(shapes) < number:
            if shapes and rng.random() < self.repeats:
                shapes.append(rng.choice(shapes))
                continue
            # Companions come by ``together`` alone, or the dial would not be exact.
            expected = {self.companions[s].shape for s in shapes if s in self.companions}
            shapes.append(rng.choice([s for s in self.shapes if s not in shapes and s not in expected]))
        cells = sorted(rng.sample(range(self.grid**2), number))
        rng.shuffle(shapes)
        items = tuple(self._place(rng, shape, cell) for shape, cell in zip(shapes, cells, strict=True))
        return Scene(id=name, objects=items, grid=self.grid, pixels=self.pixels)

    def _place(self, rng: random.Random, shape: str, cell: int) -> SceneObject:
        return SceneObject(
            shape=shape,
            colour=rng.choice(self.colours),
            size=rng.choice(list(SIZES)),
            row=cell // self.grid,
            column=cell % self.grid,
            shift=(round(rng.uniform(-_SHIFT, _SHIFT), 3), round(rng.uniform(-_SHIFT, _SHIFT), 3)),
        )

    def _pictures(
        self, split: Split, indices: range, directory: str | Path, *, drawn: bool = False
    ) -> Iterator[tuple[Scene, Path]]:
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        for index in indices:
            scene = self.scene(split, index)
            path = folder / f"{scene.id}.png"
            if not drawn:
                # The least compression: a small world is written anew in every run, and speed matters more.
                scene.draw().save(path, compress_level=1)
            yield scene, path

    def _questions(self, scene: Scene, kinds: Sequence[Kind], number: int) -> list[Question]:
        """The caption request first, if it is among the kinds, then up to ``number`` different questions."""
        _check_known("kinds", kinds, KINDS)
        rng = random.Random(f"{self.seed}/{scene.id}/{','.join(kinds)}")
        asked = [question for kind in ("caption",) if kind in kinds and (question := self._ask(scene, kind, rng))]
        others = [kind for kind in kinds if kind != "caption"]
        wanted = len(asked) + number if others else len(asked)
        for _ in range(_TRIES * number):
            if len(asked) >= wanted:
                break
            question = self._ask(scene, rng.choice(others), rng)
            if question and all(question.text != other.text for other in asked):
                asked.append(question)
        return asked

    def _ask(self, scene: Scene, kind: Kind, rng: random.Random) -> Question | None:
        if kind == "caption":
            return language.caption(scene, rng, companions=self.companions, prior=self.prior, sized=self.sized)
        if kind == "presence":
            return language.presence(scene, rng, shapes=self.shapes, tempting=self.tempting(scene))
        if kind == "count":
            return language.count(scene, rng, shapes=self.shapes, colours=self.colours)
        if kind == "colour":
            return language.colour(scene, rng)
        return language.relation(scene, rng)

    def _prompt(self, scene: Scene, path: Path, question: Question, number: int) -> Prompt:
        content = [{"type": "image"}, {"type": "text", "text": question.text}]
        facts: dict[str, Any] = {
            "kind": question.kind,
            "truth": question.truth,
            "about": dict(question.about),
            "tempting": self.tempting(scene),
            "scene": scene.facts(),
        }
        return Prompt(
            id=f"{scene.id}-{question.kind}-{number}",
            messages=({"role": "user", "content": content},),
            images=(str(path),),
            facts=facts,
        )


def split_of(scene: Scene) -> Split:
    """The split that a scene belongs to, whatever the seed: a hash of what is where."""
    digest = hashlib.sha256(scene.signature.encode()).digest()
    return "held_out" if int.from_bytes(digest[:4], "big") % _HELD_OUT == 0 else "train"


def _check_known(name: str, values: Iterable[str], known: Iterable[str]) -> None:
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise RecipeError(f"scenes: {name} has {unknown}, expected some of {list(known)}. Correct the names.")

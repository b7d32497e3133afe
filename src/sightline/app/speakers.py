"""The models that the app asks: their answers as they grow, and how much each token depends on the picture."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from sightline.data.shown import shown_row
from sightline.errors import DataError
from sightline.models.layout import lay_out
from sightline.recipes.schema import SamplingSpec
from sightline.rewards.iris import asked, without_picture
from sightline.rollouts.hf import HFEngine
from sightline.types import Group, Head, Prompt, Response

_LOGPROBS: Final[frozenset[Head]] = frozenset({"logprobs"})


class Stopped(Exception):
    """Nobody reads the answer any more."""


@dataclass(frozen=True, kw_only=True)
class Shade:
    """Some tokens of an answer that write whole characters together: nearly always one."""

    text: str
    seen: float
    """Their log-probability with the picture, in nats."""
    unseen: float
    """And without it."""
    special: bool = False
    """A control token, which is not shown."""

    @property
    def dependence(self) -> float:
        """How much likelier the picture makes them, in nats; below 0: less likely."""
        return self.seen - self.unseen


@dataclass(kw_only=True)
class Speaker:
    """One model. It works on one question at a time, whoever asks."""

    name: str
    engine: HFEngine
    ended: threading.Event = field(default_factory=threading.Event, repr=False)
    """Set when the app stops: the model stops at its next word."""
    worker: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1), repr=False)

    def answer(self, prompt: Prompt, sampling: SamplingSpec, *, seed: int) -> Generator[str, None, Response]:
        """Tells the text so far whenever it has grown; returns the answer. Where the generator is closed the model
        stops at its next word.

        Raises:
            DataError: a picture that cannot be read, a prompt longer than the model's context, or the app stopped.
        """
        pieces: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        unread = threading.Event()

        def tell(piece: str) -> None:
            if unread.is_set() or self.ended.is_set():
                raise Stopped
            pieces.put(piece)

        group = Group(prompts=(prompt,), source="chat")
        work = self.worker.submit(self.engine.stream, group, sampling, seed=seed, on_text=tell)
        work.add_done_callback(lambda _: pieces.put(None))
        text = ""
        try:
            while (piece := pieces.get()) is not None:
                text += piece
                yield text
        finally:
            unread.set()
        try:
            return work.result()
        except Stopped as error:
            raise DataError("the app was stopped", remedy="Start it again, and ask again") from error

    def shades(self, prompt: Prompt, response: Response) -> list[Shade]:
        """Every token of an answer with its log-probability under the prompt, and under the question alone.

        Raises:
            DataError: the answer holds no token that can be scored.
        """
        return self.worker.submit(self._shades, prompt, response).result()

    def _shades(self, prompt: Prompt, response: Response) -> list[Shade]:
        policy, renderer = self.engine.policy, self.engine.renderer
        answers = tuple(Response(text=response.text, tokens=response.tokens, prompt=place) for place in (0, 1))
        group = Group(prompts=(prompt, without_picture(prompt)), responses=answers, source="chat")
        rendered = renderer.render(group)
        batch = lay_out([rendered], "rows", policy.family, policy.config).to(policy.device)
        with asked(policy):
            found = policy(batch, _LOGPROBS).logprobs
        assert found is not None
        seen, unseen = (found[batch.response == place].double().tolist() for place in (0, 1))
        shown, done = shown_row(rendered, renderer.tokenizer).parts[-2], 0
        shades = []
        for piece in shown.pieces:
            part = slice(done, done + piece.tokens)
            done += piece.tokens
            shades.append(Shade(text=piece.text, seen=sum(seen[part]), unseen=sum(unseen[part]), special=piece.special))
        assert done == len(seen) == len(unseen)
        return shades


def text_of(shades: Sequence[Shade]) -> str:
    """What they write."""
    return "".join(shade.text for shade in shades if not shade.special)

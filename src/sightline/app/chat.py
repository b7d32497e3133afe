"""A conversation with one or two models about one picture: what was asked and said, and how it is shown."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

from markupsafe import Markup

from sightline.app.facts import Facts, facts_of, shifted
from sightline.app.speakers import Shade, Speaker, text_of
from sightline.errors import SightlineError
from sightline.evaluation.known import Annotated, Marks, Span
from sightline.recipes.schema import SamplingSpec
from sightline.report.fragments import fill_fragment
from sightline.types import Group, Message, Prompt, Response

FULL: Final = 3.0
"""Nats of dependence that are drawn in full colour."""
_STRONGEST: Final = 55
"""Percent of colour there: text stays readable on it."""


@dataclass(frozen=True, kw_only=True)
class Answered:
    """What one model said."""

    text: str = ""
    shades: Sequence[Shade] = ()
    """Its tokens; empty: the answer was not scored."""
    wrong: Sequence[Span] = ()
    """Spans of the text shown that name what is not in the picture."""
    right: Sequence[Span] = ()
    """And of what is there."""
    missed: Sequence[str] = ()
    verdict: bool = False
    """The spans are the word that was read as the answer to a yes/no question."""
    note: str = ""
    error: str = ""
    growing: bool = False


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One question and the answers to it."""

    question: str
    answers: tuple[Answered, ...]


@dataclass(frozen=True, kw_only=True)
class Talk:
    """A conversation. Each model has a history of its own: its own answers."""

    picture: str | None = None
    """Path."""
    facts: Facts = field(default_factory=Facts)
    """What is known of the picture."""
    before: tuple[Message, ...] = ()
    """Earlier messages of the row that it is about, which both models are asked behind."""
    turns: tuple[Turn, ...] = ()
    id: str = field(default_factory=lambda: secrets.token_hex(8), compare=False)
    """Stands on the page that shows it: what the page shows may be another one than what is known here."""

    def prompt(self, side: int, question: str) -> Prompt:
        """What model number ``side`` is asked. A turn that it left empty was never asked."""
        messages = list(self.before)
        for turn in self.turns:
            if turn.answers[side].text:
                messages += [
                    self._asked(turn.question, behind=messages),
                    _said("assistant", turn.answers[side].text),
                ]
        messages.append(self._asked(question, behind=messages))
        images = () if self.picture is None else (self.picture,)
        return Prompt(id=f"turn {len(self.turns) + 1}", messages=tuple(messages), images=images)

    def _asked(self, question: str, *, behind: Sequence[Message]) -> Message:
        new = self.picture is not None and not any(map(_shows_picture, behind))
        shown = [{"type": "image"}] if new else []
        return {"role": "user", "content": [*shown, {"type": "text", "text": question}]}


@dataclass(kw_only=True)
class Seat:
    """What is talked about on one page now. Whoever writes an answer looks whether that is still what it began on:
    another picture may have been chosen, or the answer ended, since."""

    talk: Talk = field(default_factory=Talk)


def _shows_picture(message: Message) -> bool:
    return not isinstance(message["content"], str) and any(part["type"] == "image" for part in message["content"])


def _said(role: str, text: str) -> Message:
    return {"role": role, "content": [{"type": "text", "text": text}]}


def about(group: Group, annotated: Sequence[Annotated] = ()) -> Talk:
    """A conversation about the picture of a row, behind the row's earlier messages, with what the row or a benchmark
    knows of it."""
    prompt = group.prompts[0]
    picture = prompt.images[0] if prompt.images else None
    name = Path(picture).name if picture else ""
    facts = facts_of(annotated, picture, name, prompt.facts, prompt.question)
    before = ({"role": one["role"], "content": one["content"]} for one in prompt.messages[:-1])  # nothing is trained
    return Talk(picture=picture, facts=facts, before=tuple(before))


def text_in(message: Message) -> str:
    """What a message says, without its pictures."""
    content = message["content"]
    return (
        content if isinstance(content, str) else "\n".join(part["text"] for part in content if part["type"] == "text")
    )


def stopped(talk: Talk) -> Talk:
    """The conversation with the answers that were growing left where they are."""
    if not talk.turns:
        return replace(talk)
    left = [replace(one, growing=False, note="stopped") if one.growing else one for one in talk.turns[-1].answers]
    return replace(talk, turns=(*talk.turns[:-1], replace(talk.turns[-1], answers=tuple(left))))


def ask(
    talk: Talk, speakers: Sequence[Speaker], question: str, sampling: SamplingSpec, seed: int
) -> Generator[Talk, None, None]:
    """The conversation as it grows: one model after the other, then the colours."""
    waiting = tuple(Answered(growing=True) for _ in speakers)
    now = replace(talk, turns=(*talk.turns, Turn(question=question, answers=waiting)))
    yield now
    for side, speaker in enumerate(speakers):
        for answer in _answers(talk, side, speaker, question, sampling, seed):
            now = _with(now, side, answer)
            yield now


def _answers(
    talk: Talk, side: int, speaker: Speaker, question: str, sampling: SamplingSpec, seed: int
) -> Iterator[Answered]:
    prompt = talk.prompt(side, question)
    text = ""
    try:
        growing = speaker.answer(prompt, sampling, seed=seed)
        try:
            while True:
                text = next(growing)
                yield Answered(text=text, growing=True)
        except StopIteration as ended:
            response: Response = ended.value
        finally:
            growing.close()
        answer = _judged(talk, question, response)
        yield answer
        if response.text and prompt.images:
            yield _coloured(talk, question, answer, speaker.shades(prompt, response))
    except SightlineError as error:
        yield Answered(text=text, error=str(error))


def _judged(talk: Talk, question: str, response: Response) -> Answered:
    """An answer with what is known to be wrong in it."""
    told = talk.facts.told(question, response.text)
    marks = told.marks if told and told.marks else talk.facts.marks(question, response.text)
    notes = [told.words if told else "", "cut at the limit" if response.finish_reason == "length" else ""]
    return Answered(
        text=response.text,
        wrong=marks.wrong,
        right=marks.right,
        missed=marks.missed,
        verdict=told is not None and told.marks is not None,
        note=", ".join(filter(None, notes)),
    )


def _coloured(talk: Talk, question: str, answer: Answered, shades: Sequence[Shade]) -> Answered:
    """The answer by tokens; spans are those of the text that these write, white space at its ends included."""
    shown = text_of(shades)
    before = shown.find(answer.text)
    if before < 0:
        marks = Marks() if answer.verdict else talk.facts.marks(question, shown)
        return replace(answer, shades=shades, wrong=marks.wrong, right=marks.right)
    return replace(answer, shades=shades, wrong=shifted(answer.wrong, before), right=shifted(answer.right, before))


def _with(talk: Talk, side: int, answer: Answered) -> Talk:
    last = talk.turns[-1]
    answers = tuple(answer if place == side else one for place, one in enumerate(last.answers))
    return replace(talk, turns=(*talk.turns[:-1], replace(last, answers=answers)))


# --- on the page --------------------------------------------------------------------------------


Mark = Literal["", "wrong", "right"]
_TITLES: Final = {"wrong": "not in the picture", "right": "in the picture"}
_VERDICTS: Final = {"wrong": "the wrong answer", "right": "the right answer"}


@dataclass(frozen=True, kw_only=True)
class Part:
    """A stretch of an answer as it is drawn."""

    text: str
    mark: Mark = ""
    dependence: float | None = None
    title: str = ""

    @property
    def tint(self) -> str:
        if self.dependence is None:
            return ""
        return " more" if self.dependence > 0 else " less"

    @property
    def style(self) -> str:
        """Only numbers are written into it."""
        if self.dependence is None:
            return ""
        return Markup(' style="--d:{}"').format(round(min(abs(self.dependence) / FULL, 1) * _STRONGEST))


def parts(answer: Answered) -> list[Part]:
    """An answer cut where its tokens and its wrong spans end."""
    shades = [shade for shade in answer.shades if not shade.special]
    if not shades:
        shades = [Shade(text=answer.text, seen=0.0, unseen=0.0)] if answer.text else []
    drawn: list[Part] = []
    place = 0
    for shade in shades:
        cuts = {place, place + len(shade.text)}
        spans = [*answer.wrong, *answer.right]
        cuts |= {end for span in spans for end in span if place < end < place + len(shade.text)}
        edges = sorted(cuts)
        for start, end in itertools.pairwise(edges):
            text = shade.text[start - place : end - place]
            mark = _mark(answer, start, end)
            titles = _VERDICTS if answer.verdict else _TITLES
            drawn.append(_part(text, mark, [titles[mark]] if mark else [], shade if answer.shades else None))
        place += len(shade.text)
    return drawn


def _mark(answer: Answered, start: int, end: int) -> Mark:
    if any(first <= start and end <= last for first, last in answer.wrong):
        return "wrong"
    return "right" if any(first <= start and end <= last for first, last in answer.right) else ""


def _part(text: str, mark: Mark, told: list[str], shade: Shade | None) -> Part:
    if shade is None:
        return Part(text=text, mark=mark, title=", ".join(told))
    told.append(
        f"{shade.dependence:+.2f} nats by the picture: log-probability {shade.seen:.2f} with it, "
        f"{shade.unseen:.2f} without"
    )
    title = "; ".join(told).replace("-", "−")
    return Part(text=text, mark=mark, dependence=shade.dependence, title=title)


def talk_html(talk: Talk, names: Sequence[str], empty: str = "") -> str:
    """All turns, the newest first: what was just asked stands under the box that asked it."""
    turns = [
        {
            "question": turn.question,
            "answers": [
                vars(answer) | {"name": name, "parts": parts(answer)}
                for name, answer in zip(names, turn.answers, strict=True)
            ],
        }
        for turn in reversed(talk.turns)
    ]
    answers = [answer for turn in talk.turns for answer in turn.answers]
    return fill_fragment(
        "app_chat.html.j2",
        id=talk.id,
        turns=turns,
        before=[(str(message["role"]), text_in(message)) for message in talk.before],
        empty=empty,
        coloured=any(answer.shades for answer in answers),
        wrong=any(answer.wrong for answer in answers if not answer.verdict),
        right=any(answer.right for answer in answers if not answer.verdict),
        verdicts={mark for answer in answers if answer.verdict for mark in ("wrong", "right") if vars(answer)[mark]},
        counts=talk.facts.counts,
        full=f"{FULL:g}",
    )

"""The tab *Chat*."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final, get_args

import gradio as gr

from sightline.app.chat import Seat, Talk, about, ask, stopped, talk_html
from sightline.app.desk import Desk
from sightline.app.facts import facts_of
from sightline.app.parts import LARGEST, button, told, told_growing, when
from sightline.app.uploads import take_picture
from sightline.errors import DataError
from sightline.recipes.load import check_spec
from sightline.recipes.schema import SamplingSpec
from sightline.report.fragments import fill_fragment
from sightline.scenes.language import Kind
from sightline.scenes.world import Scenes

_WITHOUT: Final = (
    "No model was named. Start `sightline app --model FOLDER`, with `--other FOLDER` for a second one beside it."
)
_EMPTY: Final = "Choose a picture, or draw a scene whose facts are known, and ask."

_SHOWS: Final = (
    "(...given) => [...given.slice(0, -1), document.querySelector('#chat-picture [data-talk]')?.dataset.talk]"
)
"""Sends which conversation the page shows."""


class ChatTab:
    """The widgets of the tab, and what happens to them."""

    def __init__(self, desk: Desk) -> None:
        self.desk, self.names = desk, [speaker.name for speaker in desk.speakers]
        first = Talk()
        self.seat = gr.State(Seat(talk=first))
        if not self.names:
            gr.Markdown(_WITHOUT)
        with gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=280):
                self._lay_out_picture(first)
            with gr.Column(scale=2, min_width=300):
                self.question = gr.Textbox(label="Question", lines=1, max_lines=6, elem_id="chat-question")
                with gr.Row():
                    able = bool(self.names)
                    self.go = button("Ask", variant="primary", elem_id="chat-ask", interactive=able)
                    self.stop = button("Stop", elem_id="chat-stop")
                    self.new = button("New conversation", elem_id="chat-new")
                self.said = gr.HTML(self.html(first), elem_id="chat-said")
                self.shows = gr.Textbox(visible=False)

    def _lay_out_picture(self, first: Talk) -> None:
        self.picture = gr.HTML(picture_html(first), elem_id="chat-picture")
        face: dict[str, Any] = {"file_types": ["image"], "size": "md", "elem_id": "chat-upload"}
        self.upload = gr.UploadButton("Choose a picture", **face)
        with gr.Group():
            with gr.Row():
                self.kind = gr.Dropdown(list(get_args(Kind)), value="caption", label="Scene and its question")
                self.number = gr.Number(0, label="Number", precision=0, minimum=0, maximum=LARGEST)
            with gr.Row():
                self.draw = button("Draw the scene", elem_id="chat-draw")
                self.following = button("Next scene", elem_id="chat-next")
        with gr.Accordion("How answers are made", open=False):
            self.temperature = gr.Number(0.0, label="Temperature (0: greedy)", minimum=0)
            self.tokens = gr.Number(128, label="Most tokens of an answer", precision=0, minimum=1, maximum=LARGEST)
            self.seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=LARGEST)

    def wire(self) -> None:
        inputs = [self.seat, self.question, self.temperature, self.tokens, self.seed, self.shows]
        models = {"concurrency_limit": 1, "concurrency_id": "models", "js": _SHOWS}
        both = partial(gr.on, [self.go.click, self.question.submit])  # one event: pressed together they ask once
        asking = when(both, self.answer, inputs, [self.said], **models)
        ends = {"cancels": asking}  # so that the model is free; what it still says is not written: see `answer`
        when(self.stop.click, self.end, [self.seat], [self.said], **ends)
        when(self.upload.upload, self.take, [self.seat, self.upload], [self.picture, self.said], **ends)
        asked, scenes = [self.seat, self.kind, self.number], [self.picture, self.question, self.said, self.number]
        when(self.draw.click, self.scene, asked, scenes, **ends)
        when(self.following.click, partial(self.scene, by=1), asked, scenes, **ends)
        when(self.new.click, self.anew, [self.seat], [self.picture, self.said], **ends)

    def html(self, talk: Talk) -> str:
        return talk_html(talk, self.names, _EMPTY)

    @told
    def take(self, seat: Seat, sent: str) -> tuple[str, str]:
        """A conversation about a picture that was sent."""
        picture = str(take_picture(Path(sent), self.desk.scratch, self.desk.bounds))
        known = facts_of(self.desk.annotated, picture, Path(sent).name, {})
        return self.begin(seat, Talk(picture=picture, facts=known))

    @told
    def scene(self, seat: Seat, kind: Kind, number: int | None, by: int = 0) -> tuple[str, str, str, int]:
        """A conversation about a scene, with its question in the box."""
        place = int(number or 0) + by
        fresh, asked = drawn(self.desk, kind, place)
        picture, said = self.begin(seat, fresh)
        return picture, asked, said, place

    def begin(self, seat: Seat, fresh: Talk) -> tuple[str, str]:
        """Another conversation: its picture and what was said in it. An answer that is still written is left."""
        shown = picture_html(fresh), self.html(fresh)
        seat.talk = fresh
        return shown

    @told_growing
    def answer(
        self, seat: Seat, asked: str, temperature: float | None, most: int | None, seed: int | None, shows: str
    ) -> Iterator[str]:
        """What the models say, as it grows, and as long as nobody began or ended anything else meanwhile."""
        if not asked.strip():
            raise DataError("the question is empty", remedy="Write one")
        if shows != seat.talk.id:  # it would be answered without the picture that the page shows
            found = "the page shows another conversation than the app knows: it was started again, or long away"
            raise DataError(found, remedy="Choose the picture again, or begin a new conversation")
        sampling = check_spec(SamplingSpec, "how answers are made", temperature=temperature, max_new_tokens=most)
        last = seat.talk
        growing = ask(last, self.desk.speakers, asked.strip(), sampling, seed=int(seed or 0))
        with contextlib.closing(growing):
            for later in growing:
                if seat.talk is not last:
                    return
                seat.talk = last = later
                yield self.html(later)

    def end(self, seat: Seat) -> str:
        """Leaves an answer where it is."""
        seat.talk = stopped(seat.talk)
        return self.html(seat.talk)

    def anew(self, seat: Seat) -> tuple[str, str]:
        """Forgets what was said, in the row as well."""
        return self.begin(seat, replace(seat.talk, before=(), turns=(), id=Talk().id))


def drawn(desk: Desk, kind: Kind, place: int) -> tuple[Talk, str]:
    """A conversation about a scene that was held out of training, and what the world asks about it.

    Raises:
        DataError: it has no question of that kind.
    """
    groups = list(Scenes().prompts("held_out", 1, desk.scratch / "scenes", kind=kind, start=place))
    if not groups:
        raise DataError(f"scene {place} gives no question of kind {kind}", remedy="Draw another one")
    return about(groups[0]), groups[0].prompts[0].question


def picture_html(talk: Talk) -> str:
    """The picture, and what is known of it."""
    return fill_fragment(
        "app_picture.html.j2", id=talk.id, picture=talk.picture, there=talk.facts.there, note=talk.facts.note
    )

"""The tab *Chat*."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, get_args

import gradio as gr

from sightline.app.chat import Talk, about, ask, question_in, talk_html
from sightline.app.desk import Desk
from sightline.app.parts import button, told, told_growing, when
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


@dataclass(frozen=True, kw_only=True)
class ChatTab:
    """What other tabs reach of it."""

    talk: gr.State
    picture: gr.HTML
    question: gr.Textbox
    said: gr.HTML


def chat_tab(desk: Desk) -> ChatTab:
    """Puts the tab on the page."""
    talk = gr.State(Talk())
    names = [speaker.name for speaker in desk.speakers]
    if not names:
        gr.Markdown(_WITHOUT)
    with gr.Row(equal_height=False):
        with gr.Column(scale=1, min_width=280):
            picture = gr.HTML(picture_html(Talk()), elem_id="chat-picture")
            upload = gr.UploadButton("Choose a picture", file_types=["image"], size="md", elem_id="chat-upload")
            with gr.Group():
                with gr.Row():
                    kind = gr.Dropdown(list(get_args(Kind)), value="caption", label="Scene and its question")
                    number = gr.Number(0, label="Number", precision=0, minimum=0)
                with gr.Row():
                    draw = button("Draw the scene", elem_id="chat-draw")
                    following = button("Next scene", elem_id="chat-next")
            with gr.Accordion("How answers are made", open=False):
                temperature = gr.Number(0.0, label="Temperature (0: greedy)", minimum=0)
                tokens = gr.Number(128, label="Most tokens of an answer", precision=0, minimum=1)
                seed = gr.Number(0, label="Seed", precision=0, minimum=0)
        with gr.Column(scale=2, min_width=300):
            question = gr.Textbox(label="Question", lines=1, max_lines=6, elem_id="chat-question", submit_btn=False)
            with gr.Row():
                go = button("Ask", variant="primary", elem_id="chat-ask", interactive=bool(names))
                stop = button("Stop")
                new = button("New conversation")
            said = gr.HTML(talk_html(Talk(), names, _EMPTY), elem_id="chat-said")

    @told
    def take(sent: str, now: Talk) -> tuple[Talk, str, str]:
        fresh = Talk(picture=str(take_picture(Path(sent), desk.scratch, desk.bounds)))
        return fresh, picture_html(fresh), talk_html(fresh, names, _EMPTY)

    @told
    def scene(kind: Kind, number: int | None, by: int = 0) -> tuple[Talk, str, str, str, int]:
        place = int(number or 0) + by
        fresh, asked = drawn(desk, kind, place)
        return fresh, picture_html(fresh), asked, talk_html(fresh, names, _EMPTY), place

    @told_growing
    def answer(now: Talk, asked: str, *how: Any) -> Iterator[tuple[Talk, str, str]]:
        if not asked.strip():
            raise DataError("the question is empty", remedy="Write one")
        options = dict(zip(("temperature", "max_new_tokens"), how, strict=False))
        sampling = check_spec(SamplingSpec, "how answers are made", **options)
        for later in ask(now, desk.speakers, asked.strip(), sampling, seed=int(how[2] or 0)):
            yield later, talk_html(later, names, _EMPTY), asked

    def anew(now: Talk) -> tuple[Talk, str]:
        fresh = replace(now, turns=())
        return fresh, talk_html(fresh, names, _EMPTY)

    when(upload.upload, take, [upload, talk], [talk, picture, said])
    scenes = [talk, picture, question, said, number]
    when(draw.click, scene, [kind, number], scenes)
    when(following.click, partial(scene, by=1), [kind, number], scenes)
    inputs = [talk, question, temperature, tokens, seed]
    models = {"concurrency_limit": 1, "concurrency_id": "models"}
    asking = [when(on, answer, inputs, [talk, said, question], **models) for on in (go.click, question.submit)]
    stop.click(None, None, None, cancels=asking, api_visibility="private")
    when(new.click, anew, [talk], [talk, said])
    return ChatTab(talk=talk, picture=picture, question=question, said=said)


def drawn(desk: Desk, kind: Kind, place: int) -> tuple[Talk, str]:
    """A conversation about a scene that was held out of training, and what the world asks about it.

    Raises:
        DataError: it has no question of that kind.
    """
    groups = list(Scenes().prompts("held_out", 1, desk.scratch / "scenes", kind=kind, start=place))
    if not groups:
        raise DataError(f"scene {place} gives no question of kind {kind}", remedy="Draw another one")
    return about(groups[0]), question_in(groups[0])


def picture_html(talk: Talk) -> str:
    """The picture, and what is known of it."""
    told = []
    if "scene" in talk.facts:
        objects = talk.facts["scene"]["objects"]
        told = [", ".join(f"{one['colour']} {one['shape']}" for one in objects)]
    return fill_fragment("app_picture.html.j2", picture=talk.picture, told=told)

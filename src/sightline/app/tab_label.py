"""The tab *Label*."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import gradio as gr

from sightline.app.chat import question_in
from sightline.app.desk import Desk, labels_of
from sightline.app.folders import has_choice
from sightline.app.labels import MOST, Labels, Question
from sightline.app.parts import button, listed, told, when
from sightline.report.fragments import fill_fragment, fragment

Key = tuple[str, str] | None
_HELP: Final = (
    "**Keys**: `1` to `9` the best answer · `Shift`+digit correct that answer · `S` pass over · `U` undo · "
    "`Ctrl`+`Enter` save a correction · `Esc` leave it"
)
_OPEN: Final = (
    "Choose a Group file with several answers to each prompt (sightline sample MODEL PROMPTS -n 2), and open it."
)


def label_tab(desk: Desk) -> Callable[[Any], None]:
    """Puts the tab on the page; gives what looks up its files."""
    key, asked = gr.State(None), gr.State("")
    with gr.Row():
        file = gr.Dropdown([], label="Group file", scale=3, min_width=280, elem_id="label-file")
        out = gr.Textbox(
            label="Labels go to",
            placeholder="beside it, NAME.labels.jsonl",
            scale=3,
            min_width=280,
            elem_id="label-out",
        )
        begin = button("Open", variant="primary", scale=1, min_width=90, elem_id="label-open")
    board = gr.HTML(fragment(notes=[_OPEN]), elem_id="label-board")
    with gr.Row(elem_id="label-buttons"):
        best = [
            button(f"{place + 1} is best", visible=False, min_width=90, elem_id=f"label-choose-{place + 1}")
            for place in range(MOST)
        ]
    with gr.Row():
        fix = button("Correct an answer", visible=False, min_width=120, elem_id="label-fix")
        skip = button("Pass over", visible=False, min_width=90, elem_id="label-skip")
        undo = button("Undo", visible=False, min_width=90, elem_id="label-undo")
    with gr.Column(visible=False) as editing:
        which = gr.Radio([], label="Which answer is corrected", elem_id="label-which")
        text = gr.Textbox(label="What it should have been", lines=3, elem_id="label-text")
        with gr.Row():
            save = button("Save the correction", variant="primary", elem_id="label-save")
            leave = button("Leave it", elem_id="label-leave")
    gr.Markdown(_HELP)
    buttons = [*best, fix, skip, undo]
    everything = [key, asked, board, *buttons, editing, which, text]

    def shown(key: Key) -> list[Any]:
        labels = desk.labels(key)
        question = labels.now()
        there = 0 if question is None else len(question.answers)
        faces = [gr.Button(visible=place < there) for place in range(MOST)]
        faces += [gr.Button(visible=there > 0), gr.Button(visible=there > 0), gr.Button(visible=bool(labels.done))]
        numbers = [str(place + 1) for place in range(there)]
        hidden = [gr.Column(visible=False), gr.Radio(choices=numbers, value=None), gr.Textbox("")]
        return [key, question.group.id if question else "", board_html(desk, labels, question), *faces, *hidden]

    @told
    def opened(name: str | None, written: str) -> list[Any]:
        return shown(desk.open_labels(name or "", written))

    @told
    def choose(key: Key, id: str, *, place: int) -> list[Any]:
        desk.labels(key).choose(id, place)
        return shown(key)

    @told
    def passed(key: Key, id: str) -> list[Any]:
        desk.labels(key).skip(id)
        return shown(key)

    @told
    def undone(key: Key) -> list[Any]:
        desk.labels(key).undo()
        return shown(key)

    @told
    def corrected(key: Key, id: str, number: str | None, now: str) -> list[Any]:
        desk.labels(key).correct(id, int(number or 0) - 1, now)
        return shown(key)

    @told
    def edited(key: Key, number: str | None) -> tuple[Any, Any, Any]:
        question = desk.labels(key).now()
        place = int(number or 1)
        texts = question.texts if question else ("",)
        return gr.Column(visible=True), str(place), texts[min(place, len(texts)) - 1]

    def look(name: str | None) -> Any:
        return listed(desk.choices(sorted(desk.look().groups, key=lambda path: not has_choice(path))), name)

    def where(name: str | None) -> Any:
        return gr.Textbox(placeholder=labels_of(Path(name)).name if name else "")

    when(begin.click, opened, [file, out], everything)
    for place, press in enumerate(best):
        when(press.click, partial(choose, place=place), [key, asked], everything)
    when(skip.click, passed, [key, asked], everything)
    when(undo.click, undone, [key], everything)
    when(fix.click, edited, [key, which], [editing, which, text])
    when(which.input, edited, [key, which], [editing, which, text])
    when(save.click, corrected, [key, asked, which, text], everything)
    when(leave.click, lambda: (gr.Column(visible=False), None), None, [editing, which])
    when(file.change, where, [file], [out])
    return lambda on: when(on, look, [file], [file])


def board_html(desk: Desk, labels: Labels, question: Question | None) -> str:
    """How far the file is labelled, and what is asked now. Pictures outside of the folders are left out."""
    values: dict[str, Any] = {"images": (), "history": (), "asked": "", "texts": (), "id": ""}
    if question is not None:
        prompt = question.group.prompts[0]
        values = {
            "id": question.group.id,
            "images": [image for image in prompt.images if desk.folders.holds(image) and Path(image).is_file()],
            "history": [(str(message["role"]), _text(message["content"])) for message in prompt.messages[:-1]],
            "asked": question_in(question.group),
            "texts": question.texts,
        }
    return fill_fragment(
        "app_label.html.j2",
        done=len(labels.done),
        total=len(labels.questions),
        skipped=len(labels.skipped),
        passed=labels.passed,
        out=desk.folders.name_of(labels.out),
        question=question is not None,
        **values,
    )


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return " ".join(part["text"] for part in content if part["type"] == "text")

"""The tab *Label*."""

from __future__ import annotations

import html
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import gradio as gr

from sightline.app.chat import text_in
from sightline.app.desk import Desk, labels_of
from sightline.app.folders import has_choice
from sightline.app.labels import MOST, Labels, Passed, Question
from sightline.app.parts import button, listed, told, when
from sightline.app.rows import viewed
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
    tab = _Tab(desk)
    tab.wire()
    return lambda on: when(on, tab.look, [tab.file], [tab.file, tab.out, *tab.everything])


class _Tab:
    """The widgets of the tab, and what happens to them."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.key, self.asked = gr.State(None), gr.State("")
        with gr.Row():
            self.file = gr.Dropdown([], label="Group file", scale=3, min_width=280, elem_id="label-file")
            self.out = gr.Textbox(label="Labels go to", scale=3, min_width=280, elem_id="label-out")
            self.begin = button("Open", variant="primary", scale=1, min_width=90, elem_id="label-open")
        self.board = gr.HTML(fragment(notes=[_OPEN]), elem_id="label-board")
        with gr.Row(elem_id="label-buttons"):
            self.best = [self._face(f"{place + 1} is best", f"choose-{place + 1}") for place in range(MOST)]
        with gr.Row():
            self.fix = self._face("Correct an answer", "fix")
            self.skip = self._face("Pass over", "skip")
            self.undo = self._face("Undo", "undo")
        with gr.Column(visible=False) as self.editing:
            self.which = gr.Radio([], label="Which answer is corrected", elem_id="label-which")
            self.text = gr.Textbox(label="What it should have been", lines=3, elem_id="label-text")
            with gr.Row():
                self.save = button("Save the correction", variant="primary", elem_id="label-save")
                self.leave = button("Leave it", elem_id="label-leave")
        gr.Markdown(_HELP)

    def _face(self, face: str, name: str) -> gr.Button:
        return button(face, visible=False, min_width=100, elem_id=f"label-{name}")

    def wire(self) -> None:
        buttons = [*self.best, self.fix, self.skip, self.undo]
        everything = self.everything = [
            *(self.key, self.asked, self.board),
            *buttons,
            *(self.editing, self.which, self.text),
        ]
        now = [self.key, self.asked]
        at_once = {"trigger_mode": "multiple"}  # or a key that comes as the page is still being drawn would be lost
        when(self.begin.click, self.opened, [self.file, self.out], everything)
        for place, press in enumerate(self.best):
            when(press.click, partial(self.choose, place=place), now, everything, **at_once)
        when(self.skip.click, self.passed, now, everything, **at_once)
        when(self.undo.click, self.undone, now, everything, **at_once)
        for on in (self.fix.click, self.which.input):
            when(on, self.edited, [*now, self.which], everything)
        when(self.save.click, self.corrected, [*now, self.which, self.text], everything)
        when(self.leave.click, lambda: (gr.Column(visible=False), None), None, [self.editing, self.which])
        when(self.file.change, self.where, [self.file], [self.out])

    def shown(self, key: Key) -> list[Any]:
        """The question of now, with as many buttons as it has answers."""
        labels = self.desk.labels(key)
        question = labels.now()
        there = 0 if question is None else len(question.answers)
        faces = [gr.Button(visible=place < there) for place in range(MOST)]
        faces += [gr.Button(visible=there > 0), gr.Button(visible=there > 0), gr.Button(visible=bool(labels.done))]
        numbers = [str(place + 1) for place in range(there)]
        hidden = [gr.Column(visible=False), gr.Radio(choices=numbers, value=None), gr.Textbox("")]
        return [key, question.group.id if question else "", board_html(self.desk, labels, question), *faces, *hidden]

    @told
    def opened(self, name: str | None, written: str) -> list[Any]:
        return self.shown(self.desk.open_labels(name or "", written))

    @told
    def choose(self, key: Key, id: str, *, place: int) -> list[Any]:
        return self.done(key, lambda labels: labels.choose(id, place))

    @told
    def passed(self, key: Key, id: str) -> list[Any]:
        return self.done(key, lambda labels: labels.skip(id))

    @told
    def undone(self, key: Key, id: str) -> list[Any]:
        return self.done(key, lambda labels: labels.undo(id))

    @told
    def corrected(self, key: Key, id: str, number: str | None, now: str) -> list[Any]:
        return self.done(key, lambda labels: labels.correct(id, int(number or 0) - 1, now), lost=now)

    @told
    def edited(self, key: Key, id: str, number: str | None) -> list[Any]:
        """The text of an answer to be corrected."""
        labels = self.desk.labels(key)
        shown = self.done(key, lambda labels: labels.check_asked(id))
        question = labels.now()
        if question is None or question.group.id != id:
            return shown
        place = min(int(number or 1), len(question.texts))
        faces = [gr.Column(visible=True), gr.Radio(value=str(place)), question.texts[place - 1]]
        return [*shown[:-3], *faces]

    def done(self, key: Key, work: Callable[[Labels], object], lost: str = "") -> list[Any]:
        """What is asked after some work; where another page went on before it, what that one left, and a note."""
        try:
            work(self.desk.labels(key))
        except Passed as error:
            text = f"{error}. Your correction was: {lost}" if lost.strip() else str(error)
            gr.Warning(html.escape(text, quote=False), duration=None)
        return self.shown(key)

    @told
    def look(self, name: str | None) -> list[Any]:
        """Group files, those with a choice to make first. A page that was loaded anew goes on with the file that was
        opened last."""
        found = sorted(self.desk.look().groups, key=lambda path: not has_choice(path))
        last = self.desk.last
        same = [path for path in found if last and path.resolve() == Path(last[0])]
        if name or last is None or not same:
            return [listed(self.desk.choices(found), name), gr.skip(), *(gr.skip() for _ in self.everything)]
        read, written = map(Path, last)
        out = "" if written == labels_of(read) else os.path.relpath(written, read.parent)
        return [listed(self.desk.choices(found), str(same[0])), out, *self.shown(last)]

    def where(self, name: str | None) -> Any:
        return gr.Textbox(placeholder=labels_of(Path(name)).name if name else "")


def board_html(desk: Desk, labels: Labels, question: Question | None) -> str:
    """How far the file is labelled, and what is asked now. What cannot be shown is told."""
    values: dict[str, Any] = {"images": (), "unseen": (), "history": (), "asked": "", "texts": (), "id": ""}
    if question is not None:
        prompt = question.group.prompts[0]
        images, unseen = viewed(prompt.images, desk.folders)
        values = {
            "id": question.group.id,
            "images": images,
            "unseen": unseen,
            "history": [(str(message["role"]), text_in(message)) for message in prompt.messages[:-1]],
            "asked": prompt.question,
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

"""The tab *Data*."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import gradio as gr

from sightline.app.chat import Seat, about
from sightline.app.desk import Desk
from sightline.app.parts import LARGEST, button, listed, told, when
from sightline.app.rows import check_pictures, seen_html, stored_html
from sightline.app.tab_chat import ChatTab
from sightline.errors import DataError
from sightline.report.fragments import fragment, frame
from sightline.types import Group

_STORED, _SEEN = "as stored", "as the model sees it"
_NONE: Final = "There is no Group file in the folders of the app. sightline data convert ROWS -o FILE makes one."


class DataTab:
    """The widgets of the tab, and what happens to them."""

    def __init__(self, desk: Desk, framed: Callable[[Path], str]) -> None:
        self.desk, self.framed = desk, framed
        with gr.Row():
            self.file = gr.Dropdown([], label="Group file", scale=3, min_width=280, elem_id="data-file")
            self.view = gr.Radio([_STORED, _SEEN], value=_STORED, label="Row", scale=2, min_width=200)
            place: dict[str, Any] = {"precision": 0, "minimum": 1, "maximum": LARGEST, "elem_id": "data-row"}
            self.row = gr.Number(1, label="Number", scale=1, min_width=100, **place)
        with gr.Row():
            self.before = button("◀ Before", min_width=90, elem_id="data-before")
            self.after = button("Next ▶", min_width=90, elem_id="data-next")
            hint = "Find a text: Enter goes to the next row with it"
            self.wanted = gr.Textbox(
                show_label=False, container=False, lines=1, max_lines=1, placeholder=hint, scale=3, elem_id="data-find"
            )
            self.ask = button("Ask about it", min_width=110, elem_id="data-ask")
        self.shown = gr.HTML(elem_id="data-shown")
        with gr.Accordion("Reports of data check", open=False):
            self.report = gr.Dropdown([], label="Page", elem_id="data-check")
            self.page = gr.HTML(elem_id="data-page")

    def wire(self, chat: ChatTab, tabs: gr.Tabs) -> None:
        for on in (self.file.change, self.view.change, self.row.submit, self.row.blur):
            self._show(on)
        for press, by in ((self.before, -1), (self.after, 1)):
            self._show(when(press.click, partial(_moved, by=by), [self.row], [self.row]).then)
        self._show(when(self.wanted.submit, self.find, [self.file, self.wanted, self.row], [self.row]).success)
        brought = [chat.picture, chat.question, chat.said, tabs]
        when(self.ask.click, partial(self.bring, chat), [chat.seat, self.file, self.row], brought)
        when(self.report.change, self.opened, [self.report], [self.page])

    def look_on(self, on: Any) -> None:
        """Looks up the files when something happens."""
        self._show(when(on, self.look, [self.file, self.report], [self.file, self.report]).then)

    def _show(self, on: Any) -> None:
        when(on, self.show, [self.file, self.row, self.view], [self.row, self.shown])

    @told
    def show(self, name: str | None, number: int | None, how: str) -> tuple[Any, str]:
        if not name:
            return gr.skip(), fragment(notes=[_NONE])
        whole = self.desk.shelf.file(name)
        if not len(whole):
            return 1, fragment(notes=["The file holds no row."])
        place = min(max(int(number or 1), 1), len(whole))
        return gr.Number(place, label=f"Number, of {len(whole)}"), row_html(self.desk, whole.group(place), how)

    @told
    def find(self, name: str | None, text: str, number: int | None) -> int:
        found = self.desk.shelf.file(name).find(text, int(number or 1)) if name and text else None
        if found is None:
            raise DataError(f"no row holds {text!r}", source=name or "", remedy="Write a shorter text")
        return found

    @told
    def bring(self, chat: ChatTab, seat: Seat, name: str | None, number: int | None) -> tuple[str, str, str, Any]:
        """A conversation about the picture of the row, behind its earlier turns."""
        group = asked_group(self.desk, name, number)
        picture, said = chat.begin(seat, about(group, self.desk.annotated))
        return picture, group.prompts[0].question, said, gr.Tabs(selected="chat")

    @told
    def look(self, name: str | None, check: str | None) -> tuple[Any, Any]:
        found = self.desk.look()
        return listed(self.desk.choices(found.groups), name), listed(self.desk.choices(found.checks), check)

    @told
    def opened(self, name: str | None) -> str:
        return frame(self.framed(Path(name)), "report of data check") if name else fragment(notes=["There is none."])


def _moved(number: int | None, *, by: int) -> int:
    return max(int(number or 1) + by, 1)


def asked_group(desk: Desk, name: str | None, number: int | None) -> Group:
    """The row that is shown, for a conversation about its picture.

    Raises:
        DataError: none is shown, or a picture of it lies outside of the folders.
    """
    if not name:
        raise DataError("no file is open", remedy="Choose one")
    group = desk.shelf.file(name).group(int(number or 1))
    check_pictures(group, desk.folders)
    if len(group.prompts[0].images) > 1:
        raise DataError(f"{group.id} has several pictures, and a conversation has one", remedy="Choose another row")
    return group


def row_html(desk: Desk, group: Group, how: str) -> str:
    """A row in one of the two ways; why not, where the model would refuse it."""
    if how == _STORED:
        return stored_html(group, desk.folders)
    if desk.renderer is None:
        return fragment(bad=["Whose eyes? Start the app with --model to see rows as it does."])
    try:
        return seen_html(group, desk.folders, desk.renderer)
    except DataError as error:
        return fragment(bad=[f"The model does not get to see this row: {error}"])

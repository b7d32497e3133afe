"""The tab *Data*."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import gradio as gr

from sightline.app.chat import Talk, about, question_in, talk_html
from sightline.app.desk import Desk
from sightline.app.parts import button, listed, told, when
from sightline.app.rows import check_pictures, seen_html, stored_html
from sightline.app.tab_chat import ChatTab, picture_html
from sightline.errors import DataError
from sightline.report.fragments import fragment, frame
from sightline.types import Group

_STORED, _SEEN = "as stored", "as the model sees it"
_NONE: Final = "There is no Group file in the folders of the app. sightline data convert ROWS -o FILE makes one."


def data_tab(desk: Desk, chat: ChatTab, framed: Callable[[Path], str], tabs: gr.Tabs) -> Callable[[Any], None]:
    """Puts the tab on the page; gives what looks up its files."""
    with gr.Row():
        file = gr.Dropdown([], label="Group file", scale=3, min_width=280, elem_id="data-file")
        view = gr.Radio([_STORED, _SEEN], value=_STORED, label="Row", scale=2, min_width=200, elem_id="data-view")
        row = gr.Number(1, label="Number", precision=0, minimum=1, scale=1, min_width=100, elem_id="data-row")
    with gr.Row():
        before = button("◀ Before", min_width=90)
        after = button("Next ▶", min_width=90, elem_id="data-next")
        wanted = gr.Textbox(
            show_label=False,
            container=False,
            lines=1,
            max_lines=1,
            placeholder="Find a text: Enter goes to the next row with it",
            scale=3,
            elem_id="data-find",
        )
        talk = button("Ask about it", min_width=110, elem_id="data-ask")
    shown = gr.HTML(elem_id="data-shown")
    with gr.Accordion("Reports of data check", open=False):
        report = gr.Dropdown([], label="Page", elem_id="data-check")
        page = gr.HTML()

    @told
    def show(name: str | None, number: int | None, how: str) -> tuple[Any, str]:
        if not name:
            return gr.skip(), fragment(notes=[_NONE])
        whole = desk.shelf.file(name)
        if not len(whole):
            return 1, fragment(notes=["The file holds no row."])
        place = min(max(int(number or 1), 1), len(whole))
        return gr.Number(place, label=f"Number, of {len(whole)}"), row_html(desk, whole.group(place), how)

    def moved(by: int) -> Callable[[int | None], int]:
        return lambda number: max(int(number or 1) + by, 1)

    @told
    def find(name: str | None, text: str, number: int | None) -> int:
        found = desk.shelf.file(name).find(text, int(number or 1)) if name and text else None
        if found is None:
            raise DataError(f"no row holds {text!r}", source=name or "", remedy="Write a shorter text")
        return found

    @told
    def bring(name: str | None, number: int | None) -> tuple[Talk, str, str, str, Any]:
        group = asked_group(desk, name, number)
        fresh = about(group)
        said = talk_html(fresh, [one.name for one in desk.speakers], "")
        return fresh, picture_html(fresh), question_in(group), said, gr.Tabs(selected="chat")

    @told
    def look(name: str | None, check: str | None) -> tuple[Any, Any]:
        found = desk.look()
        return listed(desk.choices(found.groups), name), listed(desk.choices(found.checks), check)

    @told
    def opened(name: str | None) -> str:
        return frame(framed(Path(name)), "report of data check") if name else fragment(notes=["There is none."])

    for on in (file.change, view.change, row.submit, row.blur):
        when(on, show, [file, row, view], [row, shown])
    for press, by in ((before, -1), (after, 1)):
        when(when(press.click, moved(by), [row], [row]).then, show, [file, row, view], [row, shown])
    when(when(wanted.submit, find, [file, wanted, row], [row]).success, show, [file, row, view], [row, shown])
    when(talk.click, bring, [file, row], [chat.talk, chat.picture, chat.question, chat.said, tabs])
    when(report.change, opened, [report], [page])

    def looks(on: Any) -> None:
        when(when(on, look, [file, report], [file, report]).then, show, [file, row, view], [row, shown])

    return looks


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

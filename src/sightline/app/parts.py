"""What the tabs have in common: errors as notes on the page, lists that are looked up when they are shown."""

from __future__ import annotations

import functools
import html
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, Final, ParamSpec, TypeVar

import gradio as gr

from sightline.errors import SightlineError

LARGEST: Final = 2**31 - 1
"""Of a number that is typed: one of more than 64 bits breaks the stream of events to the page."""
P = ParamSpec("P")
T = TypeVar("T")


def as_error(error: SightlineError | OSError) -> gr.Error:
    """A note on the page that stays until it is closed."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename or 'a file'}: {error.strerror}. Correct who may read and write there, or make room."
    return gr.Error(html.escape(text, quote=False), duration=None, print_exception=False)  # a note is read as HTML


def told(work: Callable[P, T]) -> Callable[P, T]:
    """An error that Sightline raises on purpose, or that the file system does, becomes a note on the page."""

    @functools.wraps(work)
    def run(*arguments: P.args, **options: P.kwargs) -> T:
        try:
            return work(*arguments, **options)
        except (SightlineError, OSError) as error:
            raise as_error(error) from error

    return run


def told_growing(work: Callable[P, Iterator[T]]) -> Callable[P, Iterator[T]]:
    """The same of a generator."""

    @functools.wraps(work)
    def run(*arguments: P.args, **options: P.kwargs) -> Generator[T, None, None]:
        try:
            yield from work(*arguments, **options)
        except (SightlineError, OSError) as error:
            raise as_error(error) from error

    return run


def listed(choices: Sequence[tuple[str, str]], now: str | None) -> Any:
    """A dropdown with these choices; what was chosen stays chosen while it is there."""
    values = [value for _, value in choices]
    return gr.Dropdown(choices=list(choices), value=now if now in values else (values[0] if values else None))


def button(face: str, **options: Any) -> gr.Button:
    """One of middling size."""
    return gr.Button(face, **{"size": "md", **options})


def when(on: Any, work: Callable[..., Any], inputs: Any, outputs: Any, **options: Any) -> Any:
    """An event: nothing of it is offered to other programs, and no bar is drawn over what it changes."""
    shown = {"api_visibility": "private", "show_progress": "hidden", **options}
    return on(work, inputs, outputs, **shown)

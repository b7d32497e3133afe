"""The tab *Runs*."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from sightline.app.desk import Desk
from sightline.app.parts import button, listed, told, when
from sightline.app.runs import run_html, stamp
from sightline.errors import SightlineError
from sightline.report.fragments import fragment

_EVERY = 2.0
"""Seconds between looks at a run that is shown."""
_NONE = "There is no run in the folders of the app. sightline train RECIPE makes one."
Seen = tuple[Any, ...]


def runs_tab(desk: Desk) -> tuple[Callable[[Any], None], gr.Timer]:
    """Puts the tab on the page; gives what looks up its runs, and the clock that is to tick while it is shown."""
    seen = gr.State(())
    with gr.Row():
        run = gr.Dropdown([], label="Run", scale=4, min_width=280, elem_id="runs-run")
        stop = button("Stop", variant="stop", scale=1, min_width=90, interactive=False, elem_id="runs-stop")
        resume = button("Resume", scale=1, min_width=90, interactive=False, elem_id="runs-resume")
    shown = gr.HTML(fragment(notes=[_NONE]), elem_id="runs-shown")
    clock = gr.Timer(_EVERY, active=False)
    faces = [seen, stop, resume, shown]

    def show(name: str | None, last: Seen, again: bool = False) -> tuple[Any, ...]:
        if not name:
            return (), gr.Button(interactive=False), gr.Button(interactive=False), fragment(notes=[_NONE])
        path = desk.folders.inside(name)
        standing = desk.runs.standing(path)
        now = (str(path), standing.state, *stamp(path))
        if now == last and not again:
            return gr.skip(), gr.skip(), gr.skip(), gr.skip()
        runs = standing.state == "running"
        html = run_html(path, standing, desk.folders)
        return now, gr.Button(interactive=runs), gr.Button(interactive=standing.state == "stopped"), html

    def chosen(name: str | None) -> tuple[Any, ...]:
        return ticked(name, (), again=True)

    def ticked(name: str | None, last: Seen, again: bool = False) -> tuple[Any, ...]:
        """Why a run cannot be shown stands where it would: curves of another one are not left under its name."""
        try:
            return show(name, last, again)
        except (SightlineError, OSError) as error:
            return (), gr.Button(interactive=False), gr.Button(interactive=False), fragment(bad=[str(error)])

    @told
    def stopped(name: str | None) -> None:
        gr.Info(desk.runs.stop(name or ""))

    @told
    def resumed(name: str | None) -> None:
        gr.Info(desk.runs.resume(name or ""))

    def look(name: str | None) -> Any:
        return listed(desk.choices(desk.look().runs), name)

    when(run.change, chosen, [run], faces)
    when(clock.tick, ticked, [run, seen], faces)
    when(when(stop.click, stopped, [run], None).success, chosen, [run], faces)
    when(when(resume.click, resumed, [run], None).success, chosen, [run], faces)
    return lambda on: when(on, look, [run], [run]), clock

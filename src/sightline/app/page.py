"""The page: five tabs, in the fonts of the system."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import gradio as gr

from sightline.app.desk import Desk
from sightline.app.parts import when
from sightline.app.tab_chat import ChatTab
from sightline.app.tab_data import DataTab
from sightline.app.tab_label import label_tab
from sightline.app.tab_results import results_tab
from sightline.app.tab_runs import runs_tab

_SANS: Final = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "DejaVu Sans", "Arial", "sans-serif")
_MONO: Final = ("ui-monospace", "SF Mono", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace")
THEME: Final = gr.themes.Base(
    primary_hue="blue",
    neutral_hue="slate",
    font=[gr.themes.Font(name) for name in _SANS],
    font_mono=[gr.themes.Font(name) for name in _MONO],
    radius_size="md",
)
HEAD: Final = "".join(
    f"<script>{(Path(__file__).parent / name).read_text(encoding='utf-8')}</script>" for name in ("keys.js", "late.js")
)
"""The keys of the tab *Label*, and late answers of the tab *Chat*."""


def build_page(desk: Desk, framed: Callable[[Path], str]) -> gr.Blocks:
    """
    Args:
        desk: what the tabs stand on.
        framed: gives the address under which a page is shown in a frame.
    """
    with gr.Blocks(title="Sightline", analytics_enabled=False) as page:
        gr.HTML("<h1>Sightline</h1>", elem_id="sl-title")
        with gr.Tabs(selected="chat") as tabs:
            with gr.Tab("Chat", id="chat") as chat:
                talk = ChatTab(desk)
            with gr.Tab("Data", id="data") as data:
                rows = DataTab(desk, framed)
            with gr.Tab("Label", id="label") as label:
                look_at_labels = label_tab(desk)
            with gr.Tab("Runs", id="runs") as runs:
                look_at_runs, clock = runs_tab(desk)
            with gr.Tab("Results", id="results") as results:
                look_at_results = results_tab(desk, framed)
        talk.wire()
        rows.wire(talk, tabs)
        rows.look_on(data.select)
        look_at_labels(label.select)
        look_at_runs(runs.select)
        look_at_results(results.select)
        when(runs.select, lambda: gr.Timer(active=True), None, [clock])
        for other in (chat, data, label, results):
            when(other.select, lambda: gr.Timer(active=False), None, [clock])
    return page

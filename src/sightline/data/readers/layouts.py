"""The layouts of rows, and how a row shows which one it has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from typing import Any

from sightline.data.readers.alpaca import read_alpaca
from sightline.data.readers.conversation import Reading
from sightline.data.readers.llava import read_llava
from sightline.data.readers.preference import read_mdpo, read_povid, read_rlhf_v, read_sentinel, read_two_outputs
from sightline.data.readers.swift import read_swift
from sightline.data.readers.trl import COLUMNS as TRL_COLUMNS
from sightline.data.readers.trl import read_trl
from sightline.data.readers.vlfeedback import read_vlfeedback
from sightline.types import Group


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One way to lay out a row."""

    told: str
    """The columns that tell it, and whose it is, for messages."""
    tells: Callable[[Set[str]], bool]
    """Whether columns are those of such a row. The first layout that says so reads it."""
    read: Callable[[Mapping[str, Any], Reading], Group] | None
    """None: Group files, which are no foreign layout."""


_ASKED = frozenset({"prompt", "question", "messages"})

LAYOUTS: Mapping[str, Layout] = {
    "groups": Layout(told="'prompts' (Group files)", tells=lambda names: "prompts" in names, read=None),
    "povid": Layout(
        told="'rejected_conversations' (POVID, CSR)",
        tells=lambda names: "rejected_conversations" in names,
        read=read_povid,
    ),
    "llava_rlhf": Layout(
        told="'output_1' and 'output_2' (LLaVA-RLHF)",
        tells=lambda names: "output_1" in names or "output_2" in names,
        read=read_two_outputs,
    ),
    "mdpo": Layout(
        told="'img_path', 'chosen' and 'rejected' (mDPO)",
        tells=lambda names: {"img_path", "chosen", "rejected"} <= names,
        read=read_mdpo,
    ),
    "sentinel": Layout(
        told="'y_win' or 'y_lose' (SENTINEL)",
        tells=lambda names: "y_win" in names or "y_lose" in names,
        read=read_sentinel,
    ),
    "vlfeedback": Layout(
        told="'completions' with ratings (VLFeedback)",
        tells=lambda names: "completions" in names and "labels" not in names,
        read=read_vlfeedback,
    ),
    "swift": Layout(
        told="'rejected_response', 'rejected_messages', 'query' or 'conversation' (ms-swift)",
        tells=lambda names: (
            bool({"rejected_response", "rejected_messages"} & names)
            or (bool({"query", "conversation"} & names) and not (TRL_COLUMNS | {"conversations"}) & names)
        ),
        read=read_swift,
    ),
    "llava": Layout(told="'conversations' (LLaVA)", tells=lambda names: "conversations" in names, read=read_llava),
    "trl": Layout(
        told=f"one of {', '.join(sorted(TRL_COLUMNS))} (TRL)",
        tells=lambda names: bool((TRL_COLUMNS if "instruction" not in names else _ASKED) & names),
        read=read_trl,
    ),
    "alpaca": Layout(told="'instruction' (Alpaca)", tells=lambda names: "instruction" in names, read=read_alpaca),
    "rlhf_v": Layout(told="'text' that holds JSON (RLHF-V)", tells=lambda names: "text" in names, read=read_rlhf_v),
}
"""By the names of ``data.*.format``, in the order in which they are tried."""


def recognised(row: Mapping[str, Any]) -> str | None:
    """The layout that the columns of a row tell, if any."""
    return next((name for name, layout in LAYOUTS.items() if layout.tells(row.keys())), None)

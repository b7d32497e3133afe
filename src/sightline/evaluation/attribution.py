"""What a wrong answer of HallusionBench comes from: language that overrules the picture, or a picture seen wrongly.

Guan et al., CVPR 2024 (arXiv:2310.14566), as ``get_eval_pair_all`` in ``utils.py`` of tianyi-lab/HallusionBench
decides it: by the verdict on the same question about the original figure, and by whether the two answers say the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["correct", "incorrect", "unclear"]
Fault = Literal["language", "vision", "mixed", "unknown"]


@dataclass(frozen=True, kw_only=True)
class JudgedAnswer:
    """A verdict, and what decides where an error comes from."""

    supplement: bool
    """The question can be answered without the figure (VS); False: it depends on it (VD)."""
    edited: bool
    """It is not about the original figure; for VS: it has a figure."""
    counter: bool
    """The figure contradicts what is known (``visual_input`` 2)."""
    verdict: Verdict
    original: Verdict | None = None
    """On the same question about the original figure (VS: without a figure); None: there is none."""
    same: bool | None = None
    """The answer agrees with that to the original; None: nobody said."""


def needs_comparison(answer: JudgedAnswer) -> bool:
    """Whether the fault depends on ``same``: only then the script's second question to the judge decides anything."""
    if not answer.edited or answer.verdict != "incorrect":
        return False
    if answer.supplement:
        return answer.original == "incorrect" or (answer.original == "correct" and answer.counter)
    return answer.original == "correct"


def fault(answer: JudgedAnswer) -> Fault | None:
    """Where the error comes from; None: there is none.

    ``unknown``: the verdict on the original or the comparison that would decide is missing. The script has both
    always: it stops where the original is missing, and asks its judge until it replies.
    """
    if answer.verdict == "correct":
        return None
    if not answer.edited:
        if not answer.supplement:
            return "vision"
        # not to know is right where nothing is shown
        return "language" if answer.verdict == "incorrect" else None
    if needs_comparison(answer) and answer.same is None:
        return "unknown"
    return _on_edited_supplement(answer) if answer.supplement else _on_edited_dependent(answer)


def _on_edited_dependent(answer: JudgedAnswer) -> Fault:
    if answer.verdict == "incorrect" and answer.original is None:
        return "unknown"
    # the answer to the original repeated on the edited figure: not looked at, or not seen
    return "mixed" if needs_comparison(answer) and answer.same else "vision"


def _on_edited_supplement(answer: JudgedAnswer) -> Fault:
    if answer.original is None:
        return "unknown"
    if answer.original == "incorrect":
        return "language" if answer.verdict == "incorrect" and answer.same else "mixed"
    # known without the figure, and kept against it
    return "language" if needs_comparison(answer) and answer.same else "vision"

"""Twenty steps of each algorithm give the losses they always gave.

The equivalence tests compare Sightline with itself; these compare it with its own past, so that a change of a
default, a loss, a schedule, the drawing of scenes or the order of rows is seen even where everything still agrees.

Tolerance: the same run with other vector units (AVX-512, AVX2, none), as separate rows instead of trees, and in many
micro-batches moved no figure by more than 5e-7 of its value (margins near zero: 1e-7). 1e-4 leaves room for other
processors and libraries, and is far below what a changed formula does. The answers of ``online_dpo`` are sampled: a
processor on which one token falls differently would move that curve visibly, though no formula changed.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from golden.curves import CURVES, STEPS, STORED


@pytest.mark.parametrize("name", CURVES)
def test_the_curve_is_the_stored_one(name: str, tmp_path: Path) -> None:
    stored = json.loads(STORED.read_text())[name]
    curve = CURVES[name](tmp_path)
    assert curve.keys() == stored.keys()
    assert len(curve["loss"]) == STEPS
    for figure, values in curve.items():
        assert values == pytest.approx(stored[figure], rel=1e-4, abs=1e-5), figure


def test_the_stored_losses_fall() -> None:
    """What is stored shows learning, not only repetition."""
    stored = json.loads(STORED.read_text())
    assert sum(stored["sft"]["loss"][-5:]) < 0.75 * sum(stored["sft"]["loss"][:5])
    assert sum(stored["dpo"]["loss"][-5:]) < 0.75 * sum(stored["dpo"]["loss"][:5])
    assert sum(stored["online_dpo"]["reward"][-5:]) > sum(stored["online_dpo"]["reward"][:5])

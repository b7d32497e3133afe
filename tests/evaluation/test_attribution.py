"""HallusionBench's attribution: every branch of the published decision, by hand."""

import pytest

from sightline.evaluation.attribution import JudgedAnswer, fault, needs_comparison

RIGHT, WRONG, UNCLEAR = "correct", "incorrect", "unclear"


def answer(kind, verdict, original=None, same=None):
    """VD or VS about the original, VD1 or VS1 about an edited figure, VS2 about one against common knowledge."""
    return JudgedAnswer(
        supplement=kind.startswith("VS"),
        edited=kind[2:] != "",
        counter=kind == "VS2",
        verdict=verdict,
        original=original,
        same=same,
    )


@pytest.mark.parametrize(
    ("kind", "verdict", "original", "same", "expected"),
    [
        ("VD", WRONG, None, None, "vision"),
        ("VD", UNCLEAR, None, None, "vision"),
        ("VS", WRONG, None, None, "language"),
        ("VS", UNCLEAR, None, None, None),  # nothing is shown: not knowing is right
        ("VD1", WRONG, RIGHT, True, "mixed"),
        ("VD1", WRONG, RIGHT, False, "vision"),
        ("VD1", UNCLEAR, RIGHT, True, "vision"),
        ("VD1", WRONG, WRONG, True, "vision"),
        ("VD1", WRONG, UNCLEAR, True, "vision"),
        ("VD1", UNCLEAR, WRONG, None, "vision"),
        ("VS1", WRONG, WRONG, True, "language"),
        ("VS1", WRONG, WRONG, False, "mixed"),
        ("VS1", UNCLEAR, WRONG, True, "mixed"),
        ("VS1", WRONG, UNCLEAR, True, "vision"),
        ("VS1", UNCLEAR, UNCLEAR, True, "vision"),
        ("VS1", UNCLEAR, RIGHT, True, "vision"),
        ("VS1", WRONG, RIGHT, True, "vision"),  # a figure that agrees with what is known
        ("VS2", WRONG, RIGHT, True, "language"),
        ("VS2", WRONG, RIGHT, False, "vision"),
        ("VS2", UNCLEAR, RIGHT, True, "vision"),
        ("VS2", WRONG, WRONG, True, "language"),
        ("VS2", WRONG, UNCLEAR, True, "vision"),
        # what the script always has
        ("VD1", WRONG, RIGHT, None, "unknown"),
        ("VS2", WRONG, RIGHT, None, "unknown"),
        ("VS1", WRONG, WRONG, None, "unknown"),
        ("VD1", WRONG, None, True, "unknown"),
        ("VD1", UNCLEAR, None, None, "vision"),
        ("VS1", UNCLEAR, None, None, "unknown"),
    ],
)
def test_faults(kind, verdict, original, same, expected):
    assert fault(answer(kind, verdict, original, same)) == expected


@pytest.mark.parametrize("kind", ["VD", "VS", "VD1", "VS1", "VS2"])
@pytest.mark.parametrize("original", [RIGHT, WRONG, UNCLEAR])
def test_a_right_answer_has_no_fault_and_is_not_compared(kind, original):
    assert fault(answer(kind, RIGHT, original, True)) is None and not needs_comparison(answer(kind, RIGHT, original))


@pytest.mark.parametrize("kind", ["VD", "VS", "VD1", "VS1", "VS2"])
@pytest.mark.parametrize("verdict", [WRONG, UNCLEAR])
@pytest.mark.parametrize("original", [RIGHT, WRONG, UNCLEAR])
def test_the_comparison_is_asked_for_where_it_decides_and_only_there(kind, verdict, original):
    decides = fault(answer(kind, verdict, original, True)) != fault(answer(kind, verdict, original, False))
    assert needs_comparison(answer(kind, verdict, original)) == decides

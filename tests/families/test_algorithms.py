"""Every family, with every kind of algorithm, in every layout of the family: loss and gradients are those of ``rows``,
in which they do not depend on how a step is split.

A kind is what an algorithm asks of a family: which heads, and whether of a reference or under masked pictures too. The
algorithms of a kind meet the families in turn; ``test_every_algorithm`` holds each to every layout of one family, and
``make fuzz`` meets all with all. The rows of an algorithm are its first case in ``test_every_algorithm.CASES``, which
lacks none that is registered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from killing import TIMES
from test_every_algorithm import CASES, Case, Step, assert_equal, groups_of, step
from test_matrix import each_family, policy_of
from torch import Tensor

from sightline.algorithms.registry import BUILT_IN, build_algorithm
from sightline.data.render import Renderer
from sightline.models.policy import Policy
from sightline.models.value_head import ValueHead
from sightline.recipes.schema import PartsSpec
from sightline.rendered import RenderedGroup
from sightline.train.columns import CopyReference
from sightline.types import Batch
from tiny_families import BUILDERS

FIRST: dict[str, Case] = {case.options["name"]: case for case in reversed(CASES.values())}
"""By algorithm."""


class Remembered:
    """A reference that reads every batch once: its rows come again with the next algorithm."""

    def __init__(self, reference: CopyReference) -> None:
        self._reference = reference
        self._found: dict[tuple[str, ...], Tensor] = {}

    def logprobs(self, batch: Batch, groups: Sequence[RenderedGroup]) -> Tensor:
        key = (batch.layout, *(repr(one.group) for one in groups))
        if key not in self._found:
            self._found[key] = self._reference.logprobs(batch, groups)
        return self._found[key]


def policies_of(path: Path, model_type: str, pictures: list[str]) -> dict[str, tuple[Policy, Remembered]]:
    """By head, one that has moved from its reference."""
    made = {}
    for head in ("logprobs", "reward"):
        policy = policy_of(path, parts=PartsSpec(vision="full"), heads=frozenset({head}))
        if "gemma4" in model_type:  # its tower's gradients are so small that in float32 rounding shows
            policy.model.double()
        policy.value_head = ValueHead(policy.config.get_text_config().hidden_size)
        reference = Remembered(CopyReference(policy.reference_copy()))
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
        made[head] = policy.train(), reference
    return made


def kinds() -> list[list[Case]]:
    """The cases of each kind; those without rounds of samples either compare with a reference or do not."""
    found: dict[object, list[Case]] = {}
    for case in FIRST.values():
        made = build_algorithm(case.options)
        compared = not made.rounds and "ref_logprobs" in made.needs
        found.setdefault((made.heads, made.masked != "no", compared), []).append(case)
    return list(found.values())


def cases_of(model_type: str) -> list[Case]:
    turn = list(BUILDERS).index(model_type)
    return [case for kind in kinds() for case in (kind if TIMES > 1 else [kind[turn % len(kind)]])]


def test_the_matrix_holds_every_algorithm_and_every_family_every_head() -> None:
    assert FIRST.keys() == BUILT_IN.keys()
    assert {case.options["name"] for name in BUILDERS for case in cases_of(name)} == set(BUILT_IN)
    for name in BUILDERS:
        made = [build_algorithm(case.options) for case in cases_of(name)]
        assert {head for one in made for head in one.heads} == {"logprobs", "entropy", "values", "reward"}
        assert any("ref_logprobs" in one.needs for one in made) and any(one.masked != "no" for one in made)


@each_family
def test_every_kind_of_algorithm_in_every_layout(
    folder_of: Callable[[str], Path], pictures: list[str], model_type: str
) -> None:
    policies = policies_of(folder_of(model_type), model_type, pictures)
    policy, _ = policies["logprobs"]
    renderer = Renderer(policy.processor, policy.family)
    cases = cases_of(model_type)
    rendered = {
        rows: [renderer.render(group) for group in groups_of(rows, pictures)] for rows in {case.rows for case in cases}
    }
    for case in cases:
        algorithm, rows = build_algorithm(case.options), rendered[case.rows]

        def found(layout: str, *parts: list[RenderedGroup]) -> Step:
            return step(algorithm, policies, list(parts), layout)  # noqa: B023

        expected = found("rows", rows)
        others = sorted(policy.family.layouts - {"rows"})
        for layout in others:
            assert_equal(found(layout, rows), expected)
        if not others:
            assert_equal(found("rows", rows[3:], rows[:3]), expected)

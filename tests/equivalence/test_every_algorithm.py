"""Every algorithm and every visual relation: layouts and micro-batch splits give the same loss and gradients."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest
import torch
from groups import user
from reads import moved, none_read
from torch import Tensor

from sightline.algorithms.links import LINKS
from sightline.algorithms.presets import PRESETS
from sightline.algorithms.registry import BUILT_IN, build_algorithm
from sightline.data.render import Renderer
from sightline.models.layout import lay_out
from sightline.models.load import load_policy
from sightline.models.policy import Policy
from sightline.models.value_head import ValueHead
from sightline.recipes.schema import ModelSpec, PartsSpec, SegmentSpec, VisualSpec
from sightline.relations.masked import with_masked
from sightline.relations.mismatched import mismatched
from sightline.relations.visual import TABLE, Contrast, compare_pictures
from sightline.rendered import RenderedGroup
from sightline.train.columns import Columns, CopyReference
from sightline.types import Algorithm, Batch, Edge, Group, Prompt, Response, Scores, Unit


class Case(NamedTuple):
    """An algorithm, and its rows: ``singles``, ``lists``, ``pairs`` (weighted), ``plain`` (pairs), ``labelled``,
    ``sampled`` (with what a round of sampling brings) or ``masked`` (the same under a second picture too)."""

    rows: str
    options: dict[str, Any]
    segments: SegmentSpec | None = None


CASES = {
    "sft": Case("singles", {"name": "sft"}),
    "sft chosen": Case("plain", {"name": "sft", "responses": "chosen"}),
    "dpo": Case("pairs", {"name": "dpo"}),
    "dpo mixed": Case(
        "pairs", {"name": "dpo", "link": {"sigmoid": 0.8, "bco_pair": 0.2, "ipo": 0.1}, "sft_weight": 1.0}
    ),
    "dpo anchored": Case("lists", {"name": "dpo", "anchor_weight": 1.0, "negative_anchor_weight": 0.5, "per": "group"}),
    "dpo desensitised": Case("lists", {"name": "dpo", "ld_alpha": 0.3, "divergence": "js_divergence"}),
    "dpo weighted": Case("pairs", {"name": "dpo", "weighting": "wpo"}),
    "dpo dense": Case("pairs", {"name": "dpo", "link": "sigmoid_norm"}, SegmentSpec(corrected=5.0, shared=0.5)),
    "dpo_listwise": Case("lists", {"name": "dpo_listwise", "label_smoothing": 0.1, "sft_weight": 0.5}),
    "aot": Case("plain", {"name": "aot"}),
    "aot unpaired": Case("plain", {"name": "aot", "paired": False}),
    "orpo": Case("pairs", {"name": "orpo"}),
    "simpo": Case("pairs", {"name": "simpo", "sft_weight": 0.5}),
    "cpo": Case("pairs", {"name": "cpo"}),
    "kto": Case("labelled", {"name": "kto", "undesirable_weight": 1.5}),
    **{name: Case("sampled", {"name": name}) for name in PRESETS},
    **{name: Case("masked", {"name": name}) for name in ("papo", "papo_d", "vppo", "ves_rft")},
    "papo with gspo": Case("masked", {"name": "gspo", "perception": {"kind": "papo", "gamma": 0.5}}),
    "papo by group": Case(
        "masked", {"name": "grpo", "normaliser": "group", "perception": {"kind": "papo", "through_masked": False}}
    ),
    "vppo with rloo": Case(
        "masked", {"name": "rloo", "perception": {"kind": "vppo", "share": 1.0, "least": 0.0}, "mismatch": "tis"}
    ),
    "ves with gdpo": Case(
        "masked", {"name": "gdpo", "std_epsilon": 0.1, "perception": {"kind": "visual_entropy", "weight": 2.0}}
    ),
    "dr_grpo": Case("sampled", {"name": "dr_grpo", "length": 16}),
    "grpo with kl": Case("sampled", {"name": "grpo", "beta": 0.1, "scale": "batch", "mismatch": "icepop"}),
    "ppo": Case("sampled", {"name": "ppo", "mismatch": "tis"}),
    "reward_model": Case("pairs", {"name": "reward_model", "margin": 0.5, "center_rewards_coefficient": 0.1}),
    "reward_model lists": Case("lists", {"name": "reward_model", "objective": "plackett_luce"}),
    "reward_model scores": Case("singles", {"name": "reward_model", "objective": "regression"}),
}
ANSWERS = ("a red circle.", "a blue star and a moon", "no", "two small squares of paper", "a green star, I think")


class OneProcess:
    rank, size = 0, 1

    def sum(self, value: Tensor) -> Tensor:
        return value


class Step(NamedTuple):
    """What a step of one optimizer update comes to."""

    loss: float
    gradients: dict[str, Tensor]


def groups_of(rows: str, pictures: Sequence[str]) -> list[Group]:
    """Five groups, of one to three answers each; the fourth has no picture."""
    if rows == "masked":
        asked = [group for group in groups_of("sampled", pictures) if group.prompts[0].images]
        return [with_masked(bare(g), replace(g.prompts[0], id=f"{g.id}/other", images=(pictures[5],))) for g in asked]
    count, groups = {"singles": 1, "lists": 3, "labelled": 1, "sampled": 3}.get(rows, 2), []
    for index in range(5):
        image = () if index == 3 else (pictures[index % 4],)
        question = user(*(None for _ in image), "What is it? " * (1 + index % 2))
        answers = tuple(
            Response(text=ANSWERS[(index + n) % 5], reward=1.0 - n + index / 4, label=index % 2 == 0 or None)
            for n in range(count)
        )
        pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
        weight = 1.0 + index / 2 if rows == "pairs" else 1.0
        edges = tuple(Edge(winner=i, loser=j, weight=weight) for i, j in pairs)
        groups.append(
            Group(prompts=(Prompt(id=f"{index}", messages=(question,), images=image),), responses=answers, edges=edges)
        )
    if rows == "sampled":
        return [replace(g, responses=tuple(map(sampled, g.responses)), edges=()) for g in groups]
    if rows != "labelled":
        return groups
    groups = [replace(g, responses=tuple(replace(r, label=bool(r.label)) for r in g.responses)) for g in groups]
    return [mismatched(groups)(group) for group in groups]


def bare(group: Group) -> Group:
    """Without log-probabilities of the old policy: those under two pictures are the model's own."""
    answers = [replace(r, columns={k: v for k, v in r.columns.items() if k == "values"}) for r in group.responses]
    return replace(group, responses=tuple(answers))


def sampled(response: Response) -> Response:
    """The same answer as tokens of a sampler whose log-probabilities are near enough, with its reward in two parts."""
    tokens = tuple(40 + ord(letter) % 50 for letter in response.text[:9])
    reward = response.reward + 2  # type: ignore[operator]  # MaxRL takes none below 0
    columns = {"values": (1.5,) * len(tokens), "old_logprobs": tuple(-6.4 + 0.1 * (t % 3) for t in tokens)}
    return replace(
        response,
        tokens=tokens,
        reward=reward,
        rewards={"half": reward / 2, "rest": reward * reward % 1},
        columns=columns,
        rollout_logprobs=tuple(value - 0.2 + 0.05 * (n % 5) for n, value in enumerate(columns["old_logprobs"])),
    )


@pytest.fixture(scope="module")
def policies(tiny: dict[str, Path]) -> dict[str, tuple[Policy, CopyReference]]:
    """By head: a policy that has moved, and where it came from."""
    made = {}
    for head in ("logprobs", "reward"):
        torch.manual_seed(0)
        spec = ModelSpec(path=str(tiny["llava"]), parts=PartsSpec(vision="full"))
        policy = load_policy(spec, heads=frozenset({head}))  # type: ignore[arg-type]
        policy.value_head = ValueHead(policy.config.get_text_config().hidden_size)
        reference = CopyReference(policy.reference_copy())
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
        made[head] = policy.train(), reference
    return made


def step(
    algorithm: Algorithm,
    policies: dict[str, tuple[Policy, CopyReference]],
    parts: list[list[RenderedGroup]],
    layout: str,
) -> Step:
    """The loop's order: columns, the whole step's columns, the count of units, then a backward per micro-batch, in
    which nothing on the device is read. (In rows transformers looks whether they need a mask, and some of its towers
    look how large their pictures are.)"""
    policy, reference = policies["reward" if "reward" in algorithm.heads else "logprobs"]
    policy.zero_grad(set_to_none=True)
    needs = algorithm.needs | (set() if algorithm.masked == "no" else {"old_logprobs"})
    columns = Columns(needs, reference, policy, critic="values" in algorithm.heads)
    batches: Sequence[Batch] = [
        columns.fill(moved(lay_out(part, layout, policy.family, policy.config)), part)  # type: ignore[arg-type]
        for part in parts
    ]
    if "old_logprobs" in algorithm.needs or algorithm.rounds:
        batches = algorithm.prepare_step(batches, [True] * len(batches), OneProcess())
    counts = {unit: sum(batch.count(unit) for batch in batches) for unit in get_args(Unit)}
    total, watched = 0.0, layout != "rows" and policy.family.name == "llava"
    for batch in batches:
        with none_read(batch, policy.parameters()) if watched else nullcontext():
            terms, _ = algorithm.loss(batch, policy(batch, algorithm.heads), OneProcess())
            loss = torch.stack([term.coefficient * term.values.sum() / counts[term.unit] for term in terms]).sum()
            loss.backward()
        total += float(loss.detach())
    # softmax does not see key biases: their gradient is zero by theory and noise in practice
    named = ((name, p.grad) for name, p in policy.named_parameters() if not name.endswith("k_proj.bias"))
    return Step(total, {name: gradient.clone() for name, gradient in named if gradient is not None})


def assert_equal(own: Step, expected: Step) -> None:
    assert own.loss == pytest.approx(expected.loss, rel=1e-5, abs=1e-6)
    assert own.gradients.keys() == expected.gradients.keys()
    whole = torch.stack([g.norm() for g in expected.gradients.values()]).norm()
    assert whole > 1e-3
    for name, gradient in expected.gradients.items():
        assert (own.gradients[name] - gradient).norm() < 1e-5 * whole + 1e-4 * gradient.norm(), name


def check(
    algorithm: Algorithm,
    policies: dict[str, tuple[Policy, CopyReference]],
    groups: list[Group],
    segments: SegmentSpec | None = None,
) -> None:
    """Each layout against rows; trees in three micro-batches, of which one holds several groups."""
    policy, _ = policies["reward" if "reward" in algorithm.heads else "logprobs"]
    renderer = Renderer(policy.processor, policy.family, segments=segments)
    rendered = [renderer.render(group) for group in groups]
    expected = step(algorithm, policies, [rendered], "rows")
    assert_equal(step(algorithm, policies, [rendered], "packed"), expected)
    assert_equal(step(algorithm, policies, [rendered[2:], rendered[:1], rendered[1:2]], "tree"), expected)


def test_no_algorithm_is_left_out() -> None:
    assert {case.options["name"] for case in CASES.values()} == set(BUILT_IN)


@pytest.mark.parametrize("name", CASES)
def test_algorithm(policies: dict[str, tuple[Policy, CopyReference]], pictures: list[str], name: str) -> None:
    case = CASES[name]
    check(build_algorithm(case.options), policies, groups_of(case.rows, pictures), case.segments)


def related(pictures: Sequence[str], relation: str, symmetric: bool) -> list[Group]:
    """Pairs under their picture, another one and none."""
    spec = VisualSpec(relation=relation, symmetric=symmetric)  # type: ignore[arg-type]
    made = []
    for group in groups_of("pairs", pictures)[:3]:
        prompt = group.prompts[0]
        negative = replace(prompt, id=f"{prompt.id}/negative", images=(pictures[5],))
        between = Prompt(id=f"{prompt.id}/none", messages=(user("What is it?"),))
        made.append(compare_pictures(group, {0: Contrast(negative=negative, between=between)}, spec))
    return made


@pytest.mark.parametrize(("relation", "symmetric"), TABLE)
def test_visual_relation_with_every_link(
    policies: dict[str, tuple[Policy, CopyReference]], pictures: list[str], relation: str, symmetric: bool
) -> None:
    """The whole way for a sum of links of both sorts; every single link on the log-probabilities of both layouts."""
    groups = related(pictures, relation, symmetric)
    check(build_algorithm({"name": "dpo", "link": {"sigmoid": 1.0, "nca_pair": 0.5}, "per": "group"}), policies, groups)
    policy, reference = policies["logprobs"]
    renderer = Renderer(policy.processor, policy.family)
    rendered, found = [renderer.render(group) for group in groups], []
    for layout in ("rows", "tree"):
        batch = lay_out(rendered, layout, policy.family, policy.config)  # type: ignore[arg-type]
        batch = batch.with_columns(ref_logprobs=reference.logprobs(batch, rendered))
        with torch.no_grad():
            found.append((batch, policy(batch).logprobs))
    for link, about in LINKS.items():
        algorithm = build_algorithm({"name": "dpo", "link": link, "label_smoothing": 0.1 if about.smoothing else 0.0})
        losses, slopes = [], []
        for batch, logprobs in found:
            leaf = logprobs.clone().requires_grad_()
            ((term,), _) = algorithm.loss(batch, Scores(logprobs=leaf), OneProcess())
            assert term.values.shape == (sum(len(group.edges) for group in groups),)
            losses.append(term.values.detach())
            slopes.append(torch.autograd.grad(term.values.sum(), leaf)[0])
        torch.testing.assert_close(losses[1], losses[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(slopes[1], slopes[0], rtol=1e-4, atol=1e-5)
        assert float(slopes[0].abs().sum()) > 0, link

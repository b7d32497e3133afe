"""Visual preferences: the strategies of OViP's table as edges, and their published losses through DPO."""

from dataclasses import replace

import pytest
import torch

from sightline.algorithms.dpo import DPO
from sightline.errors import DataError
from sightline.recipes.schema import NegativeSpec, VisualSpec
from sightline.relations.visual import TABLE, Contrast, compare_pictures
from sightline.types import Batch, Edge, Group, Prompt, Response, Scores

TRUE, NEGATIVE, BETWEEN = (Prompt(id=name, messages=(), images=(f"{name}.png",)) for name in ("q", "q/no", "q/mid"))
PAIR = Group(
    prompts=(TRUE,),
    responses=(Response(text="+", reward=2.0, tokens=(5,), rollout_logprobs=(-1.0,)), Response(text="-", reward=0.0)),
    edges=(Edge(winner=0, loser=1),),
    source="rows.json:1",
)
CONTRAST = {0: Contrast(negative=NEGATIVE, between=BETWEEN)}
# log-ratios of policy and reference in the golden vector of the specification; the last two are our own
DELTA = {("+", "q"): 2.0, ("+", "q/mid"): 0.5, ("+", "q/no"): -1.0, ("-", "q"): -3.0, ("-", "q/no"): 1.0}
DELTA |= {("-", "q/mid"): 0.25}


def related(relation, *, symmetric=False, group=PAIR, **options):
    return compare_pictures(group, CONTRAST, VisualSpec(relation=relation, symmetric=symmetric, **options))


def sides(group):
    return [f"{response.text}{group.prompts[response.prompt].id.removeprefix('q')}" for response in group.responses]


def edges(group):
    names = sides(group)
    return [(names[e.winner], names[e.loser], e.kind, e.weight) for e in group.edges]


def loss_per_group(group, algorithm, copies=1):
    """What the loop makes of ``copies`` of a group: every term's sum over its unit's count."""
    values = [DELTA[r.text, group.prompts[r.prompt].id] for r in group.responses] * copies
    nothing, count = torch.zeros(0, dtype=torch.long), len(group.responses)
    pairs = [(c * count + e.winner, c * count + e.loser) for c in range(copies) for e in group.edges]
    batch = Batch(
        layout="rows",
        tokens=nothing,
        positions=nothing,
        segment=nothing,
        parent=nothing,
        length=nothing,
        vision={},
        image_tokens=(),
        placeholder=nothing,
        feature=nothing,
        source=torch.arange(len(values)),
        target=torch.zeros(len(values), dtype=torch.long),
        response=torch.arange(len(values)),
        group=torch.arange(copies).repeat_interleave(count),
        last=nothing,
        pairs=torch.tensor(pairs),
        pair_weight=torch.tensor([e.weight for e in group.edges] * copies),
        pair_kind=tuple(e.kind for e in group.edges) * copies,
        num_groups=copies,
        ref_logprobs=torch.full((len(values),), -4.0),
    )
    terms, _ = algorithm.loss(batch, Scores(logprobs=torch.tensor(values) - 4), None)
    return {term.name: float(term.coefficient * term.values.sum() / batch.count(term.unit)) for term in terms}


def test_the_rows_and_edges_of_every_strategy():
    """Section 1.6 of the specification: rows (text|image), then which is preferred over which."""
    assert edges(related("mdpo")) == [("+", "-", "text", 1), ("+", "+/no", "image", 1)]
    assert edges(related("svco_noref")) == [("+", "-/no", "image", 1)]
    assert edges(related("svco")) == [("+", "+/mid", "image", 0.5), ("+/mid", "+/no", "image", 0.5)]
    assert edges(related("ovip")) == [
        ("+", "-", "text", 1),
        ("+", "+/mid", "image", 1),
        ("+/mid", "+/no", "image", 1),
    ]
    assert edges(related("mdpo", symmetric=True)) == [
        ("+", "-", "text", 0.5),
        ("-/no", "+/no", "text", 0.5),
        ("+", "+/no", "image", 0.5),
        ("-/no", "-", "image", 0.5),
    ]
    assert edges(related("svco_noref", symmetric=True)) == [("+", "+/no", "image", 0.5), ("-/no", "-", "image", 0.5)]
    assert edges(related("svco", symmetric=True)) == [
        ("+", "+/mid", "image", 1),
        ("+/mid", "+/no", "image", 1),
        ("-/no", "-/mid", "image", 1),
        ("-/mid", "-", "image", 1),
    ]
    assert len(edges(related("ovip", symmetric=True))) == 6


@pytest.mark.parametrize("relation", ["mdpo", "svco_noref", "svco", "ovip"])
def test_a_symmetric_relation_is_its_own_mirror_image(relation):
    """With answers and pictures exchanged: the matched pairs win, the mixed ones lose."""
    mirror = {"chosen": "rejected", "rejected": "chosen", "true": "negative", "negative": "true", "between": "between"}
    table = {(c.winner, c.loser): c.weight for c in TABLE[relation, True]}
    turned = {
        tuple((mirror[side.answer], mirror[side.picture]) for side in pair): weight for pair, weight in table.items()
    }
    assert turned == table


def test_golden_vectors_of_the_specification():
    dpo = DPO(beta=0.1, per="group")
    assert loss_per_group(related("ovip"), dpo)["dpo"] == pytest.approx(1.715991, abs=2e-6)
    assert loss_per_group(related("ovip", image_weight=0.5), dpo)["dpo"] == pytest.approx(1.095034, abs=2e-6)
    assert loss_per_group(related("mdpo"), dpo)["dpo"] == pytest.approx(0.474077 + 0.554355, abs=2e-6)
    assert loss_per_group(related("svco"), dpo)["dpo"] == pytest.approx(0.620957, abs=2e-6)
    assert loss_per_group(PAIR, dpo)["dpo"] == pytest.approx(0.474077, abs=2e-6)
    assert loss_per_group(related("ovip"), dpo, copies=3)["dpo"] == pytest.approx(1.715991, abs=2e-6)
    mean = loss_per_group(related("ovip"), DPO(beta=0.1))["dpo"]
    assert mean == pytest.approx(1.715991 / 3, abs=2e-6)  # per pair: the mean of three comparisons


def test_symmetric_losses_by_hand():
    """P(a over b) = softplus(-(Δa - Δb) / 10), with the values of DELTA."""
    dpo = DPO(beta=0.1, per="group")
    p = {
        margin: float(torch.nn.functional.softplus(torch.tensor(-margin / 10)))
        for margin in (1.5, 0.75, 3.25, 5, 2, 3, 4)
    }
    assert loss_per_group(related("svco", symmetric=True), dpo)["dpo"] == pytest.approx(
        p[1.5] + p[1.5] + p[0.75] + p[3.25], abs=2e-6
    )
    assert loss_per_group(related("mdpo", symmetric=True), dpo)["dpo"] == pytest.approx(
        (p[5] + p[2] + p[3] + p[4]) / 2, abs=2e-6
    )


def test_the_anchor_holds_the_chosen_answer_under_its_own_picture():
    """Golden: 0.598139; the answer without its picture wins a comparison as well, and is not anchored."""
    terms = loss_per_group(related("ovip"), DPO(beta=0.1, per="group", anchor_weight=1.0))
    assert terms["anchor"] == pytest.approx(0.598139, abs=2e-6)


def test_any_link_scores_them():
    hinge = DPO(beta=0.1, link="hinge", per="group")
    assert loss_per_group(related("ovip"), hinge)["dpo"] == pytest.approx(0.85 + 0.85 + 0.5, abs=1e-6)
    ipo = DPO(beta=0.1, link="ipo", per="group")
    assert loss_per_group(related("mdpo"), ipo)["dpo"] == pytest.approx((5 - 5) ** 2 + (3 - 5) ** 2, abs=1e-5)


def test_what_was_said_of_an_answer_does_not_follow_it_to_another_picture():
    made = related("ovip")
    assert sides(made) == ["+", "-", "+/mid", "+/no"]
    assert made.responses[0] == PAIR.responses[0]
    for moved in made.responses[2:]:
        assert moved.tokens == (5,)
        assert moved.reward is None and moved.rollout_logprobs is None
    assert made.id == "q" and made.source == "rows.json:1"


def test_every_comparison_of_a_ranked_list_is_turned_and_equal_ones_add_up():
    third = replace(PAIR, responses=(*PAIR.responses, Response(text="--")))
    ranked = replace(third, edges=(Edge(winner=0, loser=1), Edge(winner=0, loser=2, weight=0.5)))
    assert edges(related("mdpo", group=ranked, image_weight=2.0)) == [
        ("+", "-", "text", 1),
        ("+", "+/no", "image", 3),
        ("+", "--", "text", 0.5),
    ]


def test_rows_that_bring_no_comparison_of_two_answers_to_one_prompt_are_refused():
    with pytest.raises(DataError, match="no comparison of answers"):
        related("mdpo", group=replace(PAIR, edges=()))
    with pytest.raises(DataError, match="under different prompts"):
        related("mdpo", group=related("mdpo"))
    assert VisualSpec(relation="mdpo").negative == NegativeSpec()

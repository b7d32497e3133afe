import math
from dataclasses import replace

import pytest
import torch

from sightline.algorithms.dpo import DPO
from sightline.errors import RecipeError
from sightline.types import Scores


def terms_of(algorithm, batch, logprobs, world):
    scores = Scores(logprobs=torch.as_tensor(logprobs))
    terms, stats = algorithm.loss(batch, scores, world)
    return {term.name: term for term in terms}, {
        name: stat.sum.item() / stat.count for name, stat in stats.items() if stat.count
    }


def test_margins_of_known_log_ratios(flat_batch, world):
    # The published example of image-side preferences: Δ = 2, 0.5, -1, -3 for (true picture, no picture,
    # other picture, rejected answer) at beta 0.1.
    batch = flat_batch(
        [1] * 4,
        [(0, 3), (0, 1), (1, 2), (0, 2)],
        pair_kind=["text", "image", "image", "image"],
        ref_logprobs=[-4.0] * 4,
    )
    terms, stats = terms_of(DPO(), batch, [-2.0, -3.5, -5.0, -7.0], world)
    assert terms["dpo"].unit == "pair" and terms["dpo"].coefficient == 1.0
    assert terms["dpo"].values.tolist() == pytest.approx([0.474077, 0.620957, 0.620957, 0.554355], abs=1e-6)
    assert terms["dpo"].values[:3].sum().item() == pytest.approx(1.715991, abs=1e-6)
    assert stats["rewards/chosen"] == pytest.approx((0.2 + 0.2 + 0.05 + 0.2) / 4)
    assert stats["rewards/rejected"] == pytest.approx((-0.3 + 0.05 - 0.1 - 0.1) / 4)
    assert stats["rewards/margins"] == pytest.approx((0.5 + 0.15 + 0.15 + 0.3) / 4)
    assert stats["rewards/margins/text"] == pytest.approx(0.5)
    assert stats["rewards/margins/image"] == pytest.approx(0.2)
    assert stats["rewards/accuracies"] == 1.0


def test_log_ratios_are_summed_over_the_tokens_of_each_response_in_any_order(flat_batch, world):
    # Response 0 has tokens 0, 2, 4 and Δ = 1 + 2 + 3; response 1 has tokens 1, 3 and Δ = -1 + 2: margin 5.
    batch = flat_batch([3, 2], [(0, 1)], order=[0, 3, 1, 4, 2], ref_logprobs=[-9.0] * 5)
    terms, stats = terms_of(DPO(), batch, [-8.0, -10.0, -7.0, -7.0, -6.0], world)
    assert terms["dpo"].values.tolist() == pytest.approx([0.474077], abs=1e-6)
    assert stats["logps/chosen"] == -21.0 and stats["logps/rejected"] == -17.0
    assert stats["length/chosen"] == 3.0 and stats["length/rejected"] == 2.0


def test_pairs_are_read_from_the_batch_and_not_from_the_order_of_responses(flat_batch, world):
    # Three responses with Δ = -3, 2, 0; the edge says that 1 beats 0 and 2 beats 0.
    batch = flat_batch([1, 1, 1], [(1, 0), (2, 0)], pair_weight=[1.0, 0.5], ref_logprobs=[0.0] * 3)
    terms, stats = terms_of(DPO(), batch, [-3.0, 2.0, 0.0], world)
    assert terms["dpo"].values.tolist() == pytest.approx([0.474077, 0.5 * 0.554355], abs=1e-6)
    assert stats["rewards/accuracies"] == 1.0


def test_gradient_of_one_pair_is_beta_sigmoid(flat_batch, world):
    # dL/d logp = -β σ(-β m) for every token of the winner, the opposite for the loser; m = 5.
    logprobs = torch.tensor([1.0, 1.0, -3.0], requires_grad=True)
    batch = flat_batch([2, 1], [(0, 1)], ref_logprobs=[0.0] * 3)
    terms, _ = terms_of(DPO(beta=0.1), batch, logprobs, world)
    terms["dpo"].values.sum().backward()
    assert logprobs.grad.tolist() == pytest.approx([-0.0377540669, -0.0377540669, 0.0377540669], abs=1e-8)


def test_token_weights_multiply_log_ratios(flat_batch, world):
    # 0.5 * 4 + 0 * 100 - 2 * (-1.5) = 5
    batch = flat_batch([2, 1], [(0, 1)], ref_logprobs=[0.0] * 3, weights=[0.5, 0.0, 2.0])
    terms, _ = terms_of(DPO(), batch, [4.0, 100.0, -1.5], world)
    assert terms["dpo"].values.tolist() == pytest.approx([0.474077], abs=1e-6)


def test_ipo_takes_the_mean_log_ratio_per_token(flat_batch, world):
    # Means 6 / 3 = 2 and -2 / 2 = -1: (3 - 5)^2.
    batch = flat_batch([3, 2], [(0, 1)], ref_logprobs=[0.0] * 5)
    terms, stats = terms_of(DPO(link="ipo"), batch, [1.0, 2.0, 3.0, -2.0, 0.0], world)
    assert terms["dpo"].values.tolist() == pytest.approx([4.0], abs=1e-6)
    assert stats["rewards/margins"] == pytest.approx(0.8)  # rewards stay sums: 0.1 * (6 + 2)


def test_sft_term_covers_each_chosen_token_once(flat_batch, world):
    # Response 0 wins twice; response 1, in the middle, wins and loses; response 2 never wins.
    batch = flat_batch([2, 1, 1], [(0, 1), (0, 2), (1, 2)], ref_logprobs=[0.0] * 4)
    terms, _ = terms_of(DPO(sft_weight=0.3), batch, [-1.0, -2.0, -4.0, -8.0], world)
    assert terms["sft"].values.tolist() == [1.0, 2.0]
    assert terms["sft"].unit == "chosen_token" and terms["sft"].coefficient == 0.3
    assert batch.count("chosen_token") == 2


def test_reward_accuracy_counts_a_tie_as_wrong(flat_batch, world):
    batch = flat_batch([1, 1, 1], [(0, 1), (0, 2)], ref_logprobs=[0.0] * 3)
    _, stats = terms_of(DPO(), batch, [-1.0, -1.0, -2.0], world)
    assert stats["rewards/accuracies"] == 0.5


def test_a_batch_without_any_edge_gives_no_value_and_a_zero_gradient(flat_batch, world):
    logprobs = torch.tensor([-1.0, -2.0], requires_grad=True)
    batch = flat_batch([1, 1], ref_logprobs=[0.0] * 2)
    terms, stats = DPO(sft_weight=1.0).loss(batch, Scores(logprobs=logprobs), world)
    sum(term.values.sum() for term in terms).backward()
    assert all(term.values.shape == (0,) for term in terms)
    assert logprobs.grad.tolist() == [0.0, 0.0]
    assert all(stat.count == 0 and stat.sum.item() == 0.0 for stat in stats.values())


def test_statistics_carry_no_gradient(flat_batch, world):
    batch = flat_batch([1, 1], [(0, 1)], ref_logprobs=[0.0] * 2)
    _, stats = DPO().loss(batch, Scores(logprobs=torch.zeros(2, requires_grad=True)), world)
    assert not any(stat.sum.requires_grad for stat in stats.values())


def test_every_batch_reports_the_same_names(flat_batch, world):
    zeros = [0.0] * 2
    _, with_edges = DPO().loss(flat_batch([1, 1], [(0, 1)], ref_logprobs=zeros), Scores(logprobs=torch.zeros(2)), world)
    _, without = DPO().loss(flat_batch([1, 1], ref_logprobs=zeros), Scores(logprobs=torch.zeros(2)), world)
    assert list(with_edges) == list(without)


def test_policy_equal_to_reference_loses_log_two(flat_batch, world):
    batch = flat_batch([2, 3], [(0, 1)], ref_logprobs=[-1.0] * 5)
    terms, _ = terms_of(DPO(beta=0.7), batch, [-1.0] * 5, world)
    assert terms["dpo"].values.item() == pytest.approx(math.log(2))


def test_a_sum_of_links_with_its_weights(flat_batch, world):
    # Δ = 3 and -2 at beta 0.1: sigmoid 0.4740769842, bco_pair 1.1524941138 (test_links), the MPO of InternVL.
    batch = flat_batch([1, 1], [(0, 1)], pair_weight=[0.5], ref_logprobs=[0.0] * 2)
    algorithm = DPO(link={"sigmoid": 0.8, "bco_pair": 0.2}, sft_weight=1.0)
    terms, _ = terms_of(algorithm, batch, [3.0, -2.0], world)
    assert list(terms) == ["dpo/sigmoid", "dpo/bco_pair", "sft"]
    assert terms["dpo/sigmoid"].values.item() == pytest.approx(0.5 * 0.4740769842)
    assert terms["dpo/bco_pair"].values.item() == pytest.approx(0.5 * 1.1524941138)
    assert [term.coefficient for term in terms.values()] == [0.8, 0.2, 1.0]


def test_a_sum_may_mix_links_of_sums_and_of_means(flat_batch, world):
    batch = flat_batch([3, 2], [(0, 1)], ref_logprobs=[0.0] * 5)
    terms, _ = terms_of(DPO(link={"ipo": 1.0, "hinge": 2.0}), batch, [1.0, 2.0, 3.0, -2.0, 0.0], world)
    assert terms["dpo/ipo"].values.item() == pytest.approx(4.0)  # (6/3 + 2/2 - 5)^2
    assert terms["dpo/hinge"].values.item() == pytest.approx(1 - 0.8)


def test_tokens_past_the_shorter_answer_count_ld_alpha_times(flat_batch, world):
    # Response 0 (2 tokens) beats 1 (4 tokens): 1's last two count half: 3 - (1 + 1 + 0.5 (-4 + 2)) = 2.
    # Response 2 (1 token) beats 0: 0's second counts half: 7 - (1 + 0.5 x 2) = 5.
    batch = flat_batch([2, 4, 1], [(0, 1), (2, 0)], ref_logprobs=[0.0] * 7, order=[6, 0, 2, 3, 1, 4, 5])
    logprobs = torch.tensor([7.0, 1.0, 1.0, 1.0, 2.0, -4.0, 2.0], requires_grad=True)
    terms, _ = terms_of(DPO(ld_alpha=0.5), batch, logprobs, world)
    terms["dpo"].values.sum().backward()
    assert terms["dpo"].values.tolist() == pytest.approx([math.log1p(math.exp(-0.2)), 0.4740769842], abs=1e-6)
    slope, other = -0.0450166, -0.0377541  # -0.1 σ(-0.2) and -0.1 σ(-0.5)
    expected = [other, slope - other, -slope, -slope, slope - other / 2, -slope / 2, -slope / 2]
    assert logprobs.grad.tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("options", "margin", "slope"),
    [
        # Δ = 1 and -1. forward KL: (1 - 1/e) - (1 - e); slope of the winner's score e^-1
        ({"divergence": "forward_kl"}, math.e - 1 / math.e, 1 / math.e),
        # log σ(1) - log σ(-1) = 1; σ(-1)
        ({"divergence": "js_divergence"}, 1.0, 0.2689414214),
        # α = 0.5: (e^-0.5 - 1) / -0.5 - (e^0.5 - 1) / -0.5; e^-0.5
        (
            {"divergence": "alpha_divergence", "divergence_alpha": 0.5},
            2 * (math.exp(0.5) - math.exp(-0.5)),
            math.exp(-0.5),
        ),
    ],
)
def test_divergences_bend_log_ratios(flat_batch, world, options, margin, slope):
    batch = flat_batch([1, 1], [(0, 1)], ref_logprobs=[0.0] * 2)
    logprobs = torch.tensor([1.0, -1.0], requires_grad=True)
    terms, _ = terms_of(DPO(beta=0.5, **options), batch, logprobs, world)
    terms["dpo"].values.sum().backward()
    assert terms["dpo"].values.item() == pytest.approx(math.log1p(math.exp(-0.5 * margin)), rel=1e-6)
    outer = -0.5 / (1 + math.exp(0.5 * margin))
    assert logprobs.grad[0].item() == pytest.approx(outer * slope, rel=1e-5)


# The published example: Δ = 2, 0.5, -1, -3 for (true picture, no picture, other picture, rejected answer).
OVIP = {
    "pairs": [(0, 3), (0, 1), (1, 2)],
    "pair_kind": ["text", "image", "image"],
    "ref_logprobs": [0.0] * 4,
}


def test_anchor_holds_the_answer_that_wins_and_never_loses(flat_batch, world):
    terms, _ = terms_of(DPO(anchor_weight=0.5), flat_batch([1] * 4, **OVIP), [2.0, 0.5, -1.0, -3.0], world)
    assert terms["anchor"].values.tolist() == pytest.approx([0.598139], abs=1e-6)  # -log σ(0.2), published
    assert (terms["anchor"].unit, terms["anchor"].coefficient) == ("pair", 0.5)
    terms, _ = terms_of(
        DPO(anchor_weight=1.0, anchor_margin=0.2), flat_batch([1] * 4, **OVIP), [2.0, 0.5, -1.0, -3.0], world
    )
    assert terms["anchor"].values.tolist() == pytest.approx([math.log(2)])


def test_negative_anchor_pushes_the_rejected_answer_down_and_is_bounded_below(flat_batch, world):
    logprobs = torch.tensor([2.0, 0.5, -1.0, -3.0], requires_grad=True)
    terms, _ = terms_of(DPO(negative_anchor_weight=1.0), flat_batch([1] * 4, **OVIP), logprobs, world)
    terms["negative_anchor"].values.sum().backward()
    assert terms["negative_anchor"].values.tolist() == pytest.approx([math.log1p(math.exp(-0.3))])
    # d/dΔ -log σ(-0.1 Δ) = 0.1 σ(0.1 Δ) = 0.1 σ(-0.3): descent lowers the answer
    assert logprobs.grad.tolist() == pytest.approx([0.0, 0.0, 0.0, 0.0425557483], abs=1e-8)
    low, _ = terms_of(DPO(negative_anchor_weight=1.0), flat_batch([1] * 4, **OVIP), [2.0, 0.5, -1.0, -1e4], world)
    assert low["negative_anchor"].values.item() == 0.0


def test_comparisons_of_a_group_are_summed_where_asked_for(flat_batch, step):
    # One group of three comparisons: the published sum 1.715991, plus the anchor 0.598139; or a third of both.
    batch, logprobs = flat_batch([1] * 4, **OVIP), [2.0, 0.5, -1.0, -3.0]
    summed, (slopes,) = step(DPO(anchor_weight=1.0, per="group"), [batch], [logprobs])
    averaged, (thirds,) = step(DPO(anchor_weight=1.0), [batch], [logprobs])
    assert summed == pytest.approx(1.715991 + 0.598139, abs=2e-6)
    assert averaged == pytest.approx(summed / 3) and (3 * thirds).tolist() == pytest.approx(slopes.tolist())


def test_comparisons_of_unlikely_answers_count_less(flat_batch, world):
    # log π - log Σ p²: -1 and -3 for the tokens of the first answer, mean -2; 0 for the second: weight e^-2.
    batch = flat_batch([2, 1], [(0, 1)], pair_weight=[0.5], ref_logprobs=[-3.0, -5.5, -1.0])
    logprobs = torch.tensor([-2.0, -4.0, -1.5], requires_grad=True)  # Δ = 2.5 and -0.5
    scores = Scores(logprobs=logprobs, collision=torch.tensor([-1.0, -1.0, -1.5]))
    algorithm = DPO(beta=0.1, link="hinge", weighting="wpo")
    terms, _ = algorithm.loss(batch, scores, world)
    terms[0].values.sum().backward()
    assert terms[0].values.item() == pytest.approx(0.5 * math.exp(-2) * 0.7)
    assert logprobs.grad.tolist() == pytest.approx([-0.05 * math.exp(-2)] * 2 + [0.05 * math.exp(-2)])
    assert algorithm.heads == {"logprobs", "collision"} and DPO().heads == {"logprobs"}


def test_an_answer_to_another_question_is_no_rejected_answer(flat_batch, world):
    batch = flat_batch([1, 1], [(0, 1)], pair_kind=["mismatched"], ref_logprobs=[0.0] * 2)
    with pytest.raises(RecipeError, match="kto"):
        terms_of(DPO(), batch, [0.0, 0.0], world)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"beta": 0.0}, "beta"),
        ({"beta": math.nan}, "beta"),
        ({"label_smoothing": 0.5}, "label_smoothing"),
        ({"label_smoothing": 0.1, "link": "hinge"}, "hinge"),
        ({"label_smoothing": 0.1, "link": "ipo"}, "ipo"),
        ({"link": "cosine"}, "cosine"),
        ({"sft_weight": -1.0}, "sft_weight"),
        ({"label_smoothing": 0.1, "link": {"bco_pair": 1.0, "hinge": 1.0}}, "bco_pair, hinge"),
        ({"link": {}}, "empty"),
        ({"link": {"sigmoid": 0.0}}, "link.sigmoid"),
        ({"link": "exo_pair"}, "label_smoothing"),
        ({"link": "aot"}, "algorithm.name: aot"),
        ({"link": "sft"}, "sft_weight"),
        ({"ld_alpha": 1.5}, "ld_alpha"),
        ({"discopop_tau": 0.1}, "discopop"),
        ({"divergence": "kl"}, "reverse_kl"),
        ({"divergence": "alpha_divergence"}, "divergence_alpha"),
        ({"divergence_alpha": 0.5}, "divergence_alpha"),
        ({"divergence": "alpha_divergence", "divergence_alpha": 1.0}, "reverse_kl"),
        ({"divergence": "js_divergence", "link": {"sigmoid": 1.0, "apo_zero": 1.0}}, "apo_zero"),
        ({"anchor_margin": 0.1}, "anchor_weight"),
        ({"weighting": "wop"}, "weighting"),
        ({"per": "row"}, "per"),
        ({"anchor_weight": -1.0}, "anchor_weight"),
    ],
)
def test_options_that_cannot_be_honoured_are_refused(options, word):
    with pytest.raises(RecipeError, match=word):
        DPO(**options)


def test_needs_the_reference():
    assert DPO().needs == {"ref_logprobs"} and DPO().heads == {"logprobs"}


def test_length_desensitised_rewards_are_those_that_are_compared(flat_batch, world):
    """Three tokens of +1 against one of +2.5: with a tail of 0.25 the winner has 1 + 2 x 0.25 = 1.5 and loses."""
    batch = flat_batch([3, 1], [(0, 1)], ref_logprobs=[0.0] * 4)
    logprobs = torch.tensor([1.0, 1.0, 1.0, 2.5])
    (term,), stats = DPO(beta=0.1, ld_alpha=0.25).loss(batch, Scores(logprobs=logprobs), world)
    assert stats["rewards/chosen"].sum.item() == pytest.approx(0.15)
    assert stats["rewards/margins"].sum.item() == pytest.approx(-0.1)
    assert stats["rewards/accuracies"].sum.item() == 0
    assert stats["logps/chosen"].sum.item() == pytest.approx(3.0)  # as the policy says it
    assert term.values.tolist() == pytest.approx([math.log1p(math.exp(0.1))])


def test_a_negative_anchor_needs_a_rejected_answer_in_every_group(flat_batch, world):
    """Comparisons of pictures alone have none: the option would do nothing."""
    pairs = [(0, 1), (2, 3)]
    scores, algorithm = Scores(logprobs=torch.zeros(4)), DPO(negative_anchor_weight=0.5)
    for kinds in (["image", "image"], ["text", "image"]):
        batch = flat_batch([1] * 4, pairs, pair_kind=kinds, ref_logprobs=[0.0] * 4)
        batch = replace(batch, group=torch.tensor([0, 0, 1, 1]), num_groups=2)
        with pytest.raises(RecipeError, match=f"{kinds.count('image')} groups compare pictures alone"):
            algorithm.loss(batch, scores, world)
    batch = flat_batch([1] * 4, pairs, pair_kind=["text", "image"], ref_logprobs=[0.0] * 4)
    assert algorithm.loss(batch, scores, world)[0][1].values.shape == (1,)  # one group: text and image


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("options", [{"anchor_weight": 1.0, "anchor_margin": 0}, {"divergence_alpha": 0}])
def test_numbers_are_finite(value, options):
    options = {name: number or value for name, number in options.items()}
    divergence = "alpha_divergence" if "divergence_alpha" in options else "reverse_kl"
    with pytest.raises(RecipeError, match="finite"):
        DPO(divergence=divergence, **options)

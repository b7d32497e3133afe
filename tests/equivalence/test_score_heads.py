"""rows = packed = tree for the score head: the same scores and the same gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from groups import corner_groups
from torch import Tensor

from sightline.algorithms.reward_model import RewardModel
from sightline.data.render import Renderer
from sightline.models.layout import lay_out
from sightline.models.load import load_policy
from sightline.models.policy import Policy
from sightline.recipes.schema import LoraSpec, ModelSpec, PartsSpec
from sightline.types import Batch
from tiny_models import FAMILIES

PARTS = {
    "full": PartsSpec(language="full", projector="full", vision="full"),
    "lora": PartsSpec(language="lora", projector="full", vision="lora"),
}
REWARD = frozenset({"reward"})


def scores_and_gradients(policy: Policy, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    policy.zero_grad(set_to_none=True)
    scores = policy(batch, REWARD)
    assert scores.logprobs is None and scores.reward.dtype == torch.float32
    terms, _ = RewardModel(center_rewards_coefficient=0.1).loss(batch, scores, None)  # type: ignore[arg-type]
    sum(term.coefficient * term.values.sum() for term in terms).backward()
    return scores.reward.detach(), {n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_layouts_agree(tiny: dict[str, Path], pictures: list[str], family: str, parts: str) -> None:
    torch.manual_seed(0)
    policy = load_policy(ModelSpec(path=str(tiny[family]), parts=PARTS[parts], lora=LoraSpec(rank=4)), heads=REWARD)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:  # zero at the start: an adapter that changes nothing proves nothing
            torch.nn.init.normal_(parameter, std=0.05)
    policy.train()
    renderer = Renderer(policy.processor, policy.family)
    groups = [renderer.render(group) for group in corner_groups(pictures)]

    def batch(layout: str) -> Batch:
        return lay_out(groups, layout, policy.family, policy.config)  # type: ignore[arg-type]

    rows = batch("rows")
    expected, gradients = scores_and_gradients(policy, rows)
    # the row layout's last token of a response is the end of its turn
    assert {int(rows.tokens[place]) for place in rows.last} == {policy.processor.tokenizer.eos_token_id}
    assert "score_head.weight" in gradients and not any("lm_head" in name for name in gradients)
    assert gradients.keys() == {n for n, p in policy.named_parameters() if p.requires_grad}
    for layout in ("packed", "tree"):
        own, own_gradients = scores_and_gradients(policy, batch(layout))
        assert (own - expected).abs().max() < 1e-5, layout
        assert own_gradients.keys() == gradients.keys()
        for name, gradient in gradients.items():
            if not name.endswith("k_proj.bias"):  # softmax does not see it: zero by theory, noise in practice
                difference = float((own_gradients[name] - gradient).norm() / gradient.norm())
                assert difference < 1e-5, (layout, name, difference)


def test_the_score_is_the_head_on_the_models_own_last_hidden_state(tiny: dict[str, Path], pictures: list[str]) -> None:
    """Against transformers' plain forward of one prompt and answer."""
    policy = load_policy(ModelSpec(path=str(tiny["llava"])), trainable=False, heads=REWARD).eval()
    group = Renderer(policy.processor, policy.family).render(corner_groups(pictures)[0])
    ours = policy(lay_out([group], "tree", policy.family, policy.config), REWARD).reward
    for index, response in enumerate(group.responses):
        ids = torch.tensor([[*group.prompts[0].tokens, *response.tokens]])
        pixels = group.images[0].tensors["pixel_values"]
        with torch.no_grad():
            plain = policy.base.model(input_ids=ids, pixel_values=pixels, use_cache=False).last_hidden_state[0, -1]
        assert float(ours[index]) == pytest.approx(float(plain @ policy.score_head.weight), abs=1e-5)

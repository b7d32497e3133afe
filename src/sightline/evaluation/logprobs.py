"""Log-probabilities of given answers under a model, kept as named numbers of each answer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import torch

from sightline.data.render import Renderer
from sightline.data.sampler import cost, plan_micro_batches
from sightline.models.decoding import alone
from sightline.models.layout import lay_out
from sightline.models.policy import Policy
from sightline.ops.reductions import segment_count, segment_sum
from sightline.rendered import RenderedGroup
from sightline.rollouts.engine import check_finite
from sightline.types import Group, Head, LayoutName, Prompt

_LOGPROBS: Final[frozenset[Head]] = frozenset({"logprobs"})
NAMES: Final = ("logprob", "blank", "other")
"""In ``Response.rewards``: summed log-probability under the own, a white and another picture."""
TOKENS: Final = "tokens"
"""In ``Response.rewards``: tokens of the answer that are scored, end of turn included."""


class LogprobScorer:
    """Scores the answers of groups; see :data:`NAMES` and :data:`TOKENS` for what is kept."""

    def __init__(
        self,
        policy: Policy,
        renderer: Renderer,
        *,
        looked: Mapping[str, Group] | None = None,
        layout: LayoutName = "tree",
        batch_tokens: int = 8192,
    ) -> None:
        """
        Args:
            policy: the model.
            renderer: of the policy's processor.
            looked: by id, groups that are scored under several pictures (``negatives.relate.under_pictures``).
            layout: changes speed, not numbers.
            batch_tokens: most tokens of one forward pass; one group is always allowed.
        """
        self._policy, self._renderer = policy.requires_grad_(False).eval(), renderer
        self._looked, self._layout, self._budget = looked or {}, layout, batch_tokens

    def scores(self, groups: Sequence[Group]) -> list[Group]:
        """The groups with ``rewards`` on every answer, its own replaced; ``reward`` is None.

        Raises:
            DataError: a picture cannot be read, an answer is empty, or its tokens do not spell its text; names the row.
            DivergenceError: the model gives numbers that are none.
        """
        for group in groups:
            if any(response.tokens is not None for response in group.responses):
                self._renderer.num_tokens(
                    group
                )  # refuses tokens of another tokenizer, which would be scored as they are
        rendered = [self._renderer.render(_untrained(self._looked.get(group.id, group))) for group in groups]
        with alone(self._policy):
            return self._scored(groups, rendered)

    def _scored(self, groups: Sequence[Group], rendered: Sequence[RenderedGroup]) -> list[Group]:
        found: dict[int, Group] = {}
        for micro in plan_micro_batches([cost(group, self._layout) for group in rendered], self._budget):
            sums = self._sums([rendered[index] for index in micro.members])
            found |= {i: _with_scores(groups[i], own) for i, own in zip(micro.members, sums, strict=True)}
        return [found[index] for index in range(len(groups))]

    @torch.no_grad()
    def _sums(self, groups: Sequence[RenderedGroup]) -> list[list[tuple[float, int]]]:
        """(summed log-probability, tokens) of every response of every group. Summed in double: margins are small
        differences of large sums."""
        policy = self._policy
        batch = lay_out(groups, self._layout, policy.family, policy.config).to(policy.device)
        logprobs_N = policy(batch, _LOGPROBS).logprobs
        assert logprobs_N is not None
        sum_R = segment_sum(logprobs_N.double().cpu(), batch.response.cpu(), batch.num_responses)
        check_finite(total for total in sum_R.tolist() if total != -math.inf)  # that is said of what cannot be
        count_R = segment_count(batch.response, batch.num_responses)
        pairs = list(zip(sum_R.tolist(), count_R.tolist(), strict=True))
        owner = batch.group.tolist()
        return [[pair for pair, own in zip(pairs, owner, strict=True) if own == index] for index in range(len(groups))]


def _with_scores(group: Group, scores: Sequence[tuple[float, int]]) -> Group:
    """``scores``: of all answers under the first picture, then of all under the second, ..."""
    size = len(group.responses)
    answers = []
    for place, response in enumerate(group.responses):
        own = scores[place::size]
        named = {name: value for name, (value, _) in zip(NAMES, own, strict=False)}
        answers.append(replace(response, reward=None, rewards={**named, TOKENS: float(own[0][1])}))
    return replace(group, responses=tuple(answers))


def _untrained(group: Group) -> Group:
    """Nothing of the history is scored."""
    return replace(group, prompts=tuple(map(_bare, group.prompts)))


def _bare(prompt: Prompt) -> Prompt:
    messages = ({key: value for key, value in message.items() if key != "weight"} for message in prompt.messages)
    return replace(prompt, messages=tuple(messages))

"""A trained reward model as a reward: for files, and for the answers of a policy in training."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from sightline.data.augment import Reader
from sightline.data.render import Renderer
from sightline.data.sampler import cost, plan_micro_batches
from sightline.errors import CheckpointError, DataError
from sightline.models.layout import lay_out
from sightline.models.limits import Limits
from sightline.models.load import load_policy
from sightline.models.locate import base_of, is_adapter
from sightline.models.policy import Policy
from sightline.models.score_head import LOADED_WITH, WEIGHTS, has_score_head, read_score_settings
from sightline.recipes.schema import ModelSpec
from sightline.rendered import RenderedGroup
from sightline.types import Group, Head, LayoutName, Response

_REWARD: frozenset[Head] = frozenset({"reward"})


class RewardModelScorer:
    """Scores answers with a reward model, which reads what it read in training. Is a ``rewards.base.Reward``.

    Answers are tokenized anew, with the reward model's own tokenizer, and each ends its turn.
    """

    def __init__(self, policy: Policy, *, batch_tokens: int = 8192, missing_facts: str | None = None) -> None:
        """
        Args:
            policy: a policy with a score head.
            batch_tokens: most tokens of one forward pass; one group is always allowed.
            missing_facts: ``error`` or ``leave_out``; None: as in training.

        Raises:
            CheckpointError: the policy has no score head.
        """
        if policy.score_head is None:
            raise CheckpointError("the policy has no score head. Load it with heads={'reward'} from a reward model")
        settings = policy.score_head.settings
        reads = settings.reads if missing_facts is None else replace(settings.reads, missing_facts=missing_facts)  # type: ignore[arg-type]
        self.policy = policy.requires_grad_(False).eval()
        self._read, self._renderer = (
            Reader(reads),
            Renderer(policy.processor, policy.family, limits=Limits.of(policy.config)),
        )
        self._layout: LayoutName = settings.layout  # type: ignore[assignment]
        self._budget = batch_tokens

    def look(self, group: Group) -> None:
        """Raises:
        DataError: facts that the reward model reads are missing.
        """
        self._read(replace(group, responses=(), edges=()))

    def reward(self, group: Group) -> Group:
        """The group with ``reward`` on every response that can be judged, and the same as ``rewards["model"]``.

        Raises:
            DataError: facts that the reward model reads are missing, or a picture cannot be read.
        """
        return self.rewards([group])[0]

    def rewards(self, groups: Sequence[Group]) -> list[Group]:
        """``reward`` of each group, in as few forward passes as ``batch_tokens`` allows.

        A response with finish reason ``error`` or with a control token in its text (a picture placeholder, an end)
        cannot be judged and keeps None; an empty one can.
        """
        judged = [self._judged(group) for group in groups]
        rendered = {index: self._rendered(group, judged[index]) for index, group in enumerate(groups) if judged[index]}
        order = list(rendered)
        found: dict[int, list[float]] = {}
        for micro in plan_micro_batches([cost(rendered[index], self._layout) for index in order], self._budget):
            members = [order[place] for place in micro.members]
            scores = self._score([rendered[index] for index in members])
            found |= dict(zip(members, scores, strict=True))
        return [
            _with_rewards(group, dict(zip(judged[index], found.get(index, ()), strict=True)))
            for index, group in enumerate(groups)
        ]

    def _judged(self, group: Group) -> list[int]:
        """Responses that can be judged."""
        template = self._renderer.encoder.template
        return [
            index
            for index, response in enumerate(group.responses)
            if response.finish_reason != "error" and template.control_in(response.text) is None
        ]

    def _rendered(self, group: Group, judged: Sequence[int]) -> RenderedGroup:
        end = (self._renderer.tokenizer.eos_token_id,)
        try:
            read = self._read(replace(group, responses=tuple(group.responses[index] for index in judged), edges=()))
            answers = tuple(r if r.text.strip() else replace(r, tokens=end) for r in read.responses)
            return self._renderer.render(replace(read, responses=answers))
        except DataError as error:
            where = error.source or group.source or group.id
            raise DataError(error.found, source=where, remedy=error.remedy) from error

    @torch.no_grad()
    def _score(self, groups: Sequence[RenderedGroup]) -> list[list[float]]:
        policy = self.policy
        batch = lay_out(groups, self._layout, policy.family, policy.config).to(policy.device)
        with torch.autocast(policy.device.type, enabled=False):  # of the policy in training: scores are as in a file
            score_R = policy(batch, _REWARD).reward
        assert score_R is not None
        return [score_R[batch.group == index].tolist() for index in range(len(groups))]


def load_reward_model(
    path: str | Path, *, batch_tokens: int = 8192, missing_facts: str | None = None, quantization: str | None = None
) -> RewardModelScorer:
    """The reward model of a run, on the GPU where there is one.

    Args:
        path: run directory of a training with ``reward_model``, or its ``model`` folder.
        batch_tokens: most tokens of one forward pass.
        missing_facts: ``error`` or ``leave_out``; None: as in training.
        quantization: as of ``reward_model_spec``.

    Raises:
        CheckpointError: no reward model there.
        RecipeError: its base model is not where the adapter says.
    """
    policy = load_policy(reward_model_spec(path, quantization), trainable=False, heads=_REWARD)
    policy.to("cuda" if torch.cuda.is_available() else "cpu")
    return RewardModelScorer(policy, batch_tokens=batch_tokens, missing_facts=missing_facts)


def reward_model_spec(path: str | Path, quantization: str | None = None) -> ModelSpec:
    """How to load the reward model of a run.

    Args:
        path: as of ``load_reward_model``.
        quantization: ``none``, ``nf4`` or ``int8``; None: as in training.

    Raises:
        CheckpointError: no reward model there.
        RecipeError: an adapter that does not name its base model.
    """
    folder = model_folder(path)
    settings = read_score_settings(folder)
    options = {name: vars(settings)[name] for name in LOADED_WITH}
    if quantization is not None:
        options["quantization"] = quantization
    if not is_adapter(folder):
        return ModelSpec(path=str(folder), **options)
    return ModelSpec(path=base_of(folder), adapter=str(folder), **options)


def model_folder(path: str | Path) -> Path:
    """The folder with the reward model: ``path``, or ``path/model``.

    Raises:
        CheckpointError: no reward model in either.
    """
    for folder in (Path(path), Path(path) / "model"):
        if has_score_head(folder):
            return folder
    raise CheckpointError(
        f"{path} holds no reward model: expected {WEIGHTS} there or in its folder model. "
        "Give the output_dir of a finished run with algorithm.name: reward_model"
    )


def fingerprint(path: str | Path) -> str:
    """SHA-256 of the score head: another training, another fingerprint."""
    return hashlib.sha256((model_folder(path) / WEIGHTS).read_bytes()).hexdigest()


def _with_rewards(group: Group, scores: Mapping[int, float]) -> Group:
    def scored(index: int, response: Response) -> Response:
        if index not in scores:
            return replace(response, reward=None, rewards={})
        return replace(response, reward=scores[index], rewards={"model": scores[index]})

    return replace(group, responses=tuple(scored(index, response) for index, response in enumerate(group.responses)))

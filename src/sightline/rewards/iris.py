"""What a policy itself says of its answers: how much likelier than to a reference, with the picture and without."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from sightline.data.render import Renderer
from sightline.data.sampler import cost, plan_micro_batches
from sightline.errors import DataError, RecipeError
from sightline.evaluation.weights import fingerprint_files
from sightline.models.decoding import alone
from sightline.models.layout import lay_out
from sightline.models.limits import Limits
from sightline.models.load import load_policy
from sightline.models.locate import located, processor_folder
from sightline.models.policy import Policy
from sightline.ops.reductions import segment_sum
from sightline.recipes.schema import ModelSpec
from sightline.recipes.terms import IrisSpec
from sightline.rendered import RenderedGroup
from sightline.rewards.terms import Failure, Value, replace_source
from sightline.types import Group, Head, LayoutName, Prompt, Response

Precision = Callable[[], contextlib.AbstractContextManager[object]]
_LOGPROBS: frozenset[Head] = frozenset({"logprobs"})


@dataclass(frozen=True, kw_only=True)
class Iris:
    """The term ``iris``: ``[log π/π_ref](y | picture) - without * [log π/π_ref](y | no picture)``, summed over the
    tokens of the answer, in nats (arXiv 2602.01769). The answers under both prompts are one group: where the layout is
    a tree, each prompt is computed once. Is a ``rewards.terms.Term``."""

    spec: IrisSpec
    policy: Policy
    reference: Policy
    renderer: Renderer
    """Of the policy: both score the same tokens and pixels."""
    precision: Precision | None = None
    """Around what both compute, where the policy is the one in training; None: exactly."""
    remote: bool = False

    def check(self, groups: Sequence[Group]) -> None:
        for group in groups:
            for prompt in group.prompts:
                if not prompt.images:
                    raise DataError(
                        f"prompt {prompt.id!r} has no picture, and iris compares answers with and without it",
                        source=group.source,
                        remedy="Leave the prompt out, or say under 'where' of the term which prompts are judged",
                    )

    def values(self, groups: Sequence[Group]) -> list[list[Value]]:
        self.check(groups)
        judged = [[i for i, r in enumerate(g.responses) if r.finish_reason != "error"] for g in groups]
        rendered = {n: self._rendered(group, judged[n]) for n, group in enumerate(groups) if judged[n]}
        order, found = list(rendered), dict[int, list[float]]()
        layout: LayoutName = self.spec.layout
        for micro in plan_micro_batches([cost(rendered[n], layout) for n in order], self.spec.batch_tokens):
            members = [order[place] for place in micro.members]
            found |= dict(zip(members, self._scores([rendered[n] for n in members]), strict=True))
        told: list[list[Value]] = []
        for n, group in enumerate(groups):
            values: list[Value] = [Failure(reason="there is no answer")] * len(group.responses)
            for index, value in zip(judged[n], found.get(n, ()), strict=True):
                values[index] = value
            told.append(values)
        return told

    def give_up(self) -> None:
        """It never waits."""

    def _rendered(self, group: Group, judged: Sequence[int]) -> RenderedGroup:
        answers = [_bare(group.responses[index]) for index in judged]
        beside = [replace(answer, prompt=answer.prompt + len(group.prompts)) for answer in answers]
        prompts = (*group.prompts, *map(without_picture, group.prompts))
        both = replace(group, prompts=prompts, responses=(*answers, *beside), edges=())
        try:
            self.renderer.num_tokens(both)  # refuses tokens of another tokenizer, which would be scored as they are
            return self.renderer.render(both)
        except DataError as error:
            raise replace_source(error, error.source or group.source or group.id) from error

    def _scores(self, groups: Sequence[RenderedGroup]) -> list[list[float]]:
        """Of every answer of every group."""
        policy = self.policy
        batch = lay_out(groups, self.spec.layout, policy.family, policy.config).to(policy.device)
        owner, found = batch.group.cpu(), []
        ratio_R = torch.zeros(batch.num_responses, dtype=torch.float64)
        for model, sign in ((policy, 1.0), (self.reference, -1.0)):
            with asked(model), self._precision():
                logprobs_N = model(batch.to(model.device), _LOGPROBS).logprobs
            assert logprobs_N is not None
            # summed in double: scores are small differences of large sums
            ratio_R += sign * segment_sum(logprobs_N.double().cpu(), batch.response.cpu(), batch.num_responses)
        for index in range(len(groups)):
            with_R, without_R = ratio_R[owner == index].chunk(2)
            found.append((with_R - self.spec.without * without_R).tolist())
        return found

    def _precision(self) -> contextlib.AbstractContextManager[object]:
        exact = partial(torch.autocast, self.policy.device.type, enabled=False)
        return (self.precision or exact)()


def iris(spec: IrisSpec) -> Iris:
    """The term of a fixed policy.

    Raises:
        RecipeError: no policy is named, or a model is not where ``spec`` says.
    """
    if spec.path is None:
        raise RecipeError(
            "found iris without path, which stands for the policy in training, and here is none. Set path to the "
            "model, adapter or run whose account is asked."
        )
    policy = loaded(spec.path)
    return Iris(spec=spec, policy=policy, reference=loaded(spec.reference), renderer=_renderer(policy))


def iris_in_training(spec: IrisSpec, policy: Policy, precision: Precision) -> Iris:
    """The term of the policy in training, as it is whenever it is asked, in the precision that it is trained in."""
    reference = loaded(spec.reference)
    return Iris(spec=spec, policy=policy, reference=reference, renderer=_renderer(policy), precision=precision)


def fingerprints(spec: IrisSpec) -> list[str]:
    """Of the files of policy and reference: another training into the same folder gives other scores."""
    named = [located(ModelSpec(path=path)) for path in (spec.path, spec.reference) if path is not None]
    return [fingerprint_files(path) for one in named for path in (one.path, one.adapter) if path is not None]


def loaded(path: str) -> Policy:
    """A frozen model on the GPU where there is one: a model folder or name, an adapter or a run directory."""
    spec = located(ModelSpec(path=path))
    policy = load_policy(spec, trainable=False, processor_of=processor_folder(spec))
    return policy.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def without_picture(prompt: Prompt) -> Prompt:
    """The question alone."""
    messages = tuple(
        message
        if isinstance(message["content"], str)
        else {**message, "content": [part for part in message["content"] if part["type"] != "image"]}
        for message in prompt.messages
    )
    return replace(prompt, id=f"{prompt.id}/none", messages=messages, images=())


@contextlib.contextmanager
def asked(policy: Policy) -> Iterator[None]:
    """Without gradient and dropout; the policy's mode is restored. Other threads wait."""
    with alone(policy):
        mode = policy.training
        policy.train(False)
        try:
            with torch.no_grad():
                yield
        finally:
            policy.train(mode)


def _bare(response: Response) -> Response:
    """Text and tokens alone."""
    return Response(text=response.text, prompt=response.prompt, tokens=response.tokens)


def _renderer(policy: Policy) -> Renderer:
    return Renderer(policy.processor, policy.family, limits=Limits.of(policy.config))

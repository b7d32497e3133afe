"""One optimisation step of a LoRA on the decoder: Sightline's layouts and TRL's trainers on the same tokens.

A contender is a name and switches: ``tree``, ``rows`` or ``trl``, then ``+compile``, ``+checkpointing``,
``+expandable`` (memory in segments that grow, so that new lengths find room in old ones) and, for ``tree``, a form of
attention (``+merge``). Pairs take a DPO step with the adapter switched off as reference, groups a policy gradient with
given advantages. Tokens, their layout and their way to the device are made between the steps, for all alike.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from benchmarks.arithmetic import Architecture, forward_flops
from benchmarks.contenders import BETA, RATE
from benchmarks.gpu_jobs import Job, Record
from benchmarks.gpu_models import CONFIGS, DTYPE, LORA, Draws, architecture_of, build, policy_of
from benchmarks.gpu_stages.rounds import Rounds
from benchmarks.gpu_time import Clock
from sightline.algorithms.registry import build_algorithm
from sightline.models.attention_plan import FORMS
from sightline.models.compiled import graphs
from sightline.models.layout import lay_out
from sightline.models.policy import Attention, Policy
from sightline.rendered import RenderedGroup
from sightline.types import Batch, LayoutName


@dataclass(frozen=True, kw_only=True)
class Contender:
    """Who steps, and how."""

    layout: str
    """A layout, or ``trl``."""
    compile: bool
    checkpointing: bool
    form: Attention
    """Of attention."""

    @staticmethod
    def of(name: str) -> Contender:
        layout, *switches = name.split("+")
        form: list[Attention] = [one for one in FORMS if one in switches]
        return Contender(
            layout=layout,
            compile="compile" in switches,
            checkpointing="checkpointing" in switches,
            form=form[0] if form else "auto",
        )

    def policy(self, model: Any) -> Policy:
        policy = policy_of(model, LORA, checkpointing=self.checkpointing)
        policy.attention = self.form
        policy.leave_casts_to_autocast()
        if self.compile:
            policy.compile_layers()
        return policy


def measure(job: Job, record: Record) -> None:
    contender, clock = Contender.of(job.contender), Clock(device=job.device)
    rounds = Rounds(clock, record, job.seconds, warm=1 + contender.compile, most=1 if job.tiny else 12)
    config = CONFIGS[job.model](job.tiny)
    draws = Draws.of(config, job)
    if contender.layout == "trl":
        if find_spec("trl") is None:
            record.put(state="left out: trl is not installed (extra: bench)")
            return
        from benchmarks.gpu_stages.trl import run_trainer

        model = build(config, job.device, DTYPE, attention="sdpa")
        architecture = architecture_of(model)
        run_trainer(model, draws, contender.checkpointing, job, record, rounds)
    else:
        model = build(config, job.device, DTYPE)
        architecture = architecture_of(model)
        run_policy(contender.policy(model), draws, contender.layout, job, record, rounds)
        if contender.compile:
            record.put(graphs=graphs())
    record.put(**work_of(architecture, draws, contender.layout, job.task, rounds, record))


# --- Sightline's step ---


def run_policy(
    policy: Policy, draws: Draws, layout: LayoutName | str, job: Job, record: Record, rounds: Rounds
) -> None:
    step = Stepper(policy, job.task)
    groups: list[RenderedGroup] = []
    batch: Batch | None = None
    drawn = -1
    while not rounds.done:
        if rounds.draw != drawn:
            drawn, groups, batch = rounds.draw, draws.step(rounds.draw), None
            batch = lay_out(groups, layout, policy.family, policy.config).to(policy.device)  # type: ignore[arg-type]
        assert batch is not None
        rounds.begin()
        loss = step(batch)
        rounds.end()
        if "loss" not in record.figures:
            record.put(loss=float(loss))


class Stepper:
    """Forward, backward and optimizer of a policy with an adapter, under autocast to bf16."""

    def __init__(self, policy: Policy, task: str) -> None:
        self.policy = policy
        self.loss: Callable[[Batch], Tensor] = self.pairs if task == "pair" else self.groups
        trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=RATE, fused=True)
        self.algorithm: Any = build_algorithm({"name": "dpo", "beta": BETA})

    def __call__(self, batch: Batch) -> Tensor:
        """The loss, not waited for."""
        with torch.autocast(self.policy.device.type, dtype=DTYPE):
            loss = self.loss(batch)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def pairs(self, batch: Batch) -> Tensor:
        encoded = self.policy.encode(batch)
        reference = self.policy(encoded, reference=True).logprobs
        encoded = encoded.with_columns(ref_logprobs=reference)
        terms, _ = self.algorithm.loss(encoded, self.policy(encoded), None)
        return sum(term.coefficient * term.values.sum() / encoded.count(term.unit) for term in terms)  # type: ignore[return-value]

    def groups(self, batch: Batch) -> Tensor:
        logprobs = self.policy(self.policy.encode(batch)).logprobs
        weights = torch.from_numpy(advantages(batch.num_groups, batch.num_responses)).to(logprobs)[batch.response]
        return -(weights * (logprobs - logprobs.detach()).exp()).mean()


def advantages(groups: int, responses: int) -> Any:
    """[R] for groups of equal size: from -1 to 2 in each, so that they do not cancel."""
    import numpy as np

    return np.tile(np.linspace(-1, 2, responses // groups, dtype=np.float32), groups)


# --- what it took ---


def work_of(
    model: Architecture, draws: Draws, layout: str, task: str, rounds: Rounds, record: Record
) -> dict[str, float]:
    """FLOPs that the layout needs in the steps that were measured, and tokens that go through the decoder (median)."""
    measured = range(rounds.draw - len(record.figures["new"]), rounds.draw)
    needed = [needed_flops(model, draws.step(number), layout, task) for number in measured]
    tokens = [computed_tokens(draws.step(number), layout) for number in measured]
    speed = statistics.median(flops / second for flops, second in zip(needed, record.figures["new"], strict=True))
    return {
        "needed_tflop": statistics.median(needed) / 1e12,
        "tflops": speed / 1e12,
        "tokens": statistics.median(tokens),
    }


def computed_tokens(groups: Sequence[RenderedGroup], layout: str) -> int:
    """Positions of the decoder, without padding."""
    total = 0
    for group in groups:
        prompt = len(group.prompts[0].tokens)
        total += sum(len(response.tokens) for response in group.responses)
        total += prompt if layout == "tree" else prompt * len(group.responses)
    return total


def needed_flops(model: Architecture, groups: Sequence[RenderedGroup], layout: str, task: str) -> float:
    """Of a step that trains adapters on the decoder: what must be computed once, recomputation and padding left out.

    The backward pass costs as much as the forward pass, adapters nothing; a reference costs another forward pass.
    The frozen tower runs forward: once per picture as ``tree``, which shares features with the reference, else once
    per response and pass. Attention inside the tower is left out.
    """
    passes, shared, total = 2 + (task == "pair"), layout == "tree", 0.0
    for group in groups:
        lengths = [len(response.tokens) for response in group.responses]
        total += passes * forward_flops(model, len(group.prompts[0].tokens), lengths, shared=shared)
        towers = 1 if shared else len(lengths) * (1 + (task == "pair"))
        total += towers * 2 * model.vision * group.images[0].num_tokens
    return total

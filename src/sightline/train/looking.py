"""The "does it look?" meter: whether the preference depends on the picture.

A preference run can succeed by every other figure while the model learns which *texts* are preferred. The margin
between two answers, ``log π(y+) - log π(y-)`` or the difference of their rewards, is read under the true picture,
under a white one and under another one, before training and while it runs. What training adds without the picture is
not seen but known by heart (mDPO, arXiv 2406.11839, figure 1).
"""

from __future__ import annotations

import itertools
import json
import logging

import numpy as np
import torch
from torch import Tensor

from sightline.data.sampler import share
from sightline.data.schema import read_groups
from sightline.files import replace_file
from sightline.ops.reductions import segment_sum
from sightline.relations.pairs import first_pair
from sightline.train.passes import plan_passes
from sightline.train.probe import Reading, only, read_margins
from sightline.train.session import Session
from sightline.types import Batch, Group, Head

_log = logging.getLogger(__name__)


def begin(s: Session) -> None:
    """Reads the margins before training, once. Every rank calls, before every step.

    Online runs have no pairs before their first step: theirs are read after it. A resumed run goes on with the
    numbers in ``looking.json``.
    """
    if not s.looking.on or s.looking.start is not None:
        return
    kept = s.runtime.gather_objects(_kept(s) if s.runtime.is_main else {})[0]
    candidates = s.looking.candidates or s.runtime.gather_objects(_sampled(s) if s.runtime.is_main else None)[0]
    if candidates is None:
        return
    s.looking.candidates = only(candidates, kept) if kept else candidates
    probe = s.looking.prepare(s.render)
    s.looking.start = kept or (margins(s, probe) if probe else {})
    if s.runtime.is_main and probe:
        replace_file(s.run.looking, json.dumps(s.looking.start))


def look(s: Session) -> dict[str, float]:
    """The figures of one reading, and a warning where it is the last of ``patience`` blind ones. Every rank calls.

    Empty where there is nothing to read: no comparison of answers about a picture.
    """
    begin(s)
    if not s.looking.probe or s.looking.start is None:
        return {}
    found = margins(s, s.looking.probe)
    probe = [group for group in s.looking.probe if group.id in found and group.id in s.looking.start]
    if not probe:
        return {}
    now, start = (np.array([row[group.id] for group in probe]) for row in (found, s.looking.start))
    reading = read_margins(now - start)
    s.looking.blind = s.looking.blind + 1 if reading.blind else 0
    if s.looking.blind == s.looking.spec.patience and s.runtime.is_main:
        _log.warning(warning(s, reading, len(probe)))
    policy = zip(("margin", "blank", "other"), (now[:, 0], *(now[:, :1] - now[:, 1:]).T), strict=False)
    return reading.figures() | {f"looking/policy/{name}": float(values.mean()) for name, values in policy}


@torch.no_grad()
def margins(s: Session, probe: list[Group]) -> dict[str, list[float]]:
    """Margins of each group's comparisons under the policy as it is, by group id; over all ranks."""
    mine = share(probe, s.runtime.rank, s.runtime.size)
    taken = s.render.taken([s.render(group) for group in mine or probe[:1]], probe)
    head: Head = "logprobs" if "logprobs" in s.algorithm.heads else "reward"
    found: dict[str, list[float]] = {}
    mode = s.policy.training
    s.policy.eval()
    for one in plan_passes(s, taken):
        with s.runtime.autocast():
            batch = s.policy.encode(one.batch.to(s.runtime.device))
            scores = s.policy(batch, frozenset({head}))
        value_R = scores.reward if scores.reward is not None else _summed(batch, scores.logprobs)
        winner_P, loser_P = batch.pairs.unbind(1)
        rows = (value_R[winner_P] - value_R[loser_P]).double().reshape(len(one.groups), -1).tolist()
        found |= {group.group.id: row for group, row in zip(one.groups, rows, strict=True)}
    s.policy.train(mode)
    return {name: row for part in s.runtime.gather_objects(found) for name, row in part.items()}


def warning(s: Session, reading: Reading, pairs: int) -> str:
    """What was found, what was expected, what to do."""
    gap = reading.gaps[reading.judged]
    picture = "another" if reading.judged == "other" else "a white"
    return (
        f"Step {s.step}: the preference does not depend on the picture ({s.looking.blind} readings in a row). Over "
        f"{pairs} pairs training added {reading.margin:.3g} to the margin, and under {picture} picture less by "
        f"{gap.value:.3g} (95 % interval {gap.low:.3g} to {gap.high:.3g}); expected a gap of 10 % of what was added "
        f"({reading.size:.3g} in size) or more. The answers are told apart by their text: add comparisons of pictures "
        "(visual, see docs/algorithms/visual_preferences.md), or look for pairs that differ in length or style. "
        "train.looking.every: 0 turns this meter off."
    )


def _summed(batch: Batch, logprobs_N: Tensor | None) -> Tensor:
    """[R] log-probability of each response, summed in double: gaps are small differences of large sums."""
    assert logprobs_N is not None
    return segment_sum(logprobs_N.double(), batch.response, batch.num_responses)


def _kept(s: Session) -> dict[str, list[float]]:
    """The margins before training of a run that goes on; empty where it starts."""
    if not s.step or not s.run.looking.exists():
        return {}
    kept: dict[str, list[float]] = json.loads(s.run.looking.read_text(encoding="utf-8"))
    return kept


def _sampled(s: Session) -> list[Group] | None:
    """Pairs among the first answers that the policy sampled; None: it has not sampled yet."""
    if not s.run.samples.exists() or not s.run.samples.stat().st_size:
        return None
    pairs = (pair for group in read_groups(s.run.samples) if (pair := first_pair(group)))
    return list(itertools.islice(pairs, s.looking.spec.groups))

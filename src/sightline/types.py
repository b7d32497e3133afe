"""The nouns of Sightline: read this file first.

Shape letters, one legend for the whole package: **T** tokens in a micro-batch, **N** scored
tokens, **S** segments, **R** responses, **P** pairs (edges), **G** groups, **I** distinct images,
**K** image placeholders, **D** hidden size, **V** vocabulary. All logarithms are natural.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor

Message = Mapping[str, Any]
"""One chat message: ``{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": ...}]}``.

An image part is a bare marker; the picture itself is the next entry of ``Prompt.images``.
An assistant message inside a prompt may carry ``"weight": 1``: supervised fine-tuning then
trains it as well (multi-turn records). Without the key it is only read.
"""

FinishReason = Literal["stop", "length", "error"]
EdgeKind = Literal["text", "image", "anchor", "mismatched"]
LayoutName = Literal["rows", "packed", "tree"]
Unit = Literal["token", "chosen_token", "response", "pair", "group"]
Head = Literal["logprobs", "entropy", "collision", "values", "reward"]


# --- data: plain, immutable, picklable, one JSON line per Group on disk -----------------------


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What the model is asked: a chat history with its pictures."""

    id: str
    """Unique within a data set; stable, so that a run can name the row it came from."""
    messages: tuple[Message, ...]
    """Chat messages, ending with a user message; image parts are bare markers."""
    images: tuple[str, ...] = ()
    """Paths of the pictures, one per image part, in reading order."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What is known about the picture (objects, captions, answer): read by rewards and graders, never by the policy.
    Plain JSON."""

    @property
    def question(self) -> str:
        """Text of the last message, without its pictures."""
        content = self.messages[-1]["content"]
        return content if isinstance(content, str) else "\n".join(p["text"] for p in content if p["type"] == "text")


@dataclass(frozen=True, kw_only=True)
class Response:
    """One answer to one prompt of its group."""

    text: str
    """The answer as text, without special tokens."""
    prompt: int = 0
    """Index of the prompt in ``Group.prompts``."""
    tokens: tuple[int, ...] | None = None
    """The exact ids that were sampled, end-of-turn included; None: tokenize ``text`` and end the turn."""
    trained: tuple[bool, ...] | None = None
    """Which of ``tokens`` are scored and trained; None: all. Needs ``tokens``."""
    weights: tuple[float, ...] | None = None
    """Weight of each trained token, or of each of ``tokens``, >= 0; None: 1. Needs ``tokens``."""
    rollout_logprobs: tuple[float, ...] | None = None
    """Log-probability of each token as the sampler reported it, in nats. Needs ``tokens``."""
    reward: float | None = None
    """Total reward; higher is better."""
    rewards: Mapping[str, float] = field(default_factory=dict)
    """The named parts of the reward, before their weights."""
    reward_error: str | None = None
    """Why there is no reward: the part that failed, and how. None: nothing failed."""
    label: bool | None = None
    """Desirable or not, for unpaired methods (KTO)."""
    finish_reason: FinishReason | None = None
    """``stop``: ended its turn; ``length``: cut at the limit; ``error``: no answer."""
    distorted: int | None = None
    """Step of the noise on the picture that it was sampled under (``online.distorted``); None: its prompt's own."""
    policy_version: int | None = None
    """Optimizer step of the policy that wrote it; None: not written by a policy."""
    weight_versions: tuple[int, ...] | None = None
    """Optimizer step of the weights behind each token, where the engine tells. Needs ``tokens``."""
    greedy: bool = False
    """Written without chance, as the measure of the others (ReMax): scored, never trained."""
    columns: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Columns of ``Batch`` (``old_logprobs``, ``advantages``, ...) that were filled when the round of this answer
    began, one number for each trained token. Needs ``tokens``."""


@dataclass(frozen=True, kw_only=True)
class Edge:
    """A comparison: response ``winner`` is preferred over response ``loser``."""

    winner: int
    loser: int
    kind: EdgeKind = "text"
    """``text``: same picture, other answer; ``image``: same answer, other picture; ``mismatched``: no preference,
    the loser is the answer to another question, which measures how far the policy has moved (KTO)."""
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Group:
    """Prompts with their images, the responses that hang off them, and the relations between them.

    SFT has one response, a preference two, a sampled group G. A group is never split across ranks or micro-batches.
    """

    prompts: tuple[Prompt, ...]
    responses: tuple[Response, ...] = ()
    edges: tuple[Edge, ...] = ()
    source: str = ""
    """Where the group came from, for error messages: ``file:row``."""

    @property
    def id(self) -> str:
        """Identity of the group: the id of its first prompt."""
        return self.prompts[0].id

    @property
    def texts(self) -> tuple[str, ...]:
        """The answers as texts."""
        return tuple(response.text for response in self.responses)

    def __repr__(self) -> str:
        from sightline.display import group_line

        return group_line(self)

    def _repr_html_(self) -> str:
        from sightline.display import group_html

        return group_html(self)


# --- batch: flat tensors, without padding, masks or label tensors -----------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """A micro-batch of groups, laid out. ``target``, ``response``, ``group``, ``pairs`` and all
    columns are identical for every layout; only the first block of fields differs."""

    layout: LayoutName
    tokens: Tensor
    """[T] long."""
    positions: Tensor
    """[T] long, or [3,T] for a three-axis rope (time, height, width)."""
    segment: Tensor
    """[T] long, ascending: the segment each token belongs to."""
    parent: Tensor
    """[S] long, always on the host: parent segment, -1 for a root. A token sees its own segment causally and all of its
    ancestors entirely."""
    length: Tensor
    """[S] long, always on the host: tokens of each segment."""
    vision: Mapping[str, Tensor]
    """Processor outputs, each distinct image once, keyed as the model's forward expects. Empty for text only."""
    image_tokens: tuple[int, ...]
    """[I] placeholders (= rows of features) of each distinct image."""
    placeholder: Tensor
    """[K] long: positions in ``tokens`` that take an image feature."""
    feature: Tensor
    """[K] long: the row, of all distinct images' features concatenated, that goes there."""
    source: Tensor
    """[N] long: position whose hidden state predicts scored token n."""

    target: Tensor
    """[N] long: id of scored token n."""
    response: Tensor
    """[N] long: the response that token n belongs to."""
    group: Tensor
    """[R] long: the group of each response."""
    last: Tensor
    """[R] long: position of the last token of each response (where a score head reads)."""
    pairs: Tensor
    """[P,2] long: (winner, loser) as responses of this batch."""
    pair_weight: Tensor
    """[P] float."""
    pair_kind: tuple[str, ...]
    """[P] kind of each edge."""
    num_groups: int

    weights: Tensor | None = None
    """[N] float: per-token weights, where any response brings its own."""
    ref_logprobs: Tensor | None = None
    """[N] float: log-probabilities under the reference."""
    old_logprobs: Tensor | None = None
    """[N] float: under our own policy before the first optimizer step on the group, recomputed."""
    old_entropy: Tensor | None = None
    """[N] float: entropy of the next-token distribution under the same."""
    dependence: Tensor | None = None
    """[N] float: how much the picture changes what the policy says there, as the algorithm measures it."""
    rollout_logprobs: Tensor | None = None
    """[N] float: as the sampler reported them."""
    advantages: Tensor | None = None
    """[N] float."""
    returns: Tensor | None = None
    """[N] float."""
    values: Tensor | None = None
    """[N] float: what the prompt and the answer so far are worth; under ReMax the reward of the greedy answer."""
    rewards: Tensor | None = None
    """[R] float."""
    reward_parts: Tensor | None = None
    """[R,K] float: the named parts of the rewards, by ``reward_names``; no number where a response lacks one."""
    reward_names: tuple[str, ...] = ()
    """[K] names of the parts, sorted."""
    labels: Tensor | None = None
    """[R] float, 1 desirable, 0 not."""
    baseline: Tensor | None = None
    """[P,2] float: what winner and loser of each pair are measured against, from all pairs of the step (KTO: its KL
    estimate; AOT: the values of equal rank)."""
    features: Tensor | None = None
    """[sum(image_tokens), D]: vision features, kept only when everything that makes them is frozen."""
    block: Tensor | None = None
    """[T] long: tokens of equal value >= 0 see each other, whatever their order (pictures of Gemma 3, prefixes of
    PaliGemma); None: there are none. A block lies in one segment."""
    whole: bool = False
    """Whether tokens of a block see all of it under a sliding window as well (PaliGemma), or no farther back than the
    window (Gemma 3)."""
    blocked: tuple[int, ...] = ()
    """Segments that hold a block."""
    on_policy: bool = False
    """Whether the policy has not moved since ``old_logprobs``: they are then the log-probabilities of this very pass,
    and a ratio to them is exactly 1."""
    plans: dict[str, Any] = field(default_factory=dict)
    """How attention is computed, kept from one forward pass over this batch to the next; shared by its copies."""
    on_host: Batch | None = None
    """Of a batch that was moved to a device: the batch before, without pictures."""

    @property
    def num_responses(self) -> int:
        return self.group.shape[0]

    @property
    def structure(self) -> Batch:
        """What belongs to what, as it was laid out. Asked of a device, the host would wait for all it has to do."""
        return self.on_host or self

    def sent(self, found: Tensor) -> Tensor:
        """What was found on the host, on the device of this batch."""
        return sent_to(self.target.device, found)

    def chosen(self) -> Tensor:
        """[R] bool: responses that win an edge and lose none: the best of a ranked list, and of a chain of pictures the
        answer under its own."""
        standing = self.group.new_zeros(self.num_responses)
        standing[self.pairs[:, 0]] = 1
        standing[self.pairs[:, 1]] = 0
        return standing > 0

    def answered(self) -> Tensor:
        """[<= R] long: responses of which a token is scored, ascending."""
        return self.sent(self.structure.response.unique())

    def count(self, unit: Unit) -> int:
        """How many of ``unit`` this batch holds: what the loop sums over ranks and micro-batches."""
        if unit == "chosen_token":
            return int(self.structure.chosen()[self.structure.response].sum()) if len(self.pairs) else 0
        return {
            "token": self.target.shape[0],
            "response": self.num_responses,
            "pair": self.pairs.shape[0],
            "group": self.num_groups,
        }[unit]

    def with_columns(self, **columns: Tensor) -> Batch:
        """The same batch with some columns filled."""
        values: dict[str, Any] = dict(columns)
        return replace(self, **values)

    def to(self, device: Any) -> Batch:
        """The same batch on ``device``; copies to a GPU overlap with what it computes."""
        import torch

        own = {name: value for name, value in vars(self).items() if name not in ("parent", "length")}
        moved: dict[str, Any] = {name: sent_to(device, value) for name, value in own.items() if torch.is_tensor(value)}
        moved["vision"] = {name: sent_to(device, value) for name, value in self.vision.items()}
        stays = self.target.device == torch.device(device)
        host = self.on_host if stays else replace(self.structure, vision={}, plans={})
        return replace(self, **moved, plans={}, on_host=host)


def sent_to(device: Any, value: Tensor) -> Tensor:
    """A tensor on ``device``; the host does not wait for a copy to a GPU."""
    import torch

    overlaps = torch.device(device).type == "cuda" and value.device.type == "cpu"
    return (value.pin_memory() if overlaps else value).to(device, non_blocking=True)


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """What the policy says about a batch; a field is None unless its head was asked for."""

    logprobs: Tensor | None = None
    """[N] float32: log-probability of each scored token."""
    entropy: Tensor | None = None
    """[N] float32, no gradient: entropy of the next-token distribution, in nats."""
    collision: Tensor | None = None
    """[N] float32, no gradient: ``log Σ p²`` of the next-token distribution: how likely two samples agree."""
    values: Tensor | None = None
    """[N] float32: value head."""
    reward: Tensor | None = None
    """[R] float32: score head at ``Batch.last``."""


# --- what an algorithm returns ----------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class Term:
    """Unreduced loss values. The loop divides by the global number of ``unit``; nobody else averages."""

    name: str
    values: Tensor
    """[n]: one value per unit present in this micro-batch (or already weighted sums of them)."""
    unit: Unit
    coefficient: float = 1.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Stat:
    """A sum and a count, so that the logged mean is exact across ranks and micro-batches; or an extreme."""

    sum: Tensor
    """Of an extreme: the extreme."""
    count: float
    """0: nothing was seen, and nothing is logged."""
    kind: Literal["mean", "max", "min"] = "mean"


class World(Protocol):
    """The processes of a run, as far as an algorithm may know them."""

    rank: int
    size: int

    def sum(self, value: Tensor) -> Tensor:
        """Sum over ranks; the same tensor where there is one."""


class Algorithm:
    """Base of all algorithms: a frozen keyword-only dataclass that is its config, its documentation and its callable.
    Holds no logic, no model, optimizer, rank, device or logger."""

    needs: frozenset[str] = frozenset()
    """Columns of Batch that must be filled before ``loss`` (``ref_logprobs``, ...)."""
    heads: frozenset[str] = frozenset({"logprobs"})
    """Heads of the policy that ``loss`` reads."""
    compares: bool = False
    """Whether it learns from comparisons alone: a group without one is refused before training."""
    rounds: bool = False
    """Whether it learns from rounds of its own samples. Columns are then filled once for a whole round, before its
    first optimizer step, and kept for all of its steps; ``old_logprobs`` too, where a round has several steps."""
    answers: int = 1
    """Least answers to a prompt that it can learn from."""
    masked: Literal["no", "round", "step"] = "no"
    """Whether answers stand under a masked picture too: in what is prepared before each ``round`` alone, or in every
    ``step`` alone (``masked.py``)."""
    critic_warmup: int = 0
    """First optimizer steps in which nothing but the value head, and its adapter, is trained."""
    moving: tuple[str, ...] = ()
    """Fields that ``after_round`` may change: they are kept in checkpoints."""

    def for_answers(self, longest: int, weights: Mapping[str, float]) -> Algorithm:
        """The same algorithm for answers of at most so many tokens, whose rewards have named parts of these weights
        (none: the reward has weights of its own)."""
        return self

    def after_round(self, batches: Sequence[Batch], counted: Sequence[bool], world: World) -> Algorithm:
        """The algorithm for the next round, from what ``prepare_step`` gave for this one."""
        return self

    def prepare(self, batch: Batch, world: World) -> Batch:
        """Columns derived from others, once per batch and without gradient (advantages, baselines)."""
        return batch

    def prepare_step(self, batches: Sequence[Batch], counted: Sequence[bool], world: World) -> Sequence[Batch]:
        """Columns that depend on every micro-batch of a step, without gradient.

        Called once per step before its first gradient, for algorithms that need ``old_logprobs``; for those that learn
        from ``rounds``, once per round with the micro-batches of all of it.

        Args:
            batches: all micro-batches of this rank with their columns filled; vision inputs are left out.
            counted: False for a micro-batch that runs for company only: it must not enter any sum.
            world: sums over ranks.
        """
        return batches

    def loss(self, batch: Batch, scores: Scores, world: World) -> tuple[tuple[Term, ...], dict[str, Stat]]:
        """Unreduced terms, and what to log."""
        raise TypeError(f"{type(self).__name__} defines no loss")

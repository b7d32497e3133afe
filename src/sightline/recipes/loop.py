"""The shape of a loop: rounds of sampling, scoring, pairing, training and examination. Imports no torch.

Every field is documented under the field and its default stands only here. What a round does up to its pairs is the
``method``: one dataclass each, chosen by its ``name``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field, PlainValidator, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

from sightline.recipes.csr import CsrSpec
from sightline.recipes.evaluation import BenchSpec
from sightline.recipes.ovip import OvipSpec
from sightline.recipes.refusals import nearest
from sightline.recipes.rewards import carried
from sightline.recipes.rlaif_v import RlaifVSpec
from sightline.recipes.schema import DatasetSpec, DataSpec, ModelSpec, Recipe, TrainSpec
from sightline.recipes.self_rewarding import SelfRewardingSpec

_STRICT = ConfigDict(extra="forbid", str_strip_whitespace=False, allow_inf_nan=False)
_MOST = 2**31 - 1

AnyMethod = CsrSpec | OvipSpec | RlaifVSpec | SelfRewardingSpec
METHODS: Final[Mapping[str, type[AnyMethod]]] = {
    "rlaif_v": RlaifVSpec,
    "self_rewarding": SelfRewardingSpec,
    "csr": CsrSpec,
    "ovip": OvipSpec,
}
"""Name to the dataclass of its options."""


def _method(value: Any) -> AnyMethod:
    """The method that a mapping names."""
    if type(value) in METHODS.values():
        made: AnyMethod = value
        return made
    if not isinstance(value, Mapping):
        raise PydanticCustomError("dict_type", "a mapping")
    name = value.get("name")
    if not isinstance(name, str) or name not in METHODS:
        found = "no name" if name is None else f"no method '{name!s:.80}'"
        told = f"found {found}. {nearest(f'{name!s:.80}', list(METHODS))}".removesuffix(".")
        fault: Any = {
            "type": PydanticCustomError("conflict", "{told}", {"told": told}),
            "loc": ("name",),
            "input": name,
        }
        raise ValidationError.from_exception_data("method", [fault])
    # JSON mode, as recipes are read: no "3" for 3, and lists for tuples
    try:
        checked: AnyMethod = TypeAdapter(METHODS[name]).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        faults = [carried(dict(fault)) for fault in error.errors(include_url=False)]
        raise ValidationError.from_exception_data("method", faults) from None
    return checked


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class MergeSpec:
    """How a round's training becomes the model of the next round."""

    dtype: Literal["float32", "bfloat16"] | None = None
    """Of an adapter: type of the merged weights. None: ``model.dtype``."""
    keep: int = Field(default=2, ge=1, le=_MOST)
    """Rounds whose model stays on the disk, the newest; the best one and the start always do. Answers, pairs and
    figures of all rounds stay."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class ExamSpec:
    """The held-out judge of progress: benchmarks that the start and every round's model answer."""

    benches: tuple[BenchSpec, ...] = Field(min_length=1)
    """Those whose figures are shown. The one of ``best`` says ``selects: true``: its questions are held out to choose
    by, and its figure of the best round is no result to report."""
    best: str
    """Figure that says which round is the best: ``BENCH/METRIC``, such as ``scenes/hal``."""
    better: Literal["auto", "lower", "higher"] = "auto"
    """Good direction of that figure; auto: as its benchmark says."""
    batch_size: int = Field(default=32, ge=1, le=_MOST)
    """Questions generated together. Changes no answer."""
    kl_prompts: int = Field(default=64, ge=0, le=_MOST)
    """Prompts of the round to which each new model answers once more, to estimate its KL divergence to the start. 0:
    it is not estimated."""
    kl_tokens: int = Field(default=128, ge=1, le=_MOST)
    """Most tokens of such an answer."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class StopSpec:
    """When a loop ends before its last round."""

    patience: int | None = Field(default=None, ge=1, le=_MOST)
    """Rounds in a row without a gain after which it ends. None: all rounds are run."""
    least_gain: float = Field(default=0.0, ge=0, le=1e9)
    """By how much ``exam.best`` must be better than ever before to be a gain, in its units."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class LoopRecipe:
    """Rounds in which a model learns from what it said itself.

    Round t samples with model t-1, trains it with itself as reference, and merges the result to model t.
    """

    name: str = Field(min_length=1)
    output_dir: str = Field(min_length=1)
    """Folder of the loop: resolved recipe, state, report, and a folder for each round."""
    rounds: int = Field(default=3, ge=1, le=10_000)
    model: ModelSpec
    """The start, and how each round trains it. A whole model: ``adapter`` is merged into it before."""
    prompts: DataSpec
    """What is asked; answers of the rows are ignored."""
    prompts_per_round: int | None = Field(default=None, ge=1, le=_MOST)
    """So many prompts in each round, others than in the round before: they are gone through in one drawn order, again
    and again. None: all in every round."""
    method: Annotated[AnyMethod, PlainValidator(_method)]
    """How answers are made and compared: ``name`` and the fields of that method."""
    algorithm: dict[str, Any] = Field(default_factory=lambda: {"name": "dpo"})
    """As in a training recipe: what each round learns from its pairs."""
    reference: Literal["auto", "none", "adapter", "copy", "cache"] = "auto"
    """As in a training recipe. The reference of a round is the model that the round starts from."""
    max_length: int = Field(default=4096, ge=8)
    """Longest prompt plus answer that is trained, in tokens with every placeholder counted."""
    train: TrainSpec = TrainSpec()
    """Of each round."""
    merge: MergeSpec = MergeSpec()
    exam: ExamSpec | None = None
    """None: the last round counts as the best."""
    stop: StopSpec = StopSpec()
    seed: int = Field(default=0, ge=0, lt=2**62)


def training_recipe(loop: LoopRecipe, number: int, model: ModelSpec, folder: str) -> Recipe:
    """What a round trains: the loop's algorithm on ``pairs.jsonl`` of the round's folder, in ``train`` beside it.

    Args:
        loop: the loop.
        number: of the round, from 1.
        model: that the round starts from.
        folder: of the round.
    """
    return Recipe(
        name=f"{loop.name}_round_{number}",
        output_dir=f"{folder}/train",
        model=model,
        algorithm=loop.algorithm,
        reference=loop.reference,
        data=DatasetSpec(train=(DataSpec(path=f"{folder}/pairs.jsonl", format="groups"),), max_length=loop.max_length),
        train=loop.train,
        seed=loop.seed + number,
    )

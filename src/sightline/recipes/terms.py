"""The options of every kind of reward. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

from sightline.addresses import check_url

_STRICT = ConfigDict(extra="forbid", str_strip_whitespace=False, allow_inf_nan=False)
_MOST = 2**31 - 1
_LONGEST = 1e6

Value = Annotated[float, Field(ge=-_LONGEST, le=_LONGEST)]
Count = Annotated[int, Field(ge=1, le=_MOST)]
Seconds = Annotated[float, Field(gt=0, le=_LONGEST)]
Text = Annotated[str, Field(min_length=1)]
Url = Annotated[str, Field(pattern="^https?://"), AfterValidator(check_url)]


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class TermSpec:
    """What every term has."""

    weight: Value = 1.0
    """Times the value of the term in the sum. 0: the term is logged and stored, and changes no reward."""
    where: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Prompts that the term judges: key of ``Prompt.facts`` to the values that are taken, compared as texts. Answers to
    other prompts have no such term in their sum. Empty: all prompts."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class AnswerSpec(TermSpec):
    """A short answer against the one that the facts hold."""

    fact: Text = "answer"
    """Key of ``Prompt.facts`` with the right answer."""
    within: Text | None = None
    """Name of a tag: what is judged stands in the last ``<answer>...</answer>``, and an answer without it is unread.
    None: the whole answer."""
    right: Value = 1.0
    wrong: Value = 0.0
    unread: Value = 0.0
    """For an answer that says none of what could be right or wrong."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class MultipleChoiceSpec(AnswerSpec):
    """The letter of an option."""

    kind: Literal["multiple_choice"] = "multiple_choice"
    letters: str = Field(default="ABCD", pattern="^[A-Z]{2,26}$")
    """Of all options."""
    reader: Literal["lmms", "mmstar", "ovip"] = "lmms"
    """How the letter is read: lmms-eval's extractor (the most trusted form, upper case); or MMStar's or OViP's own rule
    (the answer begins with the letter), which never leave an answer unread."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class YesNoSpec(AnswerSpec):
    """Yes or no. The fact is ``yes`` or ``no`` in any case, true or false."""

    kind: Literal["yes_no"] = "yes_no"
    reader: Literal["first_word", "only", "pope"] = "first_word"
    """``first_word``: the answer begins with the word; ``only``: exactly one of the two is among its words
    (VLMEvalKit); ``pope``: no where ``no`` or ``not`` is in the first sentence, otherwise yes."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class ExactSpec(AnswerSpec):
    """The text itself. The fact is a text, or a list of texts."""

    kind: Literal["exact"] = "exact"
    normalize: Literal["vqa", "none"] = "vqa"
    """``vqa``: case, articles, punctuation and number words as the VQA metric treats them; ``none``: only blanks at
    both ends are left out."""
    score: Literal["any", "vqa"] = "any"
    """``any``: right where one of the texts is equal; ``vqa``: VQA accuracy among the texts of ten people, a share of
    the way from ``wrong`` to ``right``."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class NumericSpec(AnswerSpec):
    """A number. The fact is a number, or a text that is one."""

    kind: Literal["numeric"] = "numeric"
    take: Literal["first", "last"] = "last"
    """Which number of the answer."""
    absolute: float = Field(default=0.0, ge=0, le=1e12)
    relative: float = Field(default=0.0, ge=0, le=1)
    """Right: the difference is no more than ``absolute``, or than this share of the true number."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class FormatSpec(TermSpec):
    """1 where the whole answer has the form, otherwise 0."""

    kind: Literal["format"] = "format"
    tags: tuple[Annotated[str, Field(pattern=r"^\w+$")], ...] = ()
    """``[think, answer]``: ``<think>...</think>`` and ``<answer>...</answer>``, each once, in this order, and nothing
    around them."""
    pattern: str | None = None
    """A regular expression (Python) that the whole answer matches; ``.`` takes line ends."""

    def __post_init__(self) -> None:
        if (not self.tags) == (self.pattern is None):
            raise ValueError("expected either tags or pattern. Give one of the two")
        try:
            re.compile(self.pattern or "")
        except re.error as error:
            raise ValueError(f"pattern {self.pattern!r} is no regular expression ({error}). Correct it") from None


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class LengthSpec(TermSpec):
    """Share of the limit that an answer takes, signed for each prompt (LLaVA-RLHF): ``m * length / limit``."""

    kind: Literal["length"] = "length"
    weight: Value = Field()
    """Below 0: long answers lose. LLaVA-RLHF has -10."""
    unit: Literal["tokens", "words", "characters"] = "tokens"
    """Tokens as sampled, end of turn included."""
    limit: Count | None = None
    """Length that counts as 1. None: ``sampling.max_new_tokens``, with tokens alone."""
    fact: Text = "length_bonus"
    """Key of ``Prompt.facts`` with m; 1 for a prompt without it. Below 0 it turns the sign for its prompt."""

    def __post_init__(self) -> None:
        if self.unit != "tokens" and self.limit is None:
            raise ValueError(f"{self.unit} have no limit of their own. Add limit")


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class RepetitionSpec(TermSpec):
    """Minus the share of n-grams of words that stand in the answer before: ``distinct / all - 1``."""

    kind: Literal["repetition"] = "repetition"
    n: int = Field(default=3, ge=1, le=100)
    """Words of an n-gram. An answer with fewer words has 0."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class NoEndSpec(TermSpec):
    """-1 for an answer that did not end its turn, otherwise 0. LLaVA-RLHF has weight 8."""

    kind: Literal["no_end"] = "no_end"
    texts: tuple[Text, ...] = ()
    """An answer with one of these counts as not ended too. LLaVA-RLHF, which cuts answers there, has ``["?"]``."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class OverlongSpec(TermSpec):
    """DAPO's soft penalty (Yu et al. 2025, arXiv 2503.14476, eq. 13): 0 up to ``limit - cache`` tokens, then falling
    evenly to -1 at ``limit``."""

    kind: Literal["overlong"] = "overlong"
    cache: Count
    """Tokens before the limit where the penalty begins."""
    limit: Count | None = None
    """None: ``sampling.max_new_tokens``."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class SymbolicSpec(TermSpec):
    """The symbolic reward of Fact-RLHF, from ``caption_type``: 1 general: 0; 2 to 5, the truth is A to D: 1 for an
    answer that begins with ``B.`` or says ``the correct option is B.``, otherwise 0; 6, the truth is no: 0.5 for an
    answer that begins with No, -0.5 for Yes, otherwise 0; 7, the truth is yes: 0. LLaVA-RLHF has weight 2."""

    kind: Literal["symbolic"] = "symbolic"
    fact: Text = "caption_type"
    """Key of ``Prompt.facts`` with the type, a whole number."""
    both: bool = False
    """True: type 7 is 6 mirrored. As published only No is rewarded, and models learn to say it."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class ObjectsSpec(TermSpec):
    """Objects that a description names, held against those of the picture. Precision: share of mentions that are
    there, 1 without any. Coverage: share of the picture's objects that are named, 1 where it has none."""

    kind: Literal["objects"] = "objects"
    world: Literal["scenes", "coco", "amber"]
    """Which grader: of the built-in world; CHAIR with the 80 categories of COCO; or AMBER."""
    measure: Literal["precision", "coverage", "f1"] = "f1"
    """``f1``: harmonic mean of the other two."""
    data: Text | None = None
    """Folder: ``coco``: ``synonyms.txt``, and the annotations where ``fact`` is None; ``amber``: ``relation.json`` and
    ``safe_words.txt``."""
    fact: Text | None = None
    """Key of ``Prompt.facts`` with the objects: a list of names, or of ``{category: name}``. None: for ``coco`` the
    annotation files of ``data``, by the number in the name of the picture; for ``amber``: ``truth``."""
    captions: Text | None = None
    """Of ``coco`` with ``fact``: key with captions, whose objects are there as well. None: none."""
    protocol: Literal["official", "lmms-eval"] = "lmms-eval"
    """Of ``coco``: how words are read, each with the losses of its script: to ``official`` a bus is none, to
    ``lmms-eval`` men are none."""
    similarity: Text = "none"
    """Of ``amber``: ``none``, ``spacy``, or a table file, as the benchmark has it."""

    def __post_init__(self) -> None:
        if self.world == "scenes":
            for name in ("data", "fact"):
                if vars(self)[name] is not None:
                    raise ValueError(f"scenes are known by their own facts, and {name} is not read. Remove {name}")
        elif self.data is None:
            raise ValueError(f"world {self.world} reads its word lists from a folder. Add data")
        if self.captions is not None and (self.world != "coco" or self.fact is None):
            raise ValueError("captions are read with world coco and a fact alone. Remove captions")
        for name, reader, default in (("protocol", "coco", "lmms-eval"), ("similarity", "amber", "none")):
            if self.world != reader and vars(self)[name] != default:
                raise ValueError(f"{name} is read with world {reader} alone. Remove {name}")


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class ScenesSpec(TermSpec):
    """What the built-in world gives, as ``reward: scenes`` does."""

    kind: Literal["scenes"] = "scenes"


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class ModelTermSpec(TermSpec):
    """The score of a reward model, which reads the facts that it was trained with."""

    kind: Literal["model"] = "model"
    path: Text
    """Run directory of a training with ``reward_model``, or its ``model`` folder."""
    batch_tokens: Count = 8192
    """Most tokens of one forward pass; one group is always allowed."""
    missing_facts: Literal["error", "leave_out"] | None = None
    """None: as in training."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class IrisSpec(TermSpec):
    """How much the picture speaks for an answer by a policy's own account (IRIS, arXiv 2602.01769):
    r(answer | picture) - ``without`` * r(answer | no picture), r = log π - log π_ref, in nats."""

    kind: Literal["iris"] = "iris"
    path: Text | None = None
    """The policy π: a model, an adapter or a run directory. None: the policy in training, as it is in each round."""
    reference: Text
    """π_ref, likewise: with ``path: null`` not what training starts from, whose scores would all be 0."""
    without: float = Field(default=1.0, ge=0, le=_LONGEST)
    """λ of the paper. 0: the implicit reward of DPO."""
    layout: Literal["rows", "packed", "tree"] = "tree"
    """How answers are laid out. Changes speed, not scores."""
    batch_tokens: Count = 8192
    """Most tokens of one forward pass; one group is always allowed."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class ClipSpec(TermSpec):
    """Cosine between answer and picture under CLIP or SigLIP, in [-1, 1]. Of several pictures the nearest counts."""

    kind: Literal["clip"] = "clip"
    path: Text
    """Folder or hub name of a CLIP or SigLIP model with its processor."""
    unit: Literal["sentence", "answer"] = "sentence"
    """``sentence``: mean over sentences; one that is too long for the model is cut between words into the fewest
    pieces that fit, each of which counts. ``answer``: as a whole."""
    long: Literal["fail", "cut"] = "fail"
    """Of ``answer``: one that is too long for the model gets no reward, or is read as far as the model reads."""
    batch_size: Count = 64
    """Pictures or texts of one forward pass. Changes no score."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type that the model is loaded and computed in."""

    def __post_init__(self) -> None:
        if self.long == "cut" and self.unit == "sentence":
            raise ValueError(
                "long: cut is of unit: answer, and sentences are cut into pieces that all count. Remove one"
            )


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class JudgeSpec(TermSpec):
    """The verdict of a language or vision-language model, in [0, 1]."""

    kind: Literal["judge"] = "judge"
    judge: Text
    """``openai:MODEL``, ``http://ADDRESS`` (OpenAI-compatible), ``local:FOLDER`` or ``replay:FILE``."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Of the judge, as of ``--judge-option``: ``model``, ``timeout``, ``tries``, ``workers``, ... A key comes from the
    environment alone."""
    asks: Literal["score", "yes_no"] = "score"
    """``score``: the last number of the reply, from ``lowest`` (0) to ``highest`` (1); ``yes_no``: yes is 1, no 0."""
    lowest: Value = 0.0
    highest: Value = 10.0
    samples: int = Field(default=1, ge=1, le=1000)
    """Replies whose verdicts are averaged. With ``yes_no`` and a temperature: an estimate of the probability of yes."""
    logprobs: bool = False
    """Of ``yes_no``: the probability of yes against no as the first token of the reply, as an endpoint reports it, or
    over all tokens of a local model that spell them."""
    temperature: float = Field(default=0.0, ge=0, le=100)
    """0: the likeliest reply."""
    max_tokens: Count = 512
    """Of a reply."""
    template: Text | None = None
    """A rubric of one's own (``evaluation.md``); it may name ``{{question}}``, ``{{answer}}`` and ``{{facts}}``."""
    facts: tuple[Text, ...] = ()
    """Keys of ``Prompt.facts`` that the judge is told."""
    pictures: bool = True
    """Whether the judge sees the pictures."""
    attempts: Count = 2
    """How often a judge is asked at most for a verdict that its reply does not hold."""
    cache: Text | None = None
    """Folder that keeps replies; None: none is kept."""

    def __post_init__(self) -> None:
        if "key" in self.options:
            raise ValueError("a key in a recipe would be written to disk with every run. Set OPENAI_API_KEY instead")
        if self.lowest >= self.highest:
            raise ValueError(f"found lowest {self.lowest:g} and highest {self.highest:g}. Make highest the larger")
        for name, default in (("lowest", 0.0), ("highest", 10.0)):
            if self.asks == "yes_no" and vars(self)[name] != default:
                raise ValueError(f"{name} is read with asks: score alone. Remove {name}")
        if self.logprobs and (self.asks != "yes_no" or self.samples > 1 or self.temperature):
            raise ValueError("logprobs ask for yes or no once, without sampling. Set asks: yes_no alone")
        if self.samples > 1 and not self.temperature:
            raise ValueError(f"found {self.samples} samples at temperature 0: they are all the same. Raise temperature")


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class FunctionSpec(TermSpec):
    """A Python function with the signature of TRL's reward functions:
    ``f(prompts, completions, **columns) -> list[float | None]``, None for an answer that it does not judge."""

    kind: Literal["function"] = "function"
    path: str = Field(pattern=r"^[\w.]+:\w+$")
    """``package.module:function``."""
    completions: Literal["messages", "text"] = "messages"
    """``messages``: each a list with one assistant message, as TRL gives conversations; ``text``: each a text."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class ServiceSpec(TermSpec):
    """A service of one's own: POST of JSON, one group a request; see ``rewards.md`` for both bodies."""

    kind: Literal["service"] = "service"
    url: Url | Annotated[tuple[Url, ...], Field(min_length=1)]
    """Where requests are sent; several addresses of the same service share them. ``SIGHTLINE_TOKEN`` of the environment
    goes with them."""
    timeout: Seconds = 60.0
    """Of one request, its reply included."""
    patience: Seconds = 600.0
    """How long a request is sent again, with growing pauses, while the service fails; then its answers have no
    reward."""
    workers: int = Field(default=8, ge=1, le=1000)
    """Requests under way at once."""
    pictures: Literal["path", "base64", "none"] = "path"
    """How pictures are sent."""


AnyTerm = (
    MultipleChoiceSpec | YesNoSpec | ExactSpec | NumericSpec | FormatSpec | LengthSpec | RepetitionSpec | NoEndSpec
    | OverlongSpec | SymbolicSpec | ObjectsSpec | ScenesSpec | ModelTermSpec | IrisSpec | ClipSpec | JudgeSpec
    | FunctionSpec | ServiceSpec
)  # fmt: skip
TERMS: Final[Mapping[str, type[AnyTerm]]] = {
    "multiple_choice": MultipleChoiceSpec,
    "yes_no": YesNoSpec,
    "exact": ExactSpec,
    "numeric": NumericSpec,
    "format": FormatSpec,
    "length": LengthSpec,
    "repetition": RepetitionSpec,
    "no_end": NoEndSpec,
    "overlong": OverlongSpec,
    "symbolic": SymbolicSpec,
    "objects": ObjectsSpec,
    "scenes": ScenesSpec,
    "model": ModelTermSpec,
    "iris": IrisSpec,
    "clip": ClipSpec,
    "judge": JudgeSpec,
    "function": FunctionSpec,
    "service": ServiceSpec,
}
"""Kind to the dataclass of its options."""

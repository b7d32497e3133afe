"""The contract of a benchmark: questions, stored answers, grades per answer, figures.

A benchmark reads the folder its authors publish, never the network. Answering and grading are separate:
``questions`` is all that a model needs, ``grade`` needs the stored answers and no model and no torch.

Each module of ``evaluation/benches`` has one instance, named ``BENCH``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Protocol, runtime_checkable

from sightline.errors import DataError
from sightline.types import Prompt

Better = Literal["lower", "higher", "neither"]

OFFICIAL: Final = "official"
"""The default protocol: what the benchmark's own script prints."""
NAMED_IDS: Final = 5
"""Ids that an error names."""
NAMED_LENGTH: Final = 80
"""Characters of each of them."""
ANSWERS: Final = "answers"
"""Source in errors about answers whose file is not known here; who knows it puts it there."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One row to answer."""

    id: str
    """Unique within the benchmark; what a stored answer is matched by."""
    prompt: Prompt
    """Chat messages with bare image markers, and the paths of the pictures."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Plain JSON. The harness reads ``max_new_tokens`` (the protocol's limit on the answer), ``token_limits`` (of
    protocols that have another, by name), ``prompts`` (how other protocols word the question, by name), ``category``,
    and ``protocols`` (names of those that grade it, where not all do); what else stands here is the benchmark's own."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One stored answer: the line ``{"id": ..., "text": ...}``."""

    id: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Graded:
    """What one answer counts for: the rows that statistics resample."""

    id: str
    cluster: str
    """Id of the picture or scene: answers about one are not independent, so they are resampled together."""
    counts: Mapping[str, float] = field(default_factory=dict)
    """Column to number. A column that is left out is 0 for this answer."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Plain JSON, for people. The results page reads, where present: ``answer`` (the graded text), ``question``,
    ``truth``, ``category``, ``wrong`` (half-open character spans of the answer) or ``hallucinated`` (words to
    mark in it), ``missed`` (names that the answer lacks), ``error`` (number >= 0: how bad; worst are shown first).
    ``problem``: why it could not be graded; comparisons leave it out."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """The figures of one benchmark under one protocol."""

    bench: str
    protocol: str
    metrics: Mapping[str, float]
    """Metric to value, unrounded unless the protocol's script rounds before it goes on."""
    metrics_printed: Mapping[str, str]
    """Metric to the string that the protocol's script prints."""
    by_category: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Category to metric to value."""
    graded: Sequence[Graded] = ()
    notes: Sequence[str] = ()
    """What a reader must know: extractor and similarity used, judge, deviations."""
    failures: int = 0
    """Answers that could not be graded (a judge that failed). Not in the figures, unless the protocol says so."""
    formulas: Mapping[str, str] = field(default_factory=dict)
    """Metric to an expression over sums of ``Graded.counts``, from which intervals and paired differences are
    bootstrapped: ``"100 * hallucinated / nouns"``, ``"2 * tp / (2 * tp + fp + fn)"``. Numbers, column names,
    ``+ - * / **`` and brackets; ``answers`` is the number of graded answers. See ``evaluation.formulas``."""
    better: Mapping[str, Better] = field(default_factory=dict)
    """Metric to its good direction; one that is left out follows :func:`direction`."""


@dataclass(frozen=True, kw_only=True)
class JudgeRequest:
    """One question to a judge."""

    id: str
    """Unique within the benchmark and the call: what ``replay`` finds the stored reply by."""
    messages: Sequence[Mapping[str, str]]
    """``{"role": "system" | "user", "content": text}``."""
    images: Sequence[str] = ()
    """Paths of pictures that the last message shows."""
    temperature: float = 0.0
    max_tokens: int | None = 1024
    """The protocol's limit; None: it has none, and the judge thinks as long as it does."""
    attempt: int = 0
    """Raise it to be answered anew: part of the cache key."""
    choices: Sequence[str] = ()
    """Words in lower case whose probability as the first token of the reply is asked for."""
    top_p: float = 1.0
    """Least share of probability that is sampled from."""
    likeliest: int | None = None
    """How many likely tokens are told of at each place of the reply (``Outcome.tokens``); None: of no token."""


@dataclass(frozen=True, kw_only=True)
class JudgeReply:
    """What a judge said, or why it said nothing."""

    text: str | None
    """None: the judge failed; ``error`` says how."""
    error: str = ""
    final: bool = False
    """It failed for what it asks, which would fail again: too long, refused, no picture that can be read."""
    cut: bool = False
    """It reached ``max_tokens``: what a grader looks for may be missing."""
    probabilities: Mapping[str, float] | None = None
    """Of ``JudgeRequest.choices``, as the first token of the reply; None: not asked for, or not told."""


class Judge(Protocol):
    """Answers grading requests. It never raises for a single failed request: the reply carries the error."""

    @property
    def name(self) -> str:
        """Model and version, as written into the result."""
        ...

    def ask(self, requests: Sequence[JudgeRequest]) -> list[JudgeReply]:
        """A reply to each request, in order."""
        ...


@runtime_checkable
class Benchmark(Protocol):
    """A benchmark: what to ask, and what the answers are worth."""

    @property
    def name(self) -> str: ...

    @property
    def protocols(self) -> tuple[str, ...]:
        """The first is the default."""
        ...

    @property
    def needs(self) -> str:
        """What it needs and where to get it, in a line or two: files, pictures, judge."""
        ...

    def questions(self, data: Path) -> list[Question]:
        """All rows, in the order of the official file.

        Raises:
            DataError: A file is missing or a row is wrong.
        """
        ...

    def grade(
        self, data: Path, answers: Sequence[Answer], protocol: str, options: Mapping[str, Any], judge: Judge | None
    ) -> Result:
        """The figures for a complete set of answers.

        Raises:
            DataError: An id is missing, twice there or unknown; an option is unknown; a judge is needed.
        """
        ...

    def export(self, data: Path, answers: Sequence[Answer], path: Path) -> None:
        """Writes the answers as the official submission file."""
        ...

    def read_export(self, path: Path) -> list[Answer]:
        """Reads what ``export`` or the official tools write."""
        ...


# --- checks that every benchmark shares -------------------------------------------------------


def match_answers(questions: Iterable[Question], answers: Sequence[Answer], *, source: str = ANSWERS) -> list[Answer]:
    """The answers in the order of the questions.

    Raises:
        DataError: An id is missing, stands twice or is not of this benchmark.
    """
    return match_ids([question.id for question in questions], answers, source=source)


def match_ids(ids: Sequence[str], answers: Sequence[Answer], *, source: str = ANSWERS) -> list[Answer]:
    """As :func:`match_answers`, for benchmarks whose ids need no question.

    Raises:
        DataError: An id is missing, stands twice or is not of this benchmark.
    """
    by_id = {answer.id: answer for answer in answers}
    if len(by_id) < len(answers):
        twice = [id for id, count in Counter(answer.id for answer in answers).items() if count > 1]
        many = "ids stand" if len(twice) > 1 else "id stands"
        raise DataError(f"{len(twice)} {many} twice ({_some(twice)})", source=source, remedy="Keep one answer each")
    missing = [id for id in ids if id not in by_id]
    if not missing and len(by_id) == len(ids):
        return [by_id[id] for id in ids]
    known = set(ids)
    unknown = [id for id in by_id if id not in known]
    found = []
    if missing:
        found.append(f"{len(missing)} of {len(ids)} questions have no answer ({_some(missing)})")
    if unknown:
        found.append(f"{len(unknown)} of {len(by_id)} ids are not of this benchmark ({_some(unknown)})")
    remedy = "Check that data and answers belong together" if unknown else "Answer all of them; a text may be empty"
    raise DataError(", and ".join(found), source=source, remedy=remedy)


def check_protocol(bench: Benchmark, protocol: str) -> None:
    """Raises:
    DataError: The benchmark has no such protocol.
    """
    if protocol not in bench.protocols:
        raise DataError(
            f"there is no protocol {protocol!r}",
            source=bench.name,
            remedy=f"Choose one of {', '.join(bench.protocols)}",
        )


def check_options(bench: str, options: Mapping[str, Any], known: Iterable[str]) -> None:
    """Raises:
    DataError: An option that the benchmark does not have.
    """
    names = sorted(known)
    unknown = sorted(map(str, set(options) - set(names)))
    if unknown:
        raise DataError(
            f"unknown options {_some(list(map(str, unknown)))}",
            source=bench,
            remedy=f"Known are {', '.join(names)}" if names else "It has none",
        )


def need_judge(bench: str, judge: Judge | None) -> Judge:
    """The judge.

    Raises:
        DataError: There is none.
    """
    if judge is None:
        raise DataError(
            "its answers are graded by a judge, and none was given",
            source=bench,
            remedy="Pass --judge openai:MODEL, http://ADDRESS (OpenAI-compatible), local:FOLDER or replay:FILE",
        )
    return judge


_LOWER: Final = re.compile(r"(?:^|_)(?:(?:hal|cog)(?:_|$)|chair|hall|miss|leak|repeated|fail|loss)")
"""``cog`` is AMBER's, and MME's cognition is not."""
_NEITHER: Final = ("length", "words", "yes_ratio", "yes_rate", "answers", "ties")


def direction(metric: str, better: Mapping[str, Better] | None = None) -> Better:
    """Which way a metric is good: as ``better`` says, otherwise by its name.

    >>> direction("chair_i"), direction("mean_length"), direction("accuracy")
    ('lower', 'neither', 'higher')
    """
    if better and metric in better:
        return better[metric]
    name = metric.lower().rpartition("/")[2]
    if any(part in name for part in _NEITHER):
        return "neither"
    return "lower" if _LOWER.search(name) else "higher"


def _some(ids: Sequence[str]) -> str:
    return ", ".join(f"{id:.{NAMED_LENGTH}}" for id in ids[:NAMED_IDS]) + (", ..." if len(ids) > NAMED_IDS else "")

"""Judges: one client over whatever answers, with a cache on disk, a record to replay, and honest counts.

A reply that was paid for is on disk before the next is read; a failed one is never stored, so that running
again asks only for what failed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from sightline.errors import DataError
from sightline.evaluation.bench import JudgeReply, JudgeRequest, check_options
from sightline.evaluation.json_files import LONE_SURROGATES
from sightline.evaluation.judges.base import Backend, Outcome, asked
from sightline.evaluation.option_values import count_option, number_option
from sightline.files import replace_file


@dataclass(kw_only=True)
class Usage:
    """What a judge was asked and what it cost."""

    requests: int = 0
    cached: int = 0
    failed: int = 0
    cut: int = 0
    """Replies that reached their limit of tokens."""
    retries: int = 0
    prompt_tokens: int = 0
    """Of replies that were not in the cache."""
    completion_tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class Prices:
    """In any currency per million tokens; 0: not known."""

    prompt: float = 0.0
    completion: float = 0.0


class JudgeClient:
    """A judge (``bench.Judge``): looks into the cache, asks the back end for the rest, counts and records.

    >>> judge = JudgeClient(ReplayBackend(Path("judge.jsonl")))  # doctest: +SKIP
    >>> judge.ask([JudgeRequest(id="1", messages=[{"role": "user", "content": "..."}])])  # doctest: +SKIP
    """

    def __init__(
        self,
        backend: Backend,
        *,
        cache: Path | None = None,
        record: Path | None = None,
        prices: Prices | None = None,
        max_tokens: int | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """
        Args:
            backend: Answers what the cache does not hold.
            cache: Folder; None: nothing is kept.
            record: JSON-lines file of every reply by request id, to be replayed later.
            prices: To turn tokens into a cost.
            max_tokens: Limit of replies to requests whose protocol sets none; None: none either.
            on_progress: Told (replies there, requests in all) of each call.
        """
        self.backend, self.cache, self.record = backend, cache, record
        self.prices, self.max_tokens, self.on_progress = prices or Prices(), max_tokens, on_progress
        self.usage = Usage()
        self.errors: list[str] = []
        """The first few failures, in words."""

    @property
    def name(self) -> str:
        return self.backend.name

    def ask(self, requests: Sequence[JudgeRequest]) -> list[JudgeReply]:
        """See ``bench.Judge``.

        Raises:
            DataError: The judge refuses all requests (a wrong key, address or model).
        """
        if self.max_tokens is not None:
            requests = [replace(one, max_tokens=one.max_tokens or self.max_tokens) for one in requests]
        replies = self._without_picture(requests)
        keys = ["" if index in replies else self._key(one) for index, one in enumerate(requests)]
        self.usage.requests += len(requests)
        for index, key in enumerate(keys):
            stored = self._stored(key) if index not in replies else None
            if stored is not None:
                replies[index] = stored
                self.usage.cached += 1
                self.usage.cut += stored.cut
        left = [index for index in range(len(requests)) if index not in replies]

        def note(number: int, outcome: Outcome) -> None:
            index = left[number]
            replies[index] = outcome.reply
            self._count(requests[index], outcome)
            self._keep(keys[index], outcome.reply)
            if self.on_progress is not None:
                self.on_progress(len(replies), len(requests))

        if left:
            self.backend.answer([requests[index] for index in left], note)
        ordered = [replies[index] for index in range(len(requests))]
        self._write_record(requests, ordered)
        return ordered

    def give_up(self) -> None:
        """Called from another thread: ``ask`` waits for nothing more, and what is left of it fails."""
        self.backend.give_up()

    def facts(self) -> dict[str, Any]:
        """Name, counts and cost, as they stand in a result."""
        tokens = self.usage
        cost = (tokens.prompt_tokens * self.prices.prompt + tokens.completion_tokens * self.prices.completion) / 1e6
        priced = {"cost": cost} if self.prices != Prices() else {}
        return {"name": self.name, **asdict(tokens), **priced, "errors": list(self.errors)}

    def _without_picture(self, requests: Sequence[JudgeRequest]) -> dict[int, JudgeReply]:
        """Failures of the requests whose pictures cannot be shown; a replay shows none."""
        failed = {}
        for index, request in enumerate(requests if self.backend.cached else ()):
            missing = [path for path in request.images if not Path(path).is_file()]
            if missing:
                failed[index] = JudgeReply(text=None, error=f"picture {missing[0]} is missing")
                self._count(request, Outcome(reply=failed[index]))
        return failed

    def _count(self, request: JudgeRequest, outcome: Outcome) -> None:
        self.usage.prompt_tokens += outcome.prompt_tokens
        self.usage.completion_tokens += outcome.completion_tokens
        self.usage.retries += outcome.tries - 1
        self.usage.cut += outcome.reply.cut
        if outcome.reply.text is None:
            self.usage.failed += 1
            if len(self.errors) < 5:
                self.errors.append(f"{request.id}: {outcome.reply.error}")

    def _key(self, request: JudgeRequest) -> str:
        """Empty where nothing is cached: a replay needs no pictures."""
        caches = self.cache is not None and self.backend.cached
        return cache_key(self.name, request, self.backend.identity) if caches else ""

    def _path(self, key: str) -> Path:
        assert self.cache is not None
        return self.cache / key[:2] / f"{key}.json"

    def _stored(self, key: str) -> JudgeReply | None:
        if self.cache is None or not self.backend.cached or not self._path(key).exists():
            return None
        try:
            stored = json.loads(self._path(key).read_text(encoding="utf-8"))
            text, cut, told = stored["text"], stored["cut"], stored.get("probabilities")
        except (ValueError, KeyError, TypeError, RecursionError):  # a damaged entry is asked for again
            return None
        whole = isinstance(text, str) and isinstance(cut, bool) and isinstance(told, dict | None)
        return JudgeReply(text=text, cut=cut, probabilities=told) if whole else None

    def _keep(self, key: str, reply: JudgeReply) -> None:
        if self.cache is None or reply.text is None or not self.backend.cached:
            return
        path = self._path(key)
        entry = {"judge": self.name, "text": reply.text, "cut": reply.cut, **_told(reply)}
        replace_file(path, json.dumps(entry, ensure_ascii=False), errors=LONE_SURROGATES)

    def _write_record(self, requests: Sequence[JudgeRequest], replies: Sequence[JudgeReply]) -> None:
        if self.record is None:
            return
        self.record.parent.mkdir(parents=True, exist_ok=True)
        with self.record.open("a", encoding="utf-8", errors=LONE_SURROGATES) as file:
            for request, reply in zip(requests, replies, strict=True):
                told = {"id": request.id, "attempt": request.attempt, "judge": self.name}
                said = {"text": reply.text, "error": reply.error, "cut": reply.cut, **_told(reply)}
                line = {**told, "asked": asked(request), **said}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _told(reply: JudgeReply) -> dict[str, Any]:
    return {} if reply.probabilities is None else {"probabilities": dict(reply.probabilities)}


def cache_key(name: str, request: JudgeRequest, identity: str = "") -> str:
    """Identity of a reply: judge, messages, pixels, parameters and attempt; not the id of the request."""
    parts = {
        "judge": name,
        "identity": identity,
        "messages": [dict(message) for message in request.messages],
        "images": [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in request.images],
        "temperature": request.temperature,
        "max_tokens": request.max_tokens,
        "attempt": request.attempt,
        **({"choices": list(request.choices)} if request.choices else {}),
        **({"top_p": request.top_p} if request.top_p < 1 else {}),
        **({} if request.likeliest is None else {"likeliest": request.likeliest}),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


_OPTIONS: Final[Mapping[str, Any]] = {
    "model": "",
    "url": "",
    "key": "",
    "timeout": 120.0,
    "tries": 6,
    "workers": 8,
    "price_prompt": 0.0,
    "price_completion": 0.0,
    "parameters": None,
    "max_tokens": None,
    "batch_size": 8,
    "dtype": "float32",
}
"""Options of a judge, with their defaults."""


def load_judge(
    spec: str,
    options: Mapping[str, Any] | None = None,
    *,
    cache: Path | None = None,
    record: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> JudgeClient:
    """A judge from one line of text.

    Args:
        spec: ``openai`` or ``openai:MODEL`` for an OpenAI-compatible endpoint (address, key and model from
            ``options`` or the environment), ``http://...`` for its address, ``local:FOLDER`` for a transformers
            model, ``replay:FILE`` for stored replies.
        options: ``model``, ``url``, ``key``, ``timeout`` in seconds, ``tries``, ``workers``, ``price_prompt`` and
            ``price_completion`` per million tokens, ``max_tokens`` of a reply where the protocol sets no limit,
            ``parameters`` (a mapping laid over the body of each request;
            None takes a key out); local: ``batch_size``, ``dtype``.
        cache: See :class:`JudgeClient`.
        record: See :class:`JudgeClient`.
        on_progress: See :class:`JudgeClient`.

    Raises:
        DataError: The line or an option cannot be understood, or an address, key or model is missing.
    """
    check_options("judge", options or {}, _OPTIONS)
    chosen = dict(_OPTIONS) | dict(options or {})
    price = [
        number_option("judge", chosen, name, 0.0, least=0, most=1e9) for name in ("price_prompt", "price_completion")
    ]
    limit = None if chosen["max_tokens"] is None else count_option("judge", chosen, "max_tokens", 1)
    prices = Prices(prompt=price[0], completion=price[1])
    backend = _backend(spec, chosen)
    return JudgeClient(backend, cache=cache, record=record, prices=prices, max_tokens=limit, on_progress=on_progress)


def _backend(spec: str, options: Mapping[str, Any]) -> Backend:
    kind, _, rest = spec.partition(":")
    if kind in ("http", "https"):
        kind, options, rest = "openai", {**options, "url": spec}, ""
    if kind == "openai":
        from sightline.evaluation.judges.endpoint import endpoint_from

        return endpoint_from({**options, "model": rest or options["model"]}, os.environ)
    if kind == "replay":
        from sightline.evaluation.judges.replay import ReplayBackend

        return ReplayBackend(Path(rest))
    if kind == "local":
        from sightline.evaluation.judges.local import local_judge

        size = count_option("judge", options, "batch_size", _OPTIONS["batch_size"])
        return local_judge(rest, dtype=options["dtype"], batch_size=size)
    raise DataError(
        f"there is no judge {spec!r}", remedy="Write openai[:MODEL], http://ADDRESS, local:FOLDER or replay:FILE"
    )

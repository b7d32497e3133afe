"""An OpenAI-compatible endpoint as judge: hosted, vLLM, SGLang, llama.cpp, Ollama."""

from __future__ import annotations

import base64
import contextlib
import json
import math
import mimetypes
import re
import threading
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from http.client import HTTPException
from itertools import islice
from pathlib import Path
from typing import Any, Final

from sightline.addresses import Addresses, Again, GivenUp, Patience, check_url, shown_url
from sightline.errors import DataError, ServiceError
from sightline.evaluation.bench import JudgeReply, JudgeRequest
from sightline.evaluation.judges.base import OnReply, Outcome
from sightline.evaluation.judges.http import HttpReply, TooLarge, hidden, post, retry_after, shown_body

URL_NAMES: Final = ("OPENAI_BASE_URL", "OPENAI_API_BASE", "OPENAI_API_URL")
"""Environment names for the address that users of the SDK, VLMEvalKit and lmms-eval know, in this order."""
MODEL_NAMES: Final = ("LOCAL_LLM", "MODEL_VERSION")
KEY_NAME: Final = "OPENAI_API_KEY"
DEFAULT_URL: Final = "https://api.openai.com/v1"
_PATH: Final = "/chat/completions"
_REFUSED: Final = (401, 402, 404)
"""Wrong key, empty account, wrong address or model: every request would fail. A 403 may be of one request (filters)."""
_FILTERED: Final = "content_filter"
_CUT: Final = ("length", "max_tokens", "MAX_TOKENS")
"""Ends of a reply at its limit: of OpenAI's interface, and as gateways pass on those of others."""
_REDIRECTS: Final = (301, 302, 303, 307, 308)
_AGAIN: Final = (408, 409, 425, 429, 500, 502, 503, 504, 529)
_MOST_LOGPROBS: Final = 20
"""Likeliest tokens whose log-probability OpenAI's interface tells."""
_LONGEST: Final = 1e6
"""Largest number of seconds, tries or workers that can be meant."""
PATIENCE: Final = 16
"""Failed requests, none having been answered before, after which the judge counts as away."""


@dataclass(kw_only=True)
class EndpointBackend:
    """Sends requests to ``<url>/chat/completions``, a few at a time, and tries again what may go well."""

    name: str
    """The model asked for."""
    url: str
    """Base address, or the full one of chat completions; several of the same model with commas between them."""
    key: str = field(default="", repr=False)
    timeout: float = 120.0
    """Seconds until a try counts as failed: connection, headers and body together."""
    tries: int = 6
    """Tries of a request in all."""
    workers: int = 8
    """Requests under way at once."""
    backoff: float = 1.0
    """Seconds before the second try; doubled for each one after, half of it random."""
    longest_wait: float = 60.0
    """Most seconds between two tries, whatever the server asks for."""
    cached: bool = True
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Laid over the body of each request (``seed``, ``max_completion_tokens``); None takes a key out."""
    _stop: threading.Event = field(default_factory=threading.Event, repr=False)
    """Set where the work is given up: nobody waits to try again."""

    def __post_init__(self) -> None:
        self._addresses = Addresses(urls=[_full(url) for url in addresses(self.url)], stop=self._stop)

    @property
    def identity(self) -> str:
        """See ``judges.base.Backend``."""
        return json.dumps([_bare(self.url), dict(self.parameters)], sort_keys=True)

    def answer(self, requests: Sequence[JudgeRequest], on_reply: OnReply) -> None:
        """See ``judges.base.Backend``.

        Raises:
            DataError: The endpoint refuses the key, the address or the model.
            ServiceError: It answers none of the first :data:`PATIENCE` requests.
        """
        self._stop.clear()
        with ThreadPoolExecutor(self.workers) as pool:
            running: dict[Future[Outcome], int] = {}
            try:
                self._work(pool, running, iter(enumerate(requests)), on_reply)
            except BaseException:  # a refusal, an interrupt: what is under way is paid for, and kept
                self._stop.set()
                with contextlib.suppress(DataError):
                    _collect(running, wait(running).done, on_reply)
                raise

    def give_up(self) -> None:
        """See ``judges.base.Backend``."""
        self._stop.set()

    def _work(
        self,
        pool: ThreadPoolExecutor,
        running: dict[Future[Outcome], int],
        queue: Iterator[tuple[int, JudgeRequest]],
        on_reply: OnReply,
    ) -> None:
        failed, answered = 0, False
        while True:
            # no more are handed out than run: a refusal leaves nothing queued
            for number, request in islice(queue, self.workers - len(running)):
                running[pool.submit(self._reply, request)] = number
            if not running:
                return
            for outcome in _collect(running, wait(running, return_when=FIRST_COMPLETED).done, on_reply):
                answered = answered or outcome.reply.text is not None
                failed += not answered
            if not answered and failed >= PATIENCE:
                raise ServiceError(
                    f"the judge answered none of {failed} requests ({outcome.reply.error})",
                    source=", ".join(map(shown_url, addresses(self.url))),
                    remedy="Check that it runs, and its address, model and parameters; replies that are there are kept",
                )

    def _reply(self, request: JudgeRequest) -> Outcome:
        if self._stop.is_set():
            return Outcome(reply=JudgeReply(text=None, error="given up"), tries=1)
        body = _body(self.name, request, self.parameters)
        tried = 0

        def once(url: str) -> Outcome:
            nonlocal tried
            tried += 1
            return self._once(url, body, tried, request.choices)

        try:
            patience = Patience(tries=self.tries, pause=self.backoff, longest=self.longest_wait)
            return self._addresses.ask(once, patience)
        except GivenUp as error:
            return Outcome(reply=JudgeReply(text=None, error=str(error), final=error.last.lasting), tries=error.tries)

    def _once(self, url: str, body: bytes, number: int, choices: Sequence[str]) -> Outcome:
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        try:
            reply = post(url, body, headers, seconds=self.timeout)
        except (HTTPException, OSError, TooLarge) as error:
            raise Again(hidden(f"{type(error).__name__}: {error}", self.key)) from error
        if reply.status >= 300:
            return self._refused(reply, number, url)
        # before a message cuts it: a part of the key would not be recognised
        content = reply.body.replace(self.key.encode(), b"***") if self.key else reply.body
        return _outcome(content, number, choices)

    def _refused(self, reply: HttpReply, number: int, url: str) -> Outcome:
        said = shown_body(reply, self.key)
        if reply.status in _REDIRECTS:
            place = urllib.parse.urlsplit(reply.headers.get("Location", "")).netloc.rpartition("@")[2]
            raise DataError(
                f"the judge answered {reply.status}, a redirect to {place or 'another path'}",
                source=shown_url(url.removesuffix(_PATH)),
                remedy="It is not followed, for the key would go with it: give the judge its own address",
            )
        if reply.status in _REFUSED:
            raise DataError(
                f"the judge answered {reply.status}: {said}",
                source=shown_url(url.removesuffix(_PATH)),
                remedy="Correct the key, the address or the model of the judge",
            )
        message = f"HTTP {reply.status}: {said}"
        if reply.status not in _AGAIN:
            return Outcome(reply=JudgeReply(text=None, error=message, final=True), tries=number)
        raise Again(message, retry_after(reply.headers))


def addresses(text: str) -> list[str]:
    """The addresses in a text, with commas between them.

    >>> addresses("http://a/v1, http://b/v1")
    ['http://a/v1', 'http://b/v1']
    """
    return [one.strip() for one in re.split(r",\s*(?=https?://)", text)]


def _bare(url: str) -> str:
    return url.removesuffix(_PATH).rstrip("/")


def _full(url: str) -> str:
    return url if url.endswith(_PATH) else url.rstrip("/") + _PATH


def endpoint_from(options: Mapping[str, Any], environment: Mapping[str, str]) -> EndpointBackend:
    """An endpoint from options, and from the environment where they are empty.

    Raises:
        DataError: No model is named, or the hosted service has no key.
    """
    url = _named(options, "url") or next(
        (environment[name] for name in URL_NAMES if environment.get(name)), DEFAULT_URL
    )
    model = _named(options, "model") or next((environment[name] for name in MODEL_NAMES if environment.get(name)), "")
    key = _key(options["key"] or environment.get(KEY_NAME, ""))
    if not model:
        raise DataError("the judge has no model", remedy=f"Write --judge openai:MODEL, or set {MODEL_NAMES[1]}")
    if not key and url == DEFAULT_URL:
        raise DataError("the judge has no key", source=url, remedy=f"Set {KEY_NAME}, or give the judge an address")
    for one in addresses(url):
        if not urllib.parse.urlsplit(one).hostname or not one.startswith(("http://", "https://")):
            raise DataError("is no address of a judge", source=shown_url(one), remedy="Write http://HOST:PORT/v1")
        try:
            check_url(one)
        except ValueError as error:
            raise DataError(str(error), remedy=f"A key goes in {KEY_NAME}") from error
    parameters = options["parameters"] or {}
    if not isinstance(parameters, Mapping) or not _is_json(parameters):
        remedy = "Write --judge-option 'parameters={seed: 1}'"
        raise DataError(f"the judge option parameters is {parameters!r}", remedy=remedy)
    return EndpointBackend(
        name=str(model),
        url=url,
        key=key,
        timeout=float(_positive(options, "timeout")),
        tries=_count(options, "tries"),
        workers=_count(options, "workers"),
        parameters=parameters,
    )


def _key(given: Any) -> str:
    """The key without the blanks and line ends around it.

    Raises:
        DataError: It cannot be sent in a header; does not show it.
    """
    key = str(given).strip()
    wrong = next((place for place, sign in enumerate(key, start=1) if not "!" <= sign <= "~"), None)
    if wrong is not None or isinstance(given, list | dict):
        where = "is no text" if wrong is None else f"has a line end, a blank or a letter beyond ASCII as sign {wrong}"
        raise DataError(
            f"the judge's key {where}", remedy=f"Correct {KEY_NAME} or the judge option key (not shown here)"
        )
    return key


def _positive(options: Mapping[str, Any], name: str) -> float:
    value = options[name]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= _LONGEST:
        raise DataError(f"the judge option {name} is {value!r}", remedy="Give a number above 0")
    return value


def _count(options: Mapping[str, Any], name: str) -> int:
    value = _positive(options, name)
    if not isinstance(value, int):
        raise DataError(f"the judge option {name} is {value!r}", remedy="Give a whole number above 0")
    return value


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def _named(options: Mapping[str, Any], name: str) -> str:
    value = options[name]
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise DataError(f"the judge option {name} is {value!r}", remedy="Give a text")
    return str(value).strip()


def _collect(running: dict[Future[Outcome], int], done: Iterable[Future[Outcome]], on_reply: OnReply) -> list[Outcome]:
    """Hands over what came; a refusal is raised once all the others are handed over."""
    refusal: BaseException | None = None
    outcomes = []
    for future in done:
        number, error = running.pop(future), future.exception()
        if error is None:
            outcomes.append(future.result())
            on_reply(number, outcomes[-1])
        refusal = refusal or error
    if refusal is not None:
        raise refusal
    return outcomes


def _body(model: str, request: JudgeRequest, parameters: Mapping[str, Any]) -> bytes:
    messages: list[dict[str, Any]] = [dict(message) for message in request.messages]
    if request.images:
        pictures = [{"type": "image_url", "image_url": {"url": _data_uri(path)}} for path in request.images]
        messages[-1]["content"] = [*pictures, {"type": "text", "text": messages[-1]["content"]}]
    values = {
        "model": model,
        "messages": messages,
        "temperature": request.temperature,
        "max_tokens": request.max_tokens,
        **({"top_p": request.top_p} if request.top_p < 1 else {}),
        **({"logprobs": True, "top_logprobs": _MOST_LOGPROBS} if request.choices else {}),
    }
    return json.dumps({name: value for name, value in {**values, **parameters}.items() if value is not None}).encode()


def _data_uri(path: str) -> str:
    kind = mimetypes.guess_type(path)[0] or "image/jpeg"
    return f"data:{kind};base64,{base64.b64encode(Path(path).read_bytes()).decode('ascii')}"


def _outcome(content: bytes, number: int, choices: Sequence[str] = ()) -> Outcome:
    """The reply in a body; one that cannot be read, says that it failed, or holds no text, is tried again."""
    try:
        body = json.loads(content)
        if body.get("error"):  # gateways answer 200, and put what went wrong where the reply would stand
            raise Again(f"the body holds an error: {str(body['error'])[:100]}")
        choice = min(body["choices"], key=lambda one: one.get("index") or 0)
        text, end = _text(choice["message"]["content"]), choice.get("finish_reason")
        told = _probabilities(choice.get("logprobs"), choices) if choices else None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise Again(f"the body cannot be read ({type(error).__name__}): {content[:100]!r}") from error
    if end == _FILTERED:  # what stands there is a part, or another's words
        raise Again("the reply was stopped by a filter", lasting=True)
    if not text.strip() and told is None:  # where probabilities are told, they are the reply
        raise Again("the reply is empty" + (f" ({end})" if end not in (None, "stop") else ""), lasting=True)
    usage = body.get("usage")
    return Outcome(
        reply=JudgeReply(text=text, cut=end in _CUT, probabilities=told),
        prompt_tokens=_tokens(usage, "prompt_tokens"),
        completion_tokens=_tokens(usage, "completion_tokens"),
        tries=number,
    )


def _probabilities(logprobs: Any, choices: Sequence[str]) -> dict[str, float] | None:
    """Of each choice, over all tokens that spell it (``Yes``, `` yes``); None where the endpoint tells none."""
    if not logprobs or not logprobs.get("content"):
        return None
    likeliest = [(_spelt(one["token"]), math.exp(one["logprob"])) for one in logprobs["content"][0]["top_logprobs"]]
    return {choice: sum(share for word, share in likeliest if word == choice) for choice in choices}


def _spelt(token: str) -> str:
    """The word of a token; some servers (LMDeploy) write the blank before it as their tokenizer does."""
    return token.lstrip("\u0120\u2581").strip().lower()


def _text(content: Any) -> str:
    """A text, or a list of parts that hold texts."""
    if isinstance(content, list):
        return "".join(part["text"] for part in content if part.get("type", "text") == "text")
    return content if isinstance(content, str) else ""


def _tokens(usage: Any, name: str) -> int:
    """0 where a server does not count, or counts in another way."""
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if isinstance(value, int) else 0

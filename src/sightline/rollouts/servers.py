"""Servers that do the same work: requests with a deadline, tried at another server where one does not answer."""

from __future__ import annotations

import http.client
import json
import logging
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sightline.errors import EngineError, shortened

_log = logging.getLogger(__name__)
T = TypeVar("T")

FIRST_REST, LONGEST_REST = 0.5, 30.0
"""Seconds that a server which did not answer is left alone; twice as long each time, until it answers."""
TRIES = 5
"""How often a server may fail at one and the same request, or lose what it was given, before that is an error."""
_CONNECT = {502, 503, 504}
"""Statuses of a server that starts, stops or pauses: it is as good as not there."""


class Unreachable(Exception):
    """The server does not answer, or not now."""


class Failed(Exception):
    """The server answers that it failed (status 500)."""


class Lacking(Exception):
    """The server answers, and does not hold what it was given: it was started again."""


@dataclass(kw_only=True, eq=False)
class Server:
    """One address."""

    url: str
    timeout: float
    """Seconds for one request."""
    version: int | None = None
    """Of the policy that it holds; None: not known."""
    rest: float = 0.0
    """Seconds it is left alone after the next failure; 0: it answered last time."""
    resting: float = 0.0
    """Until when it is left alone, on the monotonic clock."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    """Held while it is given a policy."""

    def get(self, path: str) -> Any:
        return self._call(urllib.request.Request(self.url + path))

    def post(self, path: str, body: Any = None) -> Any:
        """The JSON of the answer; its text where it is none.

        Raises:
            Unreachable, Failed: see there.
            Lacking: status 404: there is no such model.
            EngineError: the request is refused, and would be again.
        """
        content = json.dumps({} if body is None else body).encode()
        return self._call(
            urllib.request.Request(self.url + path, data=content, headers={"Content-Type": "application/json"})
        )

    def _call(self, request: urllib.request.Request) -> Any:
        try:
            # servers stand beside the trainer: no proxy of the environment lies between
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(request, timeout=self.timeout) as answer:
                content = answer.read()
        except urllib.error.HTTPError as error:
            with error:
                raise self._refusal(request, error.code, error.read(4096).decode("utf-8", "replace")) from error
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"{self.url}: {error or type(error).__name__}") from error
        try:
            return json.loads(content) if content else None
        except ValueError:
            return content.decode("utf-8", "replace")

    def _refusal(self, request: urllib.request.Request, status: int, text: str) -> Exception:
        told = f"{request.full_url} answered {status}: {shortened(_message(text), 600)}"
        if status in _CONNECT:
            return Unreachable(told)
        if status >= 500:
            return Failed(told)
        if status == 404 and "model" in text.lower():
            return Lacking(told)
        return EngineError(
            f"{told}. Start the server as docs/guides/vllm.md says (vLLM 0.32 with --enable-scale-out), or correct the "
            "recipe"
        )

    def answered(self) -> None:
        self.rest = self.resting = 0.0

    def failed(self) -> None:
        self.rest = min(max(FIRST_REST, 2 * self.rest), LONGEST_REST)
        self.resting = time.monotonic() + self.rest


def _message(text: str) -> str:
    """What an error says, in vLLM's words."""
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return text


class Servers:
    """All servers of a run, and the policy that each must hold before it is asked."""

    def __init__(self, urls: Sequence[str], *, timeout: float, patience: float) -> None:
        """
        Args:
            urls: addresses.
            timeout: seconds for one request.
            patience: seconds to wait where no server answers.
        """
        self.all = [Server(url=url.rstrip("/"), timeout=timeout) for url in urls]
        self._patience = patience
        self._noting = threading.Lock()

    def ask(self, call: Callable[[Server], T], *, first: int = 0) -> T:
        """What ``call`` gives with one of the servers: that number ``first``, or the next that answers.

        Args:
            call: raises what ``Server.post`` raises.
            first: spreads requests over the servers.

        Raises:
            EngineError: a request that is refused; or no server answers for longer than the run may wait.
        """
        order = [self.all[(first + offset) % len(self.all)] for offset in range(len(self.all))]
        faults: dict[str, str] = {}
        gone_since, tries = None, 0
        while True:
            awake = [server for server in order if time.monotonic() >= server.resting]
            for server in awake:
                try:
                    made = call(server)
                except Unreachable as error:
                    self._note(server, str(error), faults)
                except (Failed, Lacking) as error:
                    gone_since, tries, faults[server.url] = None, tries + 1, str(error)
                    _doubt(server, error, last=tries == TRIES * len(order))
                else:
                    server.answered()
                    return made
            gone_since = gone_since or time.monotonic()
            self._check_patience(time.monotonic() - gone_since, faults)
            time.sleep(0.05 if awake else 0.2)

    def _check_patience(self, seconds: float, faults: Mapping[str, str]) -> None:
        if seconds > self._patience:
            raise EngineError(
                f"no engine answered for {self._patience:g} s ({'; '.join(faults.values()) or 'all are resting'}). "
                "Start the servers again, and then the same command: it goes on from the last checkpoint"
            )

    def _note(self, server: Server, fault: str, faults: dict[str, str]) -> None:
        faults[server.url] = fault
        with self._noting:  # several requests may find it gone at once: it is told once
            first = not server.rest
            server.failed()
        if first:
            others = f", the other {len(self.all) - 1} do its work" if len(self.all) > 1 else ""
            _log.warning("Engine does not answer%s: %s", others, fault)


def _doubt(server: Server, error: Exception, *, last: bool) -> None:
    """After an answer that shows that a server failed, or lacks what it was given: it gets it again."""
    server.version = None
    if last:
        raise EngineError(
            f"{error}, again and again. Look at the log of the server, or leave it out of online.engine.urls"
        ) from error
    if isinstance(error, Failed):  # it may be about to end, and to be started again
        server.failed()

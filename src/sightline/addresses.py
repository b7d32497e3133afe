"""Several addresses of one service: who is asked next, when it is asked again, and who is left alone for a while.

The one place for tries, pauses and circuit breakers. What is sent, and what an answer means, is the caller's affair.
"""

from __future__ import annotations

import random
import threading
import time
import urllib.parse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

T = TypeVar("T")

FAILURES: Final = 3
"""Failures in a row after which an address is left alone while another one is there."""
FIRST_REST, LONGEST_REST = 1.0, 30.0
"""Seconds that it is left alone; twice as long each time that it fails again, until it answers."""


def shown_url(url: str) -> str:
    """An address without what may be secret in it: user, password and query.

    >>> shown_url("https://me:secret@host/v1?key=secret")
    'https://host/v1'
    """
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def check_url(url: str) -> str:
    """The address, if it can be asked.

    Raises:
        ValueError: It holds a user or a password, which nobody sends; does not show them.
    """
    if "@" in urllib.parse.urlsplit(url).netloc:
        raise ValueError(
            f"found a user or a password in the address {shown_url(url)}, which are not sent. Remove them; tokens and "
            "keys come from the environment (SIGHTLINE_TOKEN, OPENAI_API_KEY)"
        )
    return url


class Again(Exception):
    """A try that may go well next time, here or at another address."""

    def __init__(self, reason: str, wait: float | None = None, *, lasting: bool = False) -> None:
        """
        Args:
            reason: What happened.
            wait: Seconds for which the service asked not to be asked (``Retry-After``): nobody asks that address.
            lasting: It is the request that this answers, and not the state of the service.
        """
        super().__init__(reason)
        self.reason, self.wait, self.lasting = reason, wait, lasting
        self.url = ""
        """The address that was asked, where there are several."""


class GivenUp(Exception):
    """Every try failed. The message is that of the last one."""

    def __init__(self, last: Again, tries: int, *, url: str = "", stopped: bool = False) -> None:
        where = f"{shown_url(url)}: " if url else ""
        super().__init__(f"{where}{last.reason} ({'given up' if stopped else f'{tries} tries'})")
        self.last, self.tries = last, tries


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How often, and for how long, something is tried."""

    tries: int | None = None
    """In all; None: as often as the time allows."""
    seconds: float | None = None
    """After which nothing is tried again; None: there is no such time."""
    pause: float = 0.5
    """Seconds before the second try; doubled for each one after, half of it random."""
    longest: float = 30.0
    """Most seconds between two tries, whatever a service asks for."""

    def __post_init__(self) -> None:
        assert self.tries is not None or self.seconds is not None, "it would be tried for ever"


@dataclass(kw_only=True, eq=False)
class Address:
    """One address, and how it has done."""

    url: str
    busy: int = 0
    """Requests under way."""
    failures: int = 0
    """In a row."""
    resting: float = 0.0
    """Until when it is left alone where another one is awake, on the monotonic clock: the open circuit."""
    asked_for: float = 0.0
    """Until when it asked not to be asked at all."""

    def answered(self) -> None:
        """It is there again: the circuit closes."""
        self.failures, self.resting = 0, 0.0

    def failed(self, error: Again, longest: float) -> None:
        """One more failure; from the third in a row on it rests."""
        now = time.monotonic()
        if error.wait is not None:
            self.asked_for = max(self.asked_for, now + min(error.wait, longest))
        self.failures += 1
        if self.failures >= FAILURES:
            self.resting = now + min(FIRST_REST * 2 ** (self.failures - FAILURES), LONGEST_REST)

    def open(self, now: float) -> bool:
        """Whether it is to be left alone; of one whose rest is over a single request finds out whether it is back."""
        return now < self.resting or (self.failures >= FAILURES and self.busy > 0)


@dataclass(kw_only=True)
class Addresses:
    """Asks the address with the least to do, and another one where it fails. Safe to use from many threads.

    >>> Addresses(urls=["http://a", "http://b"]).ask(lambda url: url, Patience(tries=3))
    'http://a'
    """

    urls: Sequence[str]
    stop: threading.Event = field(default_factory=threading.Event, repr=False)
    """Set where the work is given up: nobody waits to try again."""
    _all: list[Address] = field(default_factory=list, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __post_init__(self) -> None:
        self._all = [Address(url=url) for url in self.urls]

    def ask(self, call: Callable[[str], T], patience: Patience) -> T:
        """What ``call`` gives with one of the addresses.

        Args:
            call: Asks the address that it is given; raises :class:`Again` where another try may go well. What else it
                raises goes through.
            patience: How often it is called.

        Raises:
            GivenUp: Every try failed.
        """
        ends = time.monotonic() + (float("inf") if patience.seconds is None else patience.seconds)
        pause, tries, failed = patience.pause, 0, set[str]()
        while True:
            tries += 1
            try:
                return self._once(call, patience, failed, ends)
            except Again as error:
                left = ends - time.monotonic()
                if self.stop.is_set() or tries == patience.tries or left <= 0:
                    raise GivenUp(error, tries, url=error.url, stopped=self.stop.is_set()) from error
            if self._another(failed):
                continue  # it is asked at once
            failed.clear()
            if self._another(failed):  # otherwise they say themselves how long nobody asks them
                self.stop.wait(min(pause * random.uniform(0.5, 1), patience.longest, left))
                pause = min(2 * pause, patience.longest)

    def _once(self, call: Callable[[str], T], patience: Patience, failed: set[str], ends: float) -> T:
        address, error = self._taken(failed, ends), None
        try:
            return call(address.url)
        except Again as again:
            error = again
            error.url = address.url if len(self._all) > 1 else ""
            failed.add(address.url)
            raise
        finally:
            with self._lock:
                address.busy -= 1
                if error is None or error.lasting:
                    address.answered()
                else:
                    address.failed(error, patience.longest)

    def _another(self, failed: set[str]) -> bool:
        """Whether there is an address that may be asked now and has not failed for this request."""
        with self._lock:
            now = time.monotonic()
            return any(one.asked_for <= now and one.url not in failed for one in self._all)

    def _taken(self, failed: set[str], ends: float) -> Address:
        """The address with the least to do among those that have not failed for this request, awake ones first. Waits
        while each of them asks not to be asked, but for a last try at the end of the time."""
        while True:
            with self._lock:
                now = time.monotonic()
                ready = [one for one in self._all if one.asked_for <= now]
                if ready or self.stop.is_set() or now >= ends:
                    found = min(ready or self._all, key=lambda one: (one.url in failed, one.open(now), one.busy))
                    found.busy += 1
                    return found
                wait = min([ends, *(one.asked_for for one in self._all)]) - now
            self.stop.wait(wait)

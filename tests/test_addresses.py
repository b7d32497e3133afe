"""Which of several addresses is asked, and when a service is asked again."""

import threading
import time
from types import SimpleNamespace

import pytest

from sightline.addresses import FAILURES, FIRST_REST, Addresses, Again, GivenUp, Patience

SOON = Patience(tries=4, pause=0.001)


def failing(*bad, calls=None, **options):
    def call(url):
        if calls is not None:
            calls.append(url)
        if url in bad:
            raise Again(f"{url} is away", **options)
        return url

    return call


def test_requests_go_to_the_address_with_the_least_to_do():
    together = threading.Barrier(4)

    def call(url):
        together.wait(60)
        return url

    addresses, found = Addresses(urls=["a", "b"]), []
    threads = [threading.Thread(target=lambda: found.append(addresses.ask(call, SOON))) for _ in range(4)]
    [thread.start() for thread in threads], [thread.join() for thread in threads]
    assert sorted(found) == ["a", "a", "b", "b"]


def test_another_address_is_asked_at_once_where_one_fails():
    started = time.monotonic()
    assert Addresses(urls=["a", "b"]).ask(failing("a"), Patience(tries=2, pause=60)) == "b"
    assert time.monotonic() - started < 25


def test_an_address_that_keeps_failing_is_left_alone_while_another_is_there():
    addresses, calls = Addresses(urls=["a", "b"]), []
    for _ in range(20):
        assert addresses.ask(failing("a", calls=calls), SOON) == "b"
    assert calls.count("a") == FAILURES


def test_an_address_comes_back_after_its_rest(monkeypatch):
    now = 100.0
    monkeypatch.setattr("sightline.addresses.time", SimpleNamespace(monotonic=lambda: now))
    addresses, calls = Addresses(urls=["a", "b"]), []
    for _ in range(5):
        addresses.ask(failing("a", calls=calls), SOON)
    assert calls.count("a") == FAILURES
    now += FIRST_REST
    assert addresses.ask(failing("b"), SOON) == "a"


def test_the_only_address_is_asked_although_it_failed():
    addresses, calls = Addresses(urls=["a"]), []
    for _ in range(3):
        with pytest.raises(GivenUp, match=r"^a is away \(4 tries\)$"):
            addresses.ask(failing("a", calls=calls), SOON)
    assert len(calls) == 12


def test_what_is_given_up_names_the_address_where_there_are_several_without_its_secrets():
    urls = ["http://me:secret@a/x?key=secret", "http://me:secret@b/x?key=secret"]

    def call(url):
        raise Again("HTTP 503")

    with pytest.raises(GivenUp, match=r"^http://[ab]/x: ") as told:
        Addresses(urls=urls).ask(call, SOON)
    assert "secret" not in str(told.value)


def test_a_service_that_asks_for_time_is_not_asked_before_but_by_no_longer_than_may_be_waited():
    times, addresses = [], Addresses(urls=["a"])

    def call(url):
        times.append(time.monotonic())
        if len(times) == 1:
            raise Again("busy", wait=0.2)
        return url

    assert addresses.ask(call, SOON) == "a" and times[1] - times[0] >= 0.2
    started = time.monotonic()
    with pytest.raises(GivenUp, match="2 tries"):
        Addresses(urls=["a"]).ask(failing("a", wait=3600.0), Patience(seconds=0.2, pause=0.01))
    assert time.monotonic() - started < 2


def test_other_errors_go_through_and_leave_nothing_busy():
    addresses = Addresses(urls=["a"])
    with pytest.raises(KeyError):
        addresses.ask(lambda url: {}[url], SOON)
    assert addresses._all[0].busy == 0 and addresses.ask(failing(), SOON) == "a"


def test_a_stop_ends_the_waiting():
    addresses = Addresses(urls=["a"])
    threading.Timer(0.05, addresses.stop.set).start()
    started = time.monotonic()
    with pytest.raises(GivenUp, match=r"a is away \(given up\)"):
        addresses.ask(failing("a"), Patience(seconds=60, pause=30))
    assert time.monotonic() - started < 2

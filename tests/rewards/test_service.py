"""A reward service: what it is sent, what may come back, and that one that dies and comes back loses nothing."""

import base64
import json
import time

import pytest
from answers import asked
from reward_server import RewardServer

from sightline.errors import DataError
from sightline.recipes.terms import ServiceSpec
from sightline.rewards.build import build_reward, build_term
from sightline.rewards.terms import Failure


def lengths(number, request):
    return 200, {"rewards": [float(len(answer["text"])) for answer in request["responses"]]}


def values(server, *groups, **options):
    spec = ServiceSpec(url=server.url, **({"patience": 0.01} | options))
    return build_term(spec).values(groups)


def test_a_group_is_one_request_and_its_answers_come_back_in_order(tmp_path):
    (tmp_path / "a.png").write_bytes(b"pixels")
    picture = str(tmp_path / "a.png")
    with RewardServer(lengths) as server:
        groups = [asked("four", "of", images=[picture], kind="x"), asked(), asked("a", id="q")]
        assert values(server, *groups) == [[4, 2], [], [1]]
        assert values(server, groups[0], pictures="base64") == [[4, 2]]
    sent = next(request for request in server.requests if request["id"] == "p")
    assert sent["prompts"][0]["facts"] == {"kind": "x"} and sent["prompts"][0]["images"] == [picture]
    assert sent["prompts"][0]["messages"] == [dict(groups[0].prompts[0].messages[0])]
    assert sent["responses"][0] == {"prompt": 0, "text": "four", "finish_reason": "stop", "tokens": None}
    assert server.requests[-1]["prompts"][0]["images"] == [base64.b64encode(b"pixels").decode()]
    assert len(server.requests) == 3


def test_requests_run_side_by_side_and_no_more_than_asked_for():
    def slow(number, request):
        time.sleep(0.05)
        return lengths(number, request)

    with RewardServer(slow) as server:
        groups = [asked("a" * n, id=str(n)) for n in range(1, 9)]
        assert values(server, *groups, workers=4) == [[float(n)] for n in range(1, 9)]
    assert 1 < server.most <= 4


def test_null_is_a_failure_and_never_a_zero():
    with RewardServer(lambda number, request: (200, {"rewards": [None, 0]})) as server:
        reward = build_reward({"own": ServiceSpec(url=server.url)})
        (group,) = reward.rewards([asked("a", "b")])
    assert [(r.reward, r.reward_error) for r in group.responses] == [(None, "own: the service gave null"), (0.0, None)]


@pytest.mark.parametrize("first", [(503, {}), (429, {}), (200, "no json"), (200, {"other": 1}), (200, [])])
def test_what_may_go_well_later_is_asked_again(first):
    def script(number, request):
        return first if number == 0 else lengths(number, request)

    with RewardServer(script) as server:
        assert values(server, asked("four"), patience=20.0) == [[4]]
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ((404, {}), "answered HTTP 404.*Correct its address"),
        ((200, {"rewards": [1, 2]}), r"answered \{\"rewards\": \[1, 2\]\} for 1 answers"),
        ((200, {"rewards": ["1"]}), "a number or null for each answer"),
        ((200, {"rewards": [True]}), "a number or null for each answer"),
        ((200, {"rewards": [float("nan")]}), "a number or null for each answer"),
    ],
)
def test_what_will_never_go_well_ends_the_work(reply, words):
    with RewardServer(lambda number, request: reply) as server, pytest.raises(DataError, match=words):
        values(server, asked("a"), patience=20.0)


def test_a_refused_request_fails_its_answers_alone():
    def script(number, request):
        return (400, {"why": "too long"}) if request["id"] == "bad" else lengths(number, request)

    with RewardServer(script) as server:
        bad, good = values(server, asked("a", id="bad"), asked("a", id="good"), patience=20.0)
    assert good == [1.0] and isinstance(bad[0], Failure) and "HTTP 400" in bad[0].reason and "too long" in bad[0].reason


def test_a_service_that_stays_away_fails_its_answers_after_its_patience():
    with RewardServer(lengths) as server:
        pass
    started = time.monotonic()
    ((failed,),) = values(server, asked("a"), patience=0.3)
    assert 0.3 <= time.monotonic() - started < 60  # and not the ten minutes of the default
    assert isinstance(failed, Failure) and "refused" in failed.reason and "tries" in failed.reason


def test_a_service_that_says_nothing_runs_into_its_time_out():
    def silent(number, request):
        time.sleep(1.0)
        return lengths(number, request)

    with RewardServer(silent) as server:
        ((failed,),) = values(server, asked("a"), timeout=0.1, patience=0.05)
    assert isinstance(failed, Failure) and "timed out" in failed.reason


def test_a_picture_that_is_missing_is_named():
    with RewardServer(lengths) as server, pytest.raises(DataError, match=r"no\.png: cannot be read"):
        values(server, asked("a", images=["no.png"]), pictures="base64")


def test_the_body_is_plain_json():
    with RewardServer(lengths) as server:
        values(server, asked("a\udcff", kind={"n": [1, None]}))
    assert json.dumps(server.requests[0])

"""Judges: retries, limits, cache, record and replay, against a server that misbehaves on purpose."""

import base64
import json
import time
from pathlib import Path

import pytest
from fake_judge import FakeJudge, body

from sightline.errors import DataError
from sightline.evaluation.bench import JudgeReply, JudgeRequest
from sightline.evaluation.judge import JudgeClient, Prices, cache_key, load_judge
from sightline.evaluation.judges.endpoint import EndpointBackend, endpoint_from
from sightline.evaluation.judges.local import LocalBackend
from sightline.evaluation.judges.replay import ReplayBackend
from sightline.types import Response


def request(number=0, **changed):
    values = {"id": f"q{number}", "messages": [{"role": "user", "content": f"rate answer {number}"}]}
    return JudgeRequest(**{**values, **changed})


def client(fake, cache=None, record=None, prices=None, **options):
    backend = EndpointBackend(**{"name": "m", "url": fake.url, "tries": 3, "timeout": 5, "backoff": 0.01, **options})
    return JudgeClient(backend, cache=cache, record=record, prices=prices)


def always(text, **changed):
    return lambda number, asked: (200, {}, body(text, **changed), 0)


def test_replies_come_in_the_order_of_the_requests_whatever_comes_first():
    def script(number, asked):
        which = int(asked["messages"][-1]["content"].split()[-1])
        return 200, {}, body(f"Rating: {which}"), 0.01 * (5 - which)

    with FakeJudge(script) as fake:
        judge = client(fake)
        assert [reply.text for reply in judge.ask([request(n) for n in range(6)])] == [f"Rating: {n}" for n in range(6)]
    assert fake.requests[0] == {
        "model": "m",
        "messages": fake.requests[0]["messages"],
        "temperature": 0.0,
        "max_tokens": 1024,
    }


def test_what_fails_once_is_asked_again_and_counted():
    def script(number, asked):
        return (200, {}, body("fine"), 0) if number else (503, {}, b"busy", 0)

    with FakeJudge(script) as fake:
        judge = client(fake)
        assert judge.ask([request(0), request(1)]) == [JudgeReply(text="fine")] * 2
    assert (judge.usage.retries, judge.usage.failed, len(fake.requests)) == (2, 0, 4)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ((500, {}, b"broken", 0), "HTTP 500: broken"),
        ((200, {}, b"<html>", 0), "cannot be read (JSONDecodeError)"),
        ((200, {}, {"choices": []}, 0), "cannot be read (IndexError)"),
        ((200, {}, {"error": "overloaded"}, 0), "cannot be read (KeyError)"),
        ((200, {}, body("  "), 0), "the reply is empty"),
        ((200, {"Content-Length": 500}, b'{"choices": [', 0), "IncompleteRead"),
        ((200, {}, body("late"), 0.5), "timed out"),
    ],
    ids=["failing", "malformed", "no choice", "an error as 200", "empty", "cut in the middle", "slow"],
)
def test_what_always_fails_ends_as_a_failure_never_as_a_score(answer, error, tmp_path):
    status, headers, content, seconds = answer
    with FakeJudge(lambda number, asked: (status, dict(headers), content, seconds)) as fake:
        judge = client(fake, cache=tmp_path, timeout=0.1 if seconds else 5)
        (reply,) = judge.ask([request()])
    assert reply.text is None and error in reply.error and "(3 tries)" in reply.error
    assert (judge.usage.failed, judge.usage.requests, len(fake.requests)) == (1, 1, 3)
    assert judge.errors == [f"q0: {reply.error}"] and judge.facts()["failed"] == 1
    assert not list(tmp_path.rglob("*.json"))


def test_a_wrong_request_is_not_tried_again():
    with FakeJudge(lambda number, asked: (400, {}, b"too long", 0)) as fake:
        (reply,) = client(fake).ask([request()])
    assert reply == JudgeReply(text=None, error="HTTP 400: too long") and len(fake.requests) == 1


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refused_key_address_or_model_stops_at_once(status):
    with FakeJudge(lambda number, asked: (status, {}, b"no", 0)) as fake:
        with pytest.raises(DataError, match=f"the judge answered {status}: no. Correct the key"):
            client(fake, workers=2).ask([request(n) for n in range(50)])
        assert len(fake.requests) <= 4


def test_a_rate_limit_holds_all_workers_for_as_long_as_the_server_says():
    times = []

    def script(number, asked):
        times.append(time.monotonic())
        if len(times) == 1:
            return 429, {"Retry-After": "0.3"}, b"slow down", 0
        return 200, {}, body("ok"), 0

    with FakeJudge(script) as fake:
        judge = client(fake, workers=1)
        assert [reply.text for reply in judge.ask([request(0), request(1)])] == ["ok", "ok"]
    assert times[1] - times[0] >= 0.3
    assert judge.usage.retries == 1


def test_no_wait_is_longer_than_the_limit():
    def script(number, asked):
        return (200, {}, body("ok"), 0) if number else (429, {"Retry-After": "3600"}, b"", 0)

    with FakeJudge(script) as fake:
        began = time.monotonic()
        assert client(fake, longest_wait=0.1).ask([request()])[0].text == "ok"
    assert 0.1 <= time.monotonic() - began < 3


def test_no_more_requests_are_under_way_than_workers():
    with FakeJudge(lambda number, asked: (200, {}, body("ok"), 0.02)) as fake:
        client(fake, workers=3).ask([request(n) for n in range(12)])
    assert fake.most == 3


def test_a_cut_reply_is_handed_over_and_marked():
    with FakeJudge(always("The answer is", finish="length")) as fake:
        judge = client(fake)
        assert judge.ask([request()]) == [JudgeReply(text="The answer is", cut=True)]
    assert judge.usage.cut == 1


def test_the_cache_saves_requests_and_knows_what_makes_them_different(tmp_path, pictures):
    with FakeJudge(always("8 9")) as fake:
        client(fake, cache=tmp_path).ask([request(0), request(1)])
        again = client(fake, cache=tmp_path)
        renamed = request(0, id="another id")
        assert [reply.text for reply in again.ask([request(1), renamed])] == ["8 9", "8 9"]
        assert (again.usage.cached, again.usage.prompt_tokens, len(fake.requests)) == (2, 0, 2)
        for changed in ({"temperature": 0.2}, {"max_tokens": 9}, {"attempt": 1}, {"images": [pictures[0]]}):
            again.ask([request(0, **changed)])
        client(fake, cache=tmp_path, name="other").ask([request(0)])
    assert len(fake.requests) == 7
    assert cache_key("m", request(images=[pictures[0]])) != cache_key("m", request(images=[pictures[1]]))


def test_failures_are_asked_again_by_the_next_run(tmp_path):
    with FakeJudge(lambda number, asked: (200, {}, body("ok"), 0) if number > 2 else (500, {}, b"", 0)) as fake:
        assert client(fake, cache=tmp_path).ask([request()])[0].text is None
        assert client(fake, cache=tmp_path).ask([request()])[0].text == "ok"


def test_tokens_are_counted_and_priced():
    with FakeJudge(always("ok", prompt_tokens=1000, completion_tokens=200)) as fake:
        judge = client(fake, prices=Prices(prompt=2.0, completion=10.0))
        judge.ask([request(n) for n in range(3)])
    facts = judge.facts()
    assert (facts["prompt_tokens"], facts["completion_tokens"]) == (3000, 600)
    assert facts["cost"] == pytest.approx(3000 * 2e-6 + 600 * 10e-6)


def test_pictures_travel_before_the_text_of_the_last_message(pictures):
    with FakeJudge(always("A")) as fake:
        client(fake).ask([request(images=pictures[:2])])
    first, _, text = fake.requests[0]["messages"][-1]["content"]
    kind, _, data = first["image_url"]["url"].partition(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(data) == Path(pictures[0]).read_bytes()
    assert text == {"type": "text", "text": "rate answer 0"}


def test_a_record_replays_without_the_judge(tmp_path):
    record = tmp_path / "judge.jsonl"

    def script(number, asked):
        which = asked["messages"][-1]["content"]
        return (500, {}, b"", 0) if which.endswith("1") else (200, {}, body(f"for {which}"), 0)

    with FakeJudge(script) as fake:
        first = client(fake, record=record).ask([request(0), request(1), request(0, attempt=1)])
    replayed = load_judge(f"replay:{record}")
    assert replayed.name == "m"
    again = replayed.ask([request(0), request(1), request(0, attempt=1)])
    texts = ["for rate answer 0", None, "for rate answer 0"]
    assert [reply.text for reply in first] == [reply.text for reply in again] == texts
    assert replayed.usage.failed == 1

    with record.open("a") as file:  # a later success counts, a later failure does not undo one
        file.write(json.dumps({"id": "q1", "text": "at last"}) + "\n" + json.dumps({"id": "q0", "text": None}) + "\n")
    assert [reply.text for reply in JudgeClient(ReplayBackend(record)).ask([request(0), request(1)])] == [
        "for rate answer 0",
        "at last",
    ]
    assert JudgeClient(ReplayBackend(record)).ask([request(9)])[0].error == "no reply is stored for this request"


def test_a_broken_record_is_named(tmp_path):
    path = tmp_path / "judge.jsonl"
    path.write_text('{"id": 1, "text": "a"}\n{"id": 2}\n{"text": "b"}\n')
    with pytest.raises(DataError, match=r"judge.jsonl:3: found keys text. Write"):
        ReplayBackend(path)
    with pytest.raises(DataError, match=r"none.jsonl: cannot be read"):
        ReplayBackend(tmp_path / "none.jsonl")


def test_address_key_and_model_come_from_options_or_from_known_names():
    empty = {"url": "", "model": "", "key": "", "timeout": 1, "tries": 1, "workers": 1}
    environment = {"OPENAI_API_KEY": "k", "OPENAI_API_BASE": "http://b/v1/chat/completions", "MODEL_VERSION": "gpt"}
    found = endpoint_from(empty, environment)
    assert (found.url, found.key, found.name) == ("http://b/v1/chat/completions", "k", "gpt")
    assert "k'" not in repr(found)
    own = endpoint_from({**empty, "url": "http://mine", "model": "m"}, environment)
    assert (own.url, own.name) == ("http://mine", "m")
    with pytest.raises(DataError, match="the judge has no model"):
        endpoint_from(empty, {})
    with pytest.raises(DataError, match=r"the judge has no key. Set OPENAI_API_KEY"):
        endpoint_from({**empty, "model": "m"}, {})


def test_the_key_is_sent_and_a_full_address_is_taken_as_it_is():
    with FakeJudge(always("ok")) as fake:
        client(fake, key="secret", url=f"{fake.url}/chat/completions").ask([request()])
    assert fake.headers[0]["Authorization"] == "Bearer secret"


def test_unknown_judges_and_options_are_named():
    with pytest.raises(DataError, match=r"there is no judge 'gpt'. Write openai"):
        load_judge("gpt")
    with pytest.raises(DataError, match=r"unknown options retries. Known are batch_size"):
        load_judge("openai:m", {"retries": 3})


class Engine:
    """Says how it was asked; answers ``empty`` with nothing."""

    def __init__(self):
        self.calls = []

    def generate(self, groups, sampling, *, seed, on_progress=None):
        self.calls.append((sampling.temperature, sampling.max_new_tokens, seed, len(groups)))
        out = []
        for group in groups:
            text = group.prompts[0].messages[-1]["content"][-1]["text"]
            said = "" if text == "empty" else f"{len(group.prompts[0].images)} pictures: {text}"
            out.append(
                type(group)(
                    prompts=group.prompts, responses=(Response(text=said, tokens=(1, 2), finish_reason="length"),)
                )
            )
        return out


def test_a_local_model_judges_in_batches_of_like_requests(pictures):
    engine = Engine()
    judge = JudgeClient(LocalBackend(engine, name="tiny", batch_size=2))
    asked = [
        request(0),
        request(1, temperature=0.2),
        request(2, images=[pictures[0]]),
        request(3),
        request(4, messages=[{"role": "user", "content": "empty"}]),
        request(5, attempt=2),
    ]
    replies = judge.ask(asked)
    assert replies[2] == JudgeReply(text="1 pictures: rate answer 2", cut=True)
    assert replies[4] == JudgeReply(text=None, error="the reply is empty")
    assert engine.calls == [(0.0, 1024, 0, 2), (0.0, 1024, 0, 2), (0.2, 1024, 0, 1), (0.0, 1024, 2, 1)]
    assert (judge.usage.failed, judge.usage.completion_tokens) == (1, 12)

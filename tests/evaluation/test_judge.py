"""Judges: retries, limits, cache, record and replay, against a server that misbehaves on purpose."""

import base64
import contextlib
import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fake_judge import FakeJudge, body
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from sightline.errors import DataError, RecipeError
from sightline.evaluation.bench import JudgeReply, JudgeRequest
from sightline.evaluation.judge import JudgeClient, Prices, cache_key, load_judge
from sightline.evaluation.judges.endpoint import PATIENCE, EndpointBackend, endpoint_from
from sightline.evaluation.judges.local import LocalBackend
from sightline.evaluation.judges.replay import ReplayBackend
from sightline.types import Response
from tiny_models import _llava_tokenizer


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
        ((200, {}, {"choices": []}, 0), "cannot be read (ValueError)"),
        ((200, {}, {"error": "overloaded"}, 0), "the body holds an error: overloaded"),
        ((200, {}, {**body("incorrect gateway"), "error": {"code": 502}}, 0), "the body holds an error: {'code': 502}"),
        ((200, {}, body("  "), 0), "the reply is empty"),
        ((200, {}, body(None, finish="content_filter"), 0), "the reply was stopped by a filter"),
        ((200, {}, body("Rating: 4, but", finish="content_filter"), 0), "the reply was stopped by a filter"),
        ((200, {}, body("", finish="length"), 0), "the reply is empty (length)"),
        ((200, {}, [1], 0), "cannot be read (AttributeError)"),
        ((200, {}, {"choices": {"0": 1}}, 0), "cannot be read (AttributeError)"),
        ((200, {}, {"choices": [{"message": "hm"}]}, 0), "cannot be read (TypeError)"),
        ((200, {}, body(["Rating: 4"]), 0), "cannot be read (AttributeError)"),
        ((200, {}, body([{"text": 4}]), 0), "cannot be read (TypeError)"),
        ((200, {}, body({"text": "Rating: 4"}), 0), "the reply is empty"),
        ((200, {}, b"\xff\xfe{", 0), "cannot be read"),
        ((200, {}, b"[" * 100_000, 0), "cannot be read (RecursionError)"),
        ((500, {"Content-Length": 500}, b"brok", 0), "HTTP 500"),
        ((200, {"Content-Length": 500}, b'{"choices": [', 0), "IncompleteRead"),
        ((200, {}, body("late"), 0.5), "timed out"),
    ],
    ids=[
        *("failing", "malformed", "no choice", "an error as 200", "an error as a reply", "empty", "filtered"),
        *("filtered half way", "thinks too long", "a list"),
        *("choices by name", "no message", "parts of text", "a number", "an object", "no text"),
        *("too deep", "an error that is cut", "cut in the middle", "slow"),
    ],
)
def test_what_always_fails_ends_as_a_failure_never_as_a_score(answer, error, tmp_path):
    status, headers, content, seconds = answer
    with FakeJudge(lambda number, asked: (status, dict(headers), content, seconds)) as fake:
        judge = client(fake, cache=tmp_path, timeout=0.1 if seconds else 5)
        (reply,) = judge.ask([request()])
        until = time.monotonic() + 30
        while len(fake.requests) < 3 and time.monotonic() < until:  # it may read what is given up already
            time.sleep(0.01)
    assert reply.text is None and error in reply.error and "(3 tries)" in reply.error
    assert (judge.usage.failed, judge.usage.requests, len(fake.requests)) == (1, 1, 3)
    assert judge.errors == [f"q0: {reply.error}"] and judge.facts()["failed"] == 1
    assert not list(tmp_path.rglob("*.json"))


def test_of_several_choices_the_first_is_read_and_other_words_for_a_limit_are_understood():
    choices = [{"index": 1, "message": {"content": "b"}}, {"message": {"content": "a"}, "finish_reason": "max_tokens"}]
    with FakeJudge(lambda number, asked: (200, {}, {"choices": choices}, 0)) as fake:
        judge = client(fake)
        assert judge.ask([request()]) == [JudgeReply(text="a", cut=True)] and judge.usage.cut == 1


@pytest.mark.parametrize("content", [b"Bearer s3cret", b'{"error": "Bearer s3cret"}', b" " * 88 + b"Bearer s3cret"])
def test_a_body_that_echoes_the_key_does_not_show_it(content):
    with FakeJudge(lambda number, asked: (200, {}, content, 0)) as fake:
        (reply,) = client(fake, key="s3cret").ask([request()])
    assert "Bearer ***" in reply.error and "s3" not in reply.error


def test_a_wrong_request_is_not_tried_again():
    with FakeJudge(lambda number, asked: (400, {}, b"too long", 0)) as fake:
        (reply,) = client(fake).ask([request()])
    assert reply == JudgeReply(text=None, error="HTTP 400: too long", final=True) and len(fake.requests) == 1


def test_a_403_for_one_request_is_one_failure():
    """A filter refuses one answer; a wrong key refuses all."""

    def script(number, asked):
        filtered = asked["messages"][-1]["content"].endswith(" 2")
        return (403, {}, b"filtered", 0) if filtered else (200, {}, body("fine"), 0)

    with FakeJudge(script) as fake:
        replies = client(fake).ask([request(n) for n in range(5)])
        assert [reply.text for reply in replies] == ["fine", "fine", None, "fine", "fine"]
        assert replies[2].error == "HTTP 403: filtered" and len(fake.requests) == 5
    with FakeJudge(lambda number, asked: (403, {}, b"no", 0)) as fake:
        with pytest.raises(DataError, match=r"answered none of 1[67] requests \(HTTP 403: no\)"):
            client(fake, workers=2).ask([request(n) for n in range(50)])
        assert len(fake.requests) <= PATIENCE + 2


@pytest.mark.parametrize("status", [401, 402, 404])
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


def test_a_reply_with_line_ends_of_unicode_replays(tmp_path):
    said = "Rating: 5\u2028because\x85of\x0bthis\r\n"
    with FakeJudge(always(said)) as fake:
        client(fake, record=tmp_path / "judge.jsonl").ask([request(0), request(1)])
    replayed = JudgeClient(ReplayBackend(tmp_path / "judge.jsonl")).ask([request(0), request(1)])
    assert [reply.text for reply in replayed] == [said, said]


def test_a_broken_record_is_named(tmp_path):
    path = tmp_path / "judge.jsonl"
    path.write_text('{"id": 1, "text": "a"}\n{"id": 2}\n{"text": "b"}\n')
    with pytest.raises(DataError, match=r"judge.jsonl:3: found keys text. Write"):
        ReplayBackend(path)
    with pytest.raises(DataError, match=r"none.jsonl: cannot be read"):
        ReplayBackend(tmp_path / "none.jsonl")


def test_address_key_and_model_come_from_options_or_from_known_names():
    empty = {"url": "", "model": "", "key": "", "timeout": 1, "tries": 1, "workers": 1, "parameters": None}
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

    def read(self, group):
        return tuple(range(10 + len(group.prompts[0].images)))

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
    judge = JudgeClient(LocalBackend(lambda: engine, name="tiny", batch_size=2))
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
    assert replies[4] == JudgeReply(text=None, error="the reply is empty", final=True)
    assert engine.calls == [(0.0, 1024, 0, 2), (0.0, 1024, 0, 2), (0.2, 1024, 0, 1), (0.0, 1024, 2, 1)]
    assert (judge.usage.failed, judge.usage.prompt_tokens, judge.usage.completion_tokens) == (1, 61, 12)


def test_a_reply_that_trickles_ends_at_the_time_limit():
    class Trickle(FakeJudge):
        def serve(self, handler):
            self.requests.append(json.loads(handler.rfile.read(int(handler.headers["Content-Length"]))))
            handler.send_response(200)
            handler.send_header("Content-Length", "1000")
            handler.end_headers()
            with contextlib.suppress(OSError):
                for _ in range(1000):
                    handler.wfile.write(b" ")
                    time.sleep(0.05)

    with Trickle(None) as fake:
        began = time.monotonic()
        (reply,) = client(fake, timeout=0.2, tries=1).ask([request()])
    assert "timed out within the reply" in reply.error and time.monotonic() - began < 30


@pytest.mark.parametrize(
    ("content", "text", "tokens"),
    [
        ({"content": [{"type": "text", "text": "Rating: "}, {"type": "text", "text": "4"}]}, "Rating: 4", 0),
        ({"content": "Rating: 4"}, "Rating: 4", 7),
    ],
)
def test_replies_in_parts_and_servers_that_do_not_count(content, text, tokens):
    usage = {"prompt_tokens": tokens, "completion_tokens": "many"} if tokens else ["?"]
    answer = {"choices": [{"message": content}], "usage": usage}
    with FakeJudge(lambda *_: (200, {}, answer, 0)) as fake:
        judge = client(fake)
        assert judge.ask([request()]) == [JudgeReply(text=text)]
    assert (judge.usage.prompt_tokens, judge.usage.completion_tokens) == (tokens, 0)


def test_a_judge_that_never_answers_is_given_up_soon():
    with FakeJudge(lambda *_: (503, {}, b"", 0)) as fake:
        judge = client(fake, tries=2, workers=4)
        with pytest.raises(DataError, match=r"answered none of 1[6-9] requests \(HTTP 503:  \(2 tries\)\). Check that"):
            judge.ask([request(n) for n in range(500)])
        assert 2 * PATIENCE <= len(fake.requests) <= 2 * (PATIENCE + 2 * 4)


def test_one_answer_is_enough_to_go_on():
    def script(number, asked):
        good = asked["messages"][-1]["content"].endswith(" 0")
        return (200, {}, body("ok"), 0) if good else (400, {}, b"", 0)

    with FakeJudge(script) as fake:
        judge = client(fake, workers=2)
        judge.ask([request(n) for n in range(40)])
    assert (judge.usage.failed, len(fake.requests)) == (39, 40)


def test_what_was_paid_for_is_kept_when_the_key_is_refused(tmp_path):
    def script(number, asked):
        which = int(asked["messages"][-1]["content"].split()[-1])
        return (401, {}, b"expired", 0.1) if which == 2 else (200, {}, body("ok"), 0.3)

    with FakeJudge(script) as fake, pytest.raises(DataError, match="the judge answered 401: expired"):
        client(fake, cache=tmp_path, workers=4).ask([request(n) for n in range(4)])
    assert len(list(tmp_path.rglob("*.json"))) == 3


def test_giving_up_does_not_wait_for_pauses():
    def script(number, asked):
        refused = asked["messages"][-1]["content"].endswith(" 1")
        return (401, {}, b"no", 0.2) if refused else (503, {}, b"", 0)

    with FakeJudge(script) as fake:
        began = time.monotonic()
        with pytest.raises(DataError, match="401"):
            client(fake, workers=2, backoff=30, tries=6).ask([request(0), request(1)])
    assert time.monotonic() - began < 3


def test_parameters_reach_the_server_and_part_the_cache(tmp_path):
    own = {"max_tokens": None, "max_completion_tokens": 900, "seed": 3}
    with FakeJudge(always("ok")) as fake:
        client(fake, cache=tmp_path, parameters=own).ask([request()])
        client(fake, cache=tmp_path, parameters=own).ask([request()])
        client(fake, cache=tmp_path).ask([request()])
        client(fake, cache=tmp_path, url=f"{fake.url}/chat/completions").ask([request()])
        client(fake, cache=tmp_path, url=fake.url.replace("127.0.0.1", "localhost")).ask([request()])
    assert len(fake.requests) == 3, "the second and the fourth came from the cache"
    assert {name: fake.requests[0][name] for name in own if name != "max_tokens"} == {
        "max_completion_tokens": 900,
        "seed": 3,
    }
    assert "max_tokens" not in fake.requests[0] and fake.requests[1]["max_tokens"] == 1024


def test_a_damaged_entry_of_the_cache_is_asked_for_again(tmp_path):
    with FakeJudge(always("ok")) as fake:
        client(fake, cache=tmp_path).ask([request()])
        (entry,) = tmp_path.rglob("*.json")
        entry.write_text('{"judge": "m", "te')
        assert client(fake, cache=tmp_path).ask([request()])[0].text == "ok"
        assert len(fake.requests) == 2 and json.loads(entry.read_text())["text"] == "ok"


def test_a_record_replays_for_the_same_words_only_and_not_from_the_cache(tmp_path):
    record = tmp_path / "judge.jsonl"
    with FakeJudge(always("Rating: 6")) as fake:
        client(fake, cache=tmp_path / "cache", record=record).ask([request()])
    record.write_text(record.read_text().replace("Rating: 6", "Rating: 2"))
    again = load_judge(f"replay:{record}", cache=tmp_path / "cache")
    assert again.ask([request()])[0].text == "Rating: 2"
    other = request(messages=[{"role": "user", "content": "rate another answer"}])
    (reply,) = again.ask([other])
    assert reply.text is None and "the stored reply is to other words" in reply.error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "localhost:8000"}, "localhost:8000: is no address of a judge. Write http"),
        ({"url": "http://x", "tries": 0}, "the judge option tries is 0. Give a number above 0"),
        ({"url": "http://x", "tries": 0.5}, "the judge option tries is 0.5. Give a whole number above 0"),
        ({"url": "http://x", "workers": 2.5}, "the judge option workers is 2.5. Give a whole number above 0"),
        ({"url": "http://x", "workers": "many"}, "the judge option workers is 'many'"),
        ({"url": "http://x", "parameters": 1}, "the judge option parameters is 1. Write --judge-option"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options, message):
    with pytest.raises(DataError, match=message):
        load_judge("openai:m", options)


# --- a language model that sees no pictures ------------------------------------------------------


@pytest.fixture(scope="module")
def language_model(tmp_path_factory):
    """A tiny Llama with a chat template, in half of its words random."""
    folder = tmp_path_factory.mktemp("judge") / "llama"
    torch.manual_seed(0)
    tokenizer = _llava_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=256,
        initializer_range=0.5,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_language_model_judges_text_as_generate_does_whatever_the_batch(language_model, pictures, tmp_path):
    asked = [
        request(0),
        request(1, messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Rate: yes"}]),
        request(2, messages=[{"role": "user", "content": "a much longer question " * 4}]),
    ]
    asked = [replace(one, max_tokens=12) for one in asked]
    judge = load_judge(f"local:{language_model}", {"batch_size": 3}, cache=tmp_path)
    replies = judge.ask(asked)
    model = LlamaForCausalLM.from_pretrained(language_model)
    tokenizer = AutoTokenizer.from_pretrained(language_model)
    for one, reply in zip(asked, replies, strict=True):
        chat = "".join(f"{m['role']}: {m['content']}\n" for m in one.messages) + "assistant:"
        ids = tokenizer(chat, return_tensors="pt").input_ids
        expected = model.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=0)[0, ids.shape[1] :]
        assert reply.text == tokenizer.decode(expected, skip_special_tokens=True).strip()
    assert judge.usage.completion_tokens > 12
    assert load_judge(f"local:{language_model}", {"batch_size": 1}).ask(asked) == replies

    warm = [replace(one, temperature=1.0, attempt=1) for one in asked]
    drawn = load_judge(f"local:{language_model}", {"batch_size": 3}).ask(warm)
    assert drawn == load_judge(f"local:{language_model}", {"batch_size": 1}).ask(warm) and drawn != replies

    shown, long = request(3, images=[pictures[0]]), request(4, messages=[{"role": "user", "content": "x" * 300}])
    failed = load_judge(f"local:{language_model}").ask(
        [*asked, replace(shown, max_tokens=12), replace(long, max_tokens=12)]
    )
    assert failed[:3] == replies
    assert "sees no pictures" in failed[3].error and "exceeds the model's 256" in failed[4].error


def test_a_local_judge_that_is_not_there_is_said_at_once(language_model, tmp_path):
    with pytest.raises(RecipeError, match=r"no model could be loaded .*no config\.json"):
        load_judge(f"local:{tmp_path}")
    bare = tmp_path / "bare"
    shutil.copytree(language_model, bare)
    (bare / "chat_template.jinja").unlink()
    with pytest.raises(RecipeError, match="has no chat template"):
        load_judge(f"local:{bare}").ask([request()])

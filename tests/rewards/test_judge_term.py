"""A judge as a reward: scores, yes and no, probabilities; what it does not say is a failure."""

import json
import math
from dataclasses import replace

import pytest
from answers import asked
from fake_judge import FakeJudge, body

from sightline.errors import DataError
from sightline.recipes.terms import JudgeSpec
from sightline.rewards.build import build_reward, build_term
from sightline.rewards.judge import read_score, read_yes_no
from sightline.rewards.terms import Failure


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("Score: 7", 7), ("**Score:** 7.5/10", 7.5), ("It is wrong in 2 places.\nScore: 3", 3), ("8 out of 10", 8),
        ("Score: 4. No, the rating is 5", 5), ("9", 9), ("Score: 10/10", 10), ("3 or 4", None), ("", None),
        ("good", None),
        ("Score: 11", None), ("Score: -1", None),
        ("Score: 4/5", None), ("Score: 60%", None), ("Score: 6 / 100", None), ("Score: 7 of 10", 7), ("Score: 7.", 7),
        ("Score: 7-8", None), ("Score: 7 or 8", None), ("Score: 7 to 8", None), ("Score: 7,5", None),
        ("Score: 1e1", None), ("Score: 7, 2 things are wrong", 7), ("Score: 7 - 2 things are wrong", 7),
        ("The score is 7 to be fair", 7),
        ("Score: 8.", 8), ("Score: [[8]]", 8), ("8 / 10", 8), ("Rating: 7 out of 10", 7), ("I would give it an 8", 8),
        ("2 errors. Score - 8", 8), ("10", 10), ("Score: 10/10 - perfect", 10), ('{"score": 8}', 8),
        ('{"score": "8", "reason": "the score is 2 below the best"}', 8), ('{"score": 8, "max_score": 10}', 8),
        ("Score: 8.0/10.0", 8), ("Two of 3 are wrong. Score (0-10): 8", 8), ("**8**/**10**", 8), ("Score: 8%", None),
        ("On a scale of 0 to 10, it is an 8.", 8), ("8 out of a possible 10", 8), ("8%", None), ("Score: .5", 0.5),
        ("<score>8</score><reason>2 errors</reason>", 8), ("The maximum score is 10, and this is a 7", None),
        ("Score: 7 - 8", None), ("Score: 7 - 8.", None), ("Score: 8 (9 if one is kind)", 8), ("Score: -8", None),
    ],
)  # fmt: skip
def test_the_score_of_a_reply(reply, score):
    assert read_score(reply, 0, 10) == score


def test_per_cent_are_the_points_of_a_scale_to_a_hundred():
    assert read_score("Score: 85%", 0, 100) == read_score("85 %", 0, 100) == read_score("Score: 85/100", 0, 100) == 85
    assert read_score("Score: 0.8/1.0", 0, 1) == read_score("Score: .8", 0, 1) == 0.8


def test_yes_and_no_of_a_reply():
    replies = ("Yes", "**No**, it is not", "yes, no doubt", "It is wrong: no.", "perhaps", "yes or no")
    assert [read_yes_no(reply) for reply in replies[:4]] == [1, 0, 1, 0]
    assert [read_yes_no(reply) for reply in replies[4:]] == [None, None]
    assert read_yes_no("Is it right (yes/no)? Yes") == 1 and read_yes_no("Right [yes or no]: no") == 0
    assert read_yes_no("It is yes and no") is None and read_yes_no("Yes and no.") is None


def replayed(folder, replies, **options):
    path = folder / "replies.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in replies))
    return build_term(JudgeSpec(judge=f"replay:{path}", **options))


def test_scores_are_scaled_to_one_and_an_unread_reply_is_asked_for_again(tmp_path):
    replies = [
        {"id": "p/0", "text": "Score: 4"},
        {"id": "p/1", "text": "hm"},
        {"id": "p/1", "text": "Score: 1", "attempt": 1},
        {"id": "p/2", "text": "good"},
        {"id": "p/2", "text": "very good", "attempt": 1},
    ]
    found = replayed(tmp_path, replies, lowest=1, highest=5).values([asked("a", "b", "c", "d")])[0]
    assert found[:2] == [0.75, 0.0]
    assert isinstance(found[2], Failure) and "no verdict in 'very good'" in found[2].reason
    assert isinstance(found[3], Failure) and "no reply is stored" in found[3].reason


def test_samples_are_averaged_into_a_probability_and_one_that_fails_fails_all(tmp_path):
    said = ["yes", "no", "yes", "yes"]
    replies = [{"id": "p/0", "text": text, "attempt": 2 * n} for n, text in enumerate(said)]
    replies += [{"id": "p/1", "text": "yes", "attempt": 2 * n} for n in range(3)]
    term = replayed(tmp_path, replies, asks="yes_no", samples=4, temperature=1.0)
    first, second = term.values([asked("a", "b")])[0]
    assert first == 0.75 and isinstance(second, Failure)


def judged(server, **options):
    given = {"url": server.url, "model": "m", "tries": 1}
    return JudgeSpec(judge="openai", options=given, **options)


def test_the_judge_is_shown_question_answer_facts_and_pictures(pictures):
    with FakeJudge(lambda *_: (200, {}, body("Score: 10"), 0)) as server:
        term = build_term(judged(server, facts=("captions",)))
        assert term.values([asked("A dog.", images=[pictures[0]], captions=["It barks."], secret="no")]) == [[1.0]]
    *_, last = server.requests[0]["messages"]
    text = last["content"][-1]["text"]
    assert last["content"][0]["type"] == "image_url"
    assert all(part in text for part in ("What is it?", "A dog.", 'captions: ["It barks."]', "from 0", "to 10"))
    assert "secret" not in text and "{{" not in text


def test_a_conversation_is_told_whole():
    group = asked("A dog.")
    messages = (
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        *group.prompts[0].messages,
    )
    group = replace(group, prompts=(replace(group.prompts[0], messages=messages),))
    with FakeJudge(lambda *_: (200, {}, body("no"), 0)) as server:
        assert build_term(judged(server, asks="yes_no")).values([group]) == [[0.0]]
    assert "user: Hi\nassistant: Hello\nuser: What is it?" in server.requests[0]["messages"][-1]["content"]


def likely(*pairs):
    """A reply of one token, with the likeliest ones and their probabilities."""
    reply = body("Yes", finish="length")
    told = [{"token": token, "logprob": math.log(p)} for token, p in pairs]
    reply["choices"][0]["logprobs"] = {"content": [{"token": "Yes", "top_logprobs": told}]}
    return reply


def test_the_probability_of_yes_against_no_as_the_first_token(tmp_path):
    """(0.5 + 0.1) / (0.5 + 0.1 + 0.2): every way to spell the words counts, a tokenizer's own blanks too."""
    blanks = ((" yes", 0.05), ("\u0120Yes", 0.03), ("\u2581yes", 0.02))
    reply = likely(("Yes", 0.5), *blanks, ("No", 0.1), ("\u0120No", 0.1), ("Maybe", 0.1))
    with FakeJudge(lambda *_: (200, {}, reply, 0)) as server:
        spec = judged(server, asks="yes_no", logprobs=True, cache=str(tmp_path))
        assert build_term(spec).values([asked("a")]) == [[pytest.approx(0.75)]]
        assert build_term(spec).values([asked("a")]) == [[pytest.approx(0.75)]]
    (request,) = server.requests  # the second answer came from the cache
    with FakeJudge(lambda *_: (200, {}, likely(("Yes", 1.0)), 0)) as server:  # log-probability 0
        assert build_term(judged(server, asks="yes_no", logprobs=True)).values([asked("a")]) == [[1.0]]
    assert (request["logprobs"], request["top_logprobs"], request["max_tokens"]) == (True, 20, 1)


def test_probabilities_are_the_reply_where_its_text_is_empty():
    """As where the likeliest first token ends the answer."""
    reply = likely(("</s>", 0.5), ("yes", 0.3), ("no", 0.1))
    reply["choices"][0]["message"]["content"] = ""
    with FakeJudge(lambda *_: (200, {}, reply, 0)) as server:
        assert build_term(judged(server, asks="yes_no", logprobs=True)).values([asked("a")]) == [[pytest.approx(0.75)]]


@pytest.mark.parametrize(
    ("reply", "words"),
    [(body("Yes"), "tells no log-probabilities"), (likely(("Maybe", 0.9)), "neither yes nor no"), (b"?", "1 tries")],
)
def test_probabilities_that_are_not_told_are_failures(reply, words):
    with FakeJudge(lambda *_: (200, {}, reply, 0)) as server:
        ((failed,),) = build_term(judged(server, asks="yes_no", logprobs=True)).values([asked("a")])
    assert isinstance(failed, Failure) and words in failed.reason


def test_a_local_model_and_a_record_tell_probabilities_as_well(tiny, pictures, tmp_path):
    """p(yes) / (p(yes) + p(no)) of the model itself (``rollouts.first_words``), and the same number read back."""
    group = asked("A dog.", images=[pictures[0]])
    spec = JudgeSpec(judge=f"local:{tiny['llava']}", asks="yes_no", logprobs=True)
    term = build_term(spec)
    ((found,),) = term.values([group])
    assert 0 < found < 1
    (request,) = [term._request(group, 0, group.responses[0])]
    (reply,) = term.judge.ask([request])
    assert found == reply.probabilities["yes"] / sum(reply.probabilities.values())
    record = tmp_path / "record.jsonl"
    record.write_text(json.dumps({"id": request.id, "text": reply.text, "probabilities": reply.probabilities}) + "\n")
    assert build_term(replace(spec, judge=f"replay:{record}")).values([group]) == [[found]]


def test_a_judge_that_is_away_fails_answers_and_does_not_end_the_run():
    with FakeJudge(lambda *_: (503, {}, b"busy", 0)) as server:
        reward = build_reward({"judge": judged(server)})
        groups = reward.rewards([asked("a", id=str(n)) for n in range(20)])
    assert all(group.responses[0].reward is None for group in groups)
    assert all("judge: " in group.responses[0].reward_error for group in groups)


def test_a_judge_that_refuses_its_key_ends_the_run():
    with FakeJudge(lambda *_: (401, {}, b"no", 0)) as server, pytest.raises(DataError, match="Correct the key"):
        build_reward({"judge": judged(server)}).rewards([asked("a")])


def test_what_cannot_be_asked_is_refused(tmp_path):
    with pytest.raises(DataError, match="there is no judge 'oracle'"):
        build_term(JudgeSpec(judge="oracle"))
    template = tmp_path / "rubric.txt"
    template.write_text("{{question}} {{answer}} Score?")
    (tmp_path / "r.jsonl").write_text("")
    with pytest.raises(DataError, match=r"does not name \{\{facts\}\}"):
        build_term(JudgeSpec(judge=f"replay:{tmp_path}/r.jsonl", template=str(template), facts=("captions",)))
    template.write_text("{{question}} Score?")
    with pytest.raises(DataError, match="would not see what it judges"):
        build_term(JudgeSpec(judge=f"replay:{tmp_path}/r.jsonl", template=str(template)))
    term = replayed(tmp_path, [], facts=("captions",))
    with pytest.raises(DataError, match=r"f\.jsonl:3: prompt 'p' has no fact 'captions'"):
        term.check([asked("a")])

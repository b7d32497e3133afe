"""Claims, questions, verdicts and scores: each step by hand, and every failure told and never a zero."""

from dataclasses import replace

import pytest
from fake_judge import FakeJudge, body

from sightline.errors import DataError, RecipeError, ServiceError
from sightline.evaluation.bench import JudgeReply
from sightline.evaluation.judge import load_judge
from sightline.recipes.load import check_spec
from sightline.recipes.rlaif_v import ClaimsSpec, LabellerSpec, QuestionsSpec, RlaifVSpec, WriterSpec
from sightline.rewards.claims.feedback import Claim, feedback_of, with_feedback, without_feedback
from sightline.rewards.claims.label import label
from sightline.rewards.claims.score import figures, score
from sightline.rewards.claims.split import ask, split
from sightline.rewards.claims.writer import writer
from sightline.types import Group, Prompt, Response


class Judge:
    """Answers by a function of the last message and the attempt; keeps what it was asked."""

    name = "fake"

    def __init__(self, reply):
        self.reply, self.asked = reply, []

    def ask(self, requests):
        self.asked += requests
        told = [self.reply(one.messages[-1]["content"], one.attempt) for one in requests]
        return [one if isinstance(one, JudgeReply) else JudgeReply(text=one) for one in told]


def group(*texts, id="g", image="p.png", facts=None):
    parts = [{"type": "image"}, {"type": "text", "text": "What is here?"}]
    prompt = Prompt(id=id, messages=({"role": "user", "content": parts},), images=(image,), facts=facts or {})
    return Group(prompts=(prompt,), responses=tuple(Response(text=text) for text in texts), source=f"f:{id}")


def split_by(reply, *groups, **options):
    judge = Judge(reply)
    spec = WriterSpec(**options)
    return split(groups, ClaimsSpec(), writer(judge, spec, "claims_split")), judge


def asked_by(reply, *groups, **options):
    judge = Judge(reply)
    return ask(groups, QuestionsSpec(), writer(judge, WriterSpec(**options), "claims_ask")), judge


def claimed(**claims):
    """A group with such claims of such answers, and no questions yet."""
    made = group(*claims)
    texts = [(name, tuple(Claim(text=text) for text in some)) for name, some in claims.items()]
    (found,), _ = split_by(lambda *_: "- x", made)
    rows = feedback_of(found)
    return with_feedback(found, [replace(row, claims=own) for row, (_, own) in zip(rows, texts, strict=True)])


def test_each_answer_is_split_once_whatever_number_of_times_it_was_given():
    (found,), judge = split_by(
        lambda text, _: "- A dog.\n- A cat." if "Both" in text else "- none", group("Both.", "Nice.", "Both.")
    )
    assert [(one.answer, [c.text for c in one.claims]) for one in feedback_of(found)] == [
        ("Both.", ["A dog.", "A cat."]),
        ("Nice.", []),
        ("Both.", ["A dog.", "A cat."]),
    ]
    assert [one.error for one in feedback_of(found)] == [None, "it makes no claim about the picture", None]
    assert len(judge.asked) == 2 and all(not one.images for one in judge.asked)
    first = judge.asked[0]
    assert "Question: What is here?\nAnswer: Both." in first.messages[-1]["content"]
    assert (first.temperature, first.top_p, first.max_tokens) == (0.2, 0.9, 256)  # published
    assert without_feedback(found) == group("Both.", "Nice.", "Both.")


@pytest.mark.parametrize("junk", ["I cannot see it.", JudgeReply(text="- A dog.\n- A ca", cut=True), "<think>- A dog."])
def test_a_reply_that_cannot_be_read_is_asked_for_again_and_then_a_failure(junk):
    (found,), judge = split_by(lambda text, n: "- A dog." if n == 2 else junk, group("A."))
    assert [c.text for c in feedback_of(found)[0].claims] == ["A dog."] and len(judge.asked) == 3
    (found,), _ = split_by(lambda text, n: junk, group("A."))
    (one,) = feedback_of(found)
    assert not one.claims and one.error.startswith("not split into claims: the reply")
    scored = score(found, "rejected", 0.5)
    assert scored.responses[0].reward is None and scored.responses[0].reward_error == one.error


def test_an_answer_that_the_writer_refuses_is_a_failure_and_a_writer_that_is_away_stops_the_stage():
    (found,), _ = split_by(lambda *_: JudgeReply(text=None, error="HTTP 400: too long", final=True), group("A."))
    assert feedback_of(found)[0].error == "not split into claims: HTTP 400: too long"
    with pytest.raises(ServiceError, match=r"fake gave no reply to g/0: HTTP 503 \(6 tries\).*goes on here"):
        split_by(lambda *_: JudgeReply(text=None, error="HTTP 503 (6 tries)"), group("A."))


def test_no_answer_and_an_empty_one_are_not_asked_about():
    made = group(" ", "A.")
    made = replace(made, responses=(*made.responses, Response(text="half", finish_reason="error")))
    (found,), judge = split_by(lambda *_: "- A dog.", made)
    assert [one.error for one in feedback_of(found)] == [
        "it makes no claim about the picture",
        None,
        "there is no answer",
    ]
    assert len(judge.asked) == 1


def test_groups_that_cannot_be_judged_are_refused_by_name():
    for wrong, found in (
        (replace(group("a"), prompts=(replace(group("a").prompts[0], images=()),)), "has no picture"),
        (group("a", facts={"feedback": 1}), "has a fact 'feedback'"),
        (replace(group("a"), prompts=group("a").prompts * 2), "has 2 prompts"),
    ):
        with pytest.raises(DataError, match=f"f:g: group 'g' {found}"):
            split([wrong], ClaimsSpec(by="sentences"), None)
    with pytest.raises(DataError, match="feedback to 0 answers, which are not its 1"):
        label([group("a")], LabellerSpec(), Judge(lambda *_: ""))


def test_sentences_and_the_grammar_of_the_world_split_without_a_model():
    text = "There is a small red star, no ring and two moons. I can also see a drop."
    (found,) = split([group(text)], ClaimsSpec(by="sentences"), None)
    assert [c.text for c in feedback_of(found)[0].claims] == [
        "There is a small red star, no ring and two moons.",
        "I can also see a drop.",
    ]
    (found,) = split([group(text)], ClaimsSpec(by="scenes"), None)
    (found,) = ask([found], QuestionsSpec(by="scenes"), None)
    assert [(c.text, c.question) for c in feedback_of(found)[0].claims] == [
        ("There is a small red star.", "Is there a star in the picture?"),
        ("There are two moons.", "Is there a moon in the picture?"),
        ("There is a drop.", "Is there a drop in the picture?"),
    ]


def test_a_template_asks_about_any_claim_and_the_world_about_its_own():
    made = claimed(a=["A dog sits."])
    (found,) = ask([made], QuestionsSpec(by="template", text='Is "{claim}" true?'), None)
    assert feedback_of(found)[0].claims[0].question == 'Is "A dog sits." true?'
    (found,) = ask([made], QuestionsSpec(by="scenes"), None)
    assert "'A dog sits.' names no shape" in feedback_of(found)[0].error


def test_claims_are_turned_together_and_by_themselves_where_the_number_of_questions_is_another():
    """The published script pairs what it gets in order, so that one question too few shifts all that follow."""

    def reply(text, _):
        claims = [line[2:] for line in text.splitlines()[-3:] if line.startswith("- ") and line.endswith("!")]
        return "\n".join(f"- Is it {one}?" for one in claims[:2])

    made = claimed(a=["one!", "two!"], b=["one!", "two!", "three!"], c=["one!", "two!"])
    (found,), judge = asked_by(reply, made, attempts=2)
    assert [[c.question for c in one.claims] for one in feedback_of(found)] == [
        ["Is it one!?", "Is it two!?"],
        ["Is it one!?", "Is it two!?", "Is it three!?"],
        ["Is it one!?", "Is it two!?"],
    ]
    assert len(judge.asked) == 1 + 2 + 3  # a and c are one; b twice together, then each of its claims
    (found,), _ = asked_by(lambda text, _: "what?", made, attempts=1)
    assert all(one.error.startswith("claims not turned into questions: ") for one in feedback_of(found))


def questioned():
    (found,), _ = asked_by(
        lambda text, _: "\n".join(f"- {line[2:-1]}?" for line in text.splitlines() if line.endswith("!")),
        claimed(a=["A dog!", "A cat!"], b=["A dog!", "A hat!", "A bat!"]),
    )
    return found


YES = {"A dog?": (0.6, 0.3), "A cat?": (0.2, 0.2), "A hat?": (0.01, 0.04), "A bat?": (0.5, 0.1)}


def labelled(**changed):
    told = YES | changed
    judge = Judge(
        lambda text, _: JudgeReply(text="Yes", probabilities=dict(zip(("yes", "no"), told[text[:6]], strict=True)))
    )
    return label([questioned()], LabellerSpec(), judge), judge


def test_every_question_about_a_picture_is_asked_once_with_the_picture():
    (found,), judge = labelled()
    assert [one.messages[-1]["content"] for one in judge.asked] == [f"{q} Please answer yes or no." for q in YES]
    assert all(one.images == ("p.png",) and one.choices == ("yes", "no") for one in judge.asked)
    assert [[(c.yes, c.no) for c in one.claims] for one in feedback_of(found)] == [
        [YES["A dog?"], YES["A cat?"]],
        [YES["A dog?"], YES["A hat?"], YES["A bat?"]],
    ]


@pytest.mark.parametrize(
    ("how", "worth"),
    [
        ("rejected", (-1.0, -1.0)),  # equal shares of yes and no reject: the published code asks for more
        ("share", (-1 / 2, -1 / 3)),
        ("mean", ((2 / 3 + 1 / 2) / 2, (2 / 3 + 1 / 5 + 5 / 6) / 3)),
        ("least", (1 / 2, 1 / 5)),
    ],
)
def test_scores_by_hand(how, worth):
    (found,), _ = labelled()
    scored = score(found, how, 0.5)
    assert [r.reward for r in scored.responses] == pytest.approx(worth)
    assert [dict(r.rewards) for r in scored.responses] == [
        {"claims": 2.0, "rejected": 1.0},
        {"claims": 3.0, "rejected": 1.0},
    ]
    told = figures([scored])
    assert (told.answers, told.scored, told.failed, told.claims) == (2, 2, 0, 2.5)
    assert told.rejected == 2 / 5 and told.score == pytest.approx(sum(worth) / 2) and told.words == 1.0


def test_the_threshold_decides_which_claims_stand():
    (found,), _ = labelled()
    assert [str(r.reward) for r in score(found, "rejected", 0.4).responses] == ["0.0", "-1.0"]
    assert [r.reward for r in score(found, "rejected", 0.7).responses] == [-2.0, -2.0]


def test_an_answer_without_a_verdict_on_each_of_its_claims_has_no_score():
    (found,), _ = labelled(**{"A hat?": (0.0, 0.0)})
    first, second = score(found, "rejected", 0.5).responses
    assert first.reward == -1.0 and second.reward is None and not second.rewards
    assert "no verdict on 'A hat?': p(yes) + p(no) is 0, the likeliest reply begins with 'Yes'" in second.reward_error
    told = figures([score(found, "rejected", 0.5)])
    assert (told.scored, told.failed, told.score) == (1, 1, -1.0) and "A hat?" in told.first_failure


def test_a_labeller_that_would_not_answer_by_yes_or_no_can_be_held_to_a_least_share():
    judge = Judge(lambda text, _: JudgeReply(text="The", probabilities={"yes": 0.002, "no": 0.001}))
    (found,) = label([questioned()], LabellerSpec(least=0.1), judge)
    assert all("p(yes) + p(no) is 0.003" in one.error for one in feedback_of(found))
    (found,) = label([questioned()], LabellerSpec(), judge)
    assert all(one.error is None for one in feedback_of(found))


def test_a_server_is_a_labeller_if_it_tells_log_probabilities(pictures):
    made = questioned()
    made = replace(made, prompts=(replace(made.prompts[0], images=(pictures[0],)),))
    top = [{"token": " Yes", "logprob": -0.5}, {"token": "yes", "logprob": -2.0}, {"token": "NO", "logprob": -1.5}]

    def told(number, request):
        reply = body("Yes")
        reply["choices"][0]["logprobs"] = {"content": [{"token": "Yes", "top_logprobs": top}]}
        return 200, {}, reply, 0

    with FakeJudge(told) as server:
        judge = load_judge(server.url, {"model": "m"})
        (found,) = label([made], LabellerSpec(), judge)
    assert len(server.requests) == 4 and server.requests[0]["messages"][0]["content"][0]["type"] == "image_url"
    claim = feedback_of(found)[0].claims[0]
    assert (claim.yes, claim.no) == (pytest.approx(0.741866, abs=1e-6), pytest.approx(0.223130, abs=1e-6))
    with FakeJudge(lambda *_: (200, {}, body("Yes"), 0)) as server, pytest.raises(ServiceError, match="tells no log-"):
        label([made], LabellerSpec(), load_judge(server.url, {"model": "m"}))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"score": "share"}, "values lie within 1 of each other"),
        ({"sampling": {"n": 1, "temperature": 0.7}}, "1 answers at temperature 0.7"),
        ({"sampling": {"n": 4, "temperature": 0}}, "at temperature 0"),
        ({"claims": {"by": "scenes"}}, "asked as the world asks"),
        ({"claims": {"by": "sentences", "writer": {"model": "self"}}}, "asks none"),
        ({"claims": {"writer": {"temperature": 0}}}, "3 attempts at temperature 0"),
        ({"labeller": {"options": {"key": "s"}}}, "(?i)OPENAI_API_KEY"),
        ({"labeller": {"ask": "Is it?"}}, "question"),
        ({"labeller": {"ask": "{question} {claim}"}}, r"found \{claim\}, which nothing fills in"),
        ({"questions": {"by": "template", "text": "{claim} {x}"}}, r"found \{x\}"),
        ({"questions": {"by": "scenes", "text": "{claim}?"}}, "reads none"),
        ({"claims": {"writer": {"options": {"max_tokens": 3}}}}, "which nothing reads|has those of the labeller"),
    ],
)
def test_settings_that_could_not_work_or_would_be_ignored_are_refused(fields, told):
    with pytest.raises(RecipeError, match=told):
        check_spec(RlaifVSpec, "method", name="rlaif_v", **fields)


def test_the_defaults_are_the_published_values():
    spec = RlaifVSpec(name="rlaif_v")
    assert (spec.sampling.n, spec.sampling.temperature, spec.sampling.max_new_tokens) == (10, 0.7, 512)
    assert (spec.score, spec.labeller.threshold, spec.pairs.min_gap, spec.pairs.most) == ("rejected", 0.5, 1.0, 2)
    assert spec.pairs.balance.step == 0.02

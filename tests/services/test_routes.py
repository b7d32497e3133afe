"""The routes of each service, and that Sightline's own clients and the services fit each other."""

import base64
import io
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import train_runs
from PIL import Image
from served import Live, asked, spec

from sightline.data.schema import read_groups
from sightline.evaluation.bench import JudgeRequest
from sightline.evaluation.judge import load_judge
from sightline.evaluation.judges.local import local_judge
from sightline.evaluation.rubric import load_rubric
from sightline.models.layout import lay_out
from sightline.negatives.image_service import ImageService
from sightline.negatives.painting import Order, Unpainted
from sightline.recipes.negatives import PaintSpec
from sightline.recipes.rlaif_v import LabellerSpec
from sightline.recipes.schema import ModelSpec
from sightline.recipes.terms import JudgeSpec, ServiceSpec
from sightline.rewards.build import build_term
from sightline.rewards.claims.feedback import Claim, Feedback, feedback_of, with_feedback
from sightline.rewards.claims.label import label
from sightline.rewards.model import load_reward_model
from sightline.rewards.terms import Failure
from sightline.rollouts.first_words import spellings
from sightline.rollouts.hf import load_engine
from sightline.scenes.grader import grade_caption
from sightline.scenes.scene import Scene
from sightline.scenes.world import Scenes
from sightline.services.bounds import Bounds
from sightline.services.build import build_service
from sightline.services.scenes import told_scene
from sightline.types import Group, Prompt, Response

TOGETHER = Bounds(company=0.05)


def chat(content, **changed):
    return {"model": "m", "messages": [{"role": "user", "content": content}], "max_tokens": 8, **changed}


def uri(path):
    return "data:image/png;base64," + base64.b64encode(Path(path).read_bytes()).decode()


def shown(path, text):
    return [{"type": "image_url", "image_url": {"url": uri(path)}}, {"type": "text", "text": text}]


SHOWN = [{"type": "image_url", "image_url": {"url": "a"}}]


def said(content):
    return {"messages": [{"role": "user", "content": content}]}


@pytest.fixture(scope="module")
def vlm(tiny):
    return build_service(spec(model=str(tiny["llava"]), name="m", bounds=TOGETHER))


def test_a_chat_is_answered_the_same_alone_and_in_company(vlm, pictures):
    """Greedy and sampled, with pictures and without, by other limits."""
    bodies = [
        chat("what is it?", temperature=0),
        chat(shown(pictures[0], "what is it?"), temperature=0),
        chat(shown(pictures[1], "what is it?"), seed=1),
        chat(shown(pictures[1], "what is it?"), seed=2),
        chat("how many?", seed=1, max_tokens=5, top_p=0.5),
        chat("x " * 5000, seed=1),
    ]
    together = asked(vlm, *[("/v1/chat/completions", body) for body in bodies])
    alone = [asked(vlm, ("/v1/chat/completions", body))[0] for body in bodies]
    assert [status for status, _ in alone] == [200] * 5 + [422]
    told = [[reply.get("choices"), reply.get("error")] for _, reply in together]
    assert told == [[reply.get("choices"), reply.get("error")] for _, reply in alone]
    texts = [reply["choices"][0]["message"]["content"] for _, reply in alone[:5]]
    assert texts[2] != texts[3]


def test_without_a_seed_every_sample_is_another(vlm):
    # of an answer whose tokens are told of nothing may be said, as chance has it now and then
    replies = asked(vlm, *[("/v1/chat/completions", chat("describe it", max_tokens=12, logprobs=True))] * 4)
    assert len({json.dumps(reply["choices"][0]["logprobs"]) for _, reply in replies}) == 4


def test_the_endpoint_judge_asks_it_as_it_asks_openai(tiny, pictures, monkeypatch):
    """And gets what the same model says in this process."""
    monkeypatch.setenv("OPENAI_API_KEY", "right")
    requests = [
        JudgeRequest(id=str(n), messages=[{"role": "user", "content": f"rate {n}"}], images=images, max_tokens=6)
        for n, images in enumerate([(), (pictures[0],), (pictures[1], pictures[0])])
    ]
    live = spec(model=str(tiny["llava"]), name="m", token="right")
    with Live(live) as one:
        judge = load_judge(f"{one.url}/v1", {"model": "m"})
        replies = judge.ask(requests)
    found = {}
    local_judge(str(tiny["llava"]), dtype="float32", batch_size=8).answer(requests, found.__setitem__)
    assert [reply.text for reply in replies] == [found[n].reply.text for n in range(3)]
    assert judge.usage.failed == 0 and all(found[n].reply.text for n in range(3))


def test_tokens_are_told_of_as_openai_tells_them(vlm, pictures):
    """Every token of the answer, whatever is asked beside it; the numbers are those of the engine (test_told.py)."""
    content = shown(pictures[0], "what is it?")
    told = {"logprobs": True, "max_tokens": 3, "temperature": 0}
    bodies = [
        chat(content, **told, top_logprobs=5),
        chat(content, **{**told, "temperature": 1.0}, seed=3),
        chat(content, temperature=0, max_tokens=3),
    ]
    whole = [reply for _, reply in asked(vlm, *[("/v1/chat/completions", body) for body in bodies])]
    greedy, drawn, bare = (reply["choices"][0] for reply in whole)
    (used,) = {tuple(reply["usage"].values()) for reply in whole}
    assert list(whole[0]["usage"]) == ["prompt_tokens", "completion_tokens", "total_tokens"]
    assert used[0] > 4 and used[1:] == (3, used[0] + 3)
    ((_, models),) = asked(vlm, ("/v1/models", None))
    assert [list(card) for card in models["data"]] == [["id", "object", "created", "owned_by"]]
    assert models["data"][0]["id"] == "m" and 0 < models["data"][0]["created"] <= whole[0]["created"]
    assert bare["logprobs"] is None and bare["message"] == greedy["message"]
    for place in greedy["logprobs"]["content"]:
        near = [one["logprob"] for one in place["top_logprobs"]]
        assert len(near) == 5 and near == sorted(near, reverse=True) and place["logprob"] == near[0] < 0
        whole = "\ufffd" not in place["token"]  # half a character has no text
        assert place["bytes"] == (list(place["token"].encode()) if whole else None)
    assert [one["top_logprobs"] for one in drawn["logprobs"]["content"]] == [[]] * 3


@pytest.fixture(scope="module")
def labeller(tiny, pictures, tmp_path_factory):
    """A tiny model that begins its answers with yes or no, in one of their spellings."""
    folder = tmp_path_factory.mktemp("labeller") / "llava"
    shutil.copytree(tiny["llava"], folder)
    engine = load_engine(ModelSpec(path=str(folder)), "cpu")
    head = engine.policy.base.get_output_embeddings().weight
    batch = lay_out(
        [engine.renderer.render(asked_about(pictures[0]))], "rows", engine.policy.family, engine.policy.config
    )
    with torch.no_grad():
        hidden = engine.policy.hidden(batch)[batch.source][0]
        for word, rise in (("yes", 20.0), ("no", 19.0)):
            for id in spellings(engine.tokenizer, word, len(head)):
                head[id] += rise * hidden / hidden.dot(hidden)
    engine.policy.base.save_pretrained(folder)
    return folder


def asked_about(picture):
    parts = [{"type": "image"}, {"type": "text", "text": "Is there a moon?"}]
    prompt = Prompt(id="p", messages=({"role": "user", "content": parts},), images=(picture,))
    return Group(prompts=(prompt,), responses=(Response(text="x"),))


def test_a_served_judge_labels_claims_as_the_same_model_does_in_this_process(labeller, pictures):
    """RLAIF-V over ``sightline serve judge``: probabilities of yes and no to questions about pictures."""
    questions = ("Is there a moon?", "Is there a small red circle?", "a star?")
    claims = tuple(Claim(text=one, question=one) for one in questions)
    groups = [
        with_feedback(asked_about(one), [Feedback(answer="x", claims=claims)]) for one in (pictures[0], pictures[1])
    ]
    with Live(spec(model=str(labeller), name="m")) as live:
        served = load_judge(f"{live.url}/v1", {"model": "m"})
        found = label(groups, LabellerSpec(), served)
    expected = label(groups, LabellerSpec(), load_judge(f"local:{labeller}"))
    for one, other in zip(found, expected, strict=True):
        for here, there in zip(feedback_of(one)[0].claims, feedback_of(other)[0].claims, strict=True):
            assert 0.01 < here.yes != here.no > 0.01
            assert (here.yes, here.no) == pytest.approx((there.yes, there.no), abs=1e-3)


@pytest.mark.parametrize(
    ("changed", "status", "words"),
    [
        ({"model": "other"}, 404, "no model 'other' here; the model is 'scenes'"),
        ({"stream": True}, 422, "body.stream"),
        ({"n": 2}, 422, "body.n"),
        ({"top_p": 0}, 422, "body.top_p"),
        ({"top_logprobs": 2}, 422, "top_logprobs is of logprobs: true"),
        ({"logprobs": True, "top_logprobs": 21}, 422, "body.top_logprobs"),
        ({"logprobs": True}, 422, "tells no log-probabilities"),
        ({"stop": ["x"]}, 422, "body.stop: Extra inputs are not permitted"),
        ({"frequency_penalty": 1}, 422, "body.frequency_penalty"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, 422, "differ"),
        ({"messages": []}, 422, "body.messages"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, 422, "expected one of the user"),
        (said([{"type": "text", "text": "x"}, *SHOWN]), 422, "before the text"),
        (said([{"type": "image_url", "text": "x"}]), 422, "holds text"),
        (said([{"type": "image_url", "image_url": {"url": "a", "detail": "low"}}]), 422, "detail"),
    ],
)  # fmt: skip
def test_what_would_not_be_honoured_is_refused(changed, status, words):
    app = build_service(spec())
    ((told, reply),) = asked(app, ("/v1/chat/completions", {**chat("x"), "model": "scenes", **changed}))
    assert told == status and words in reply["error"]["message"]


def test_options_that_mean_nothing_are_taken():
    body = {**chat("x"), "model": "scenes", "n": 1, "top_p": 1, "stream": False, "logprobs": False, "user": "u"}
    body |= {"frequency_penalty": 0, "presence_penalty": 0.0, "response_format": {"type": "text"}, "top_logprobs": None}
    body |= dict.fromkeys(("stop", "tools", "logit_bias", "temperature", "seed", "max_tokens"))
    body["messages"] = [{**message, "name": None} for message in body["messages"]]
    ((status, reply),) = asked(build_service(spec()), ("/v1/chat/completions", body))
    assert status == 422 and "reads the rubrics reward_score" in reply["error"]["message"]


@pytest.mark.parametrize(
    ("response", "answer", "grade"),
    [
        ("There is a red star.", "I see a red star.", 10),
        ("There is a blue star.", "I see a red star.", 0),
        ("There is a star.", "I see a red star.", 10),
        ("A red star and a moon.", "I see a red star.", 6),  # 2 * 1 / (2 + 1)
        ("A red star.", "A red star and two blue moons.", 5),  # 2 * 1 / (1 + 3)
        ("Nothing.", "I see a red star.", 0),
        ("No, there is not.", "No.", 10),
        ("Yes.", "No.", 0),
        ("There are 2.", "Two.", 10),
        ("It is red.", "Blue.", 0),
        ("9" * 5000 + " stars", "A star.", 0),
    ],
)
def test_ovips_critic_and_its_two_names_for_the_question(response, answer, grade):
    app = build_service(spec(bounds=TOGETHER))
    bodies = [{name: "What is there?", "response": response, "answer": answer} for name in ("prompt", "question")]
    assert asked(app, *[("/critic", body) for body in bodies]) == [(200, {"critic": grade})] * 2
    assert asked(app, ("/critic", {**bodies[0], **bodies[1]}), ("/critic", {"response": "", "answer": ""}))[0][0] == 422


@pytest.mark.parametrize(
    ("said", "grade"),
    [
        ("Score: 8.5", 8), ("no idea", "none"), ("Score: 85", "none"),
        ("<think>A score of 3?</think> 8", 8), ("<think>A score of 3? No", "none"),
    ],
)  # fmt: skip
def test_a_grade_is_read_from_what_a_model_says(said, grade, monkeypatch):
    app, told = build_service(spec()), []

    def reply(self, request):
        told.append(request)
        from sightline.evaluation.bench import JudgeReply

        return JudgeReply(text=said)

    monkeypatch.setattr("sightline.services.scenes.ScenesJudge._reply", reply)
    body = {"prompt": "Q?", "response": "R.", "answer": "A."}
    assert asked(app, ("/critic", body)) == [(200, {"critic": grade})]
    assert len(told) == (2 if grade == "none" else 1) and (told[0].temperature, told[0].max_tokens) == (0.1, 256)
    assert "R." in told[0].messages[-1]["content"] and "A." in told[0].messages[-1]["content"]


def test_the_describer_gets_the_roles_as_published(monkeypatch):
    """What stands in ``ground_truth`` (OViP sends the rejected answer) is shown, ``response`` is denied."""
    app, told = build_service(spec("describe")), []

    def reply(self, request):
        told.append(request.messages)
        from sightline.evaluation.bench import JudgeReply

        return JudgeReply(text='**Description:** "A red kite."')

    monkeypatch.setattr("sightline.services.scenes.ScenesJudge._reply", reply)
    body = {"prompt": "Q?", "ground_truth": "an umbrella", "response": "a kite"}
    assert asked(app, ("/describe", body)) == [(200, {"description": "A red kite."})]
    values = {"question": "Q?", "answer_shown": "an umbrella", "answer_denied": "a kite"}
    assert told == [load_rubric("negative_describe").messages(values)]


@pytest.mark.parametrize(
    ("question", "shown", "description"),
    [
        ("Describe.", "There is a red star.", "There is a red star."),
        ("What colour is the star?", "Blue.", "There is a blue star."),
        ("Is there a moon?", "Yes.", "There is a moon."),
        ("Is there a circle?", "No.", "There is a square."),
        ("How many stars are there?", "Three.", "There are 3 stars."),
    ],
)
def test_scenes_are_described_in_words_that_are_drawn(question, shown, description):
    app = build_service(spec("describe"))
    body = {"prompt": question, "ground_truth": shown, "response": "x"}
    assert asked(app, ("/describe", body)) == [(200, {"description": description})]


def test_a_description_is_drawn_exactly():
    text = "Two small red stars, a blue moon and a large ring."
    scene = told_scene(text, 7, 96)
    grade = grade_caption(text, scene, ())
    assert not (grade.hallucinated or grade.repeated or grade.miscoloured or grade.missed)
    assert grade.objects == len(scene.objects) == 4 and scene.facts() == told_scene(text, 7, 96).facts()
    assert scene.facts() != told_scene(text, 8, 96).facts()


def generated(app, **body):
    return asked(app, ("/generate", {"prompt": "A red star.", "h": 96, "w": 96, **body}))[0]


def test_pictures_come_back_as_bytes_or_below_the_root_picture_first_and_once(tmp_path):
    status, reply = generated(build_service(spec("image")), seed=3, save_dir="anywhere")
    picture = Image.open(io.BytesIO(base64.b64decode(reply["image"])))
    assert status == 200 and picture.tobytes() == told_scene("A red star.", 3, 96).draw().tobytes()
    app = build_service(spec("image", root=tmp_path))
    first = generated(app, seed=3, save_dir=str(tmp_path / "run"), info={"step": 1})
    assert first == generated(app, seed=3, save_dir="run", info={"step": 1})  # sent again: the reply was lost
    assert first[1]["image"] is None and Image.open(first[1]["path"]).tobytes() == picture.tobytes()
    (line,) = (tmp_path / "run/data.jsonl").read_text().splitlines()
    told = {"step": 1, "image_instruction": "A red star.", "image": first[1]["path"], "seed": 3}
    assert json.loads(line) == told
    (tmp_path / "run/data.jsonl").write_text(line[:10])  # died between picture and line
    assert generated(app, seed=3, save_dir="run", info={"step": 1}) == first
    assert json.loads((tmp_path / "run/data.jsonl").read_text()) == told


def test_a_picture_of_another_maker_is_not_taken_for_ones_own(tmp_path, monkeypatch):
    """The folder outlives the service; what another pipeline made of the same request is another picture."""
    first = generated(build_service(spec("image", root=tmp_path)), seed=3, save_dir="run")[1]["path"]
    monkeypatch.setattr("sightline.services.scenes.ScenesMaker.name", "another")
    again = generated(build_service(spec("image", root=tmp_path)), seed=3, save_dir="run")[1]["path"]
    assert first != again and Path(again).exists()


def test_pairs_without_a_seed_have_one_of_their_own():
    app = build_service(spec("image"))
    seeds = [generated(app, info={"pair": pair})[1]["image"] for pair in ("a", "b", "a")]
    assert seeds[0] == seeds[2] != seeds[1]


@pytest.mark.parametrize("save_dir", ["/etc", "..", "../x", "link", "bad", "\0"])
def test_nothing_is_written_outside_the_root(tmp_path, save_dir):
    root = tmp_path / "root"
    (root / "bad").mkdir(parents=True)
    (root / "link").symlink_to(tmp_path)
    (root / "bad/data.jsonl").symlink_to(tmp_path / "elsewhere")
    status, reply = generated(build_service(spec("image", root=root)), save_dir=save_dir)
    assert status == 422 and sorted(path.name for path in tmp_path.iterdir()) == ["root"]
    assert re.search("not below the root|are links|NUL|cannot be followed", reply["error"]["message"])


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"mask": "x"}, "there is no image"),
        ({"strength": 0.5}, "there is no image"),
        ({"w": 80}, "scenes are square"),
        ({"prompt": "nothing"}, "tells 0 objects"),
        ({"prompt": "90 stars"}, "objects of the world, expected 1 to 36"),
        ({"info": {"seed": 1}}, "info holds seed"),
    ],
)
def test_pictures_that_cannot_be_made_are_refused(body, words):
    status, reply = generated(build_service(spec("image")), **body)
    assert status == 422 and words in reply["error"]["message"]


@pytest.mark.parametrize("shared", [True, False])
def test_the_image_client_and_the_service_fit(tmp_path, shared):
    """By path on one file system, and as bytes."""
    with Live(spec("image", root=tmp_path if shared else None)) as live:
        paint = PaintSpec(urls=(f"{live.url}/generate",), width=96, height=96, tries=1)
        client = ImageService(spec=paint, kind="text_to_image", folder=tmp_path / "made")
        orders = [Order(text=text, seed=3, about={"pair": text}) for text in ("A red star.", "A blue moon.", "Fog.")]
        made = dict(client.paint(orders))
    for number in (0, 1):
        assert made[number].tobytes() == told_scene(orders[number].text, 3, 96).draw().tobytes()
    assert isinstance(made[2], Unpainted) and "tells 0 objects" in made[2].reason
    assert (tmp_path / "made/data.jsonl").exists() == shared


def test_the_reward_client_and_the_service_fit(tmp_path, monkeypatch):
    """The world's reward over a socket, several groups at once, with a token and two addresses: as without a socket."""
    monkeypatch.setenv("SIGHTLINE_TOKEN", "right")
    world = Scenes(seed=1)
    groups = [
        answered(group, "There is a red star.", "A blue moon and a ring.", "Yes.")
        for kind in ("caption", "presence")
        for group in world.prompts("train", 4, tmp_path / "pictures", kind=kind)
    ]
    served = spec("reward", token="right", root=tmp_path)
    with Live(served) as one, Live(served) as two:
        urls = tuple(f"{live.url}/score" for live in (one, two))
        values = build_term(ServiceSpec(url=urls, patience=1.0)).values(groups)
        coded = build_term(ServiceSpec(url=urls[0], pictures="base64", patience=1.0)).values(groups)
    asked_of = [live.app.metrics.requests["/score", 200] for live in (one, two)]
    assert values == coded == [[r.reward for r in world.reward(group).responses] for group in groups]
    assert min(asked_of) > 0 and sum(asked_of) == 16


def answered(group, *texts):
    from dataclasses import replace

    return replace(group, responses=tuple(Response(text=text) for text in texts))


def test_a_reward_model_scores_the_same_behind_a_service(tiny, tmp_path):
    recipe = train_runs.recipe(
        tiny["llava"],
        tmp_path,
        responses=2,
        algorithm={"name": "reward_model"},
        reference="none",
        epochs=1,
        max_steps=1,
    )
    from sightline.train.loop import train

    run = train(recipe, quiet=True).run_dir
    groups = list(read_groups(recipe.data.train[0].path))[:4]
    scorer = load_reward_model(run)
    expected = [[r.reward for r in group.responses] for group in scorer.rewards(groups)]
    with Live(spec("reward", model=str(run), bounds=TOGETHER)) as live:
        term = build_term(ServiceSpec(url=f"{live.url}/score", pictures="base64", patience=1.0))
        together, alone = term.values(groups), [term.values([group])[0] for group in groups]
        none = build_term(ServiceSpec(url=f"{live.url}/score", pictures="none", patience=1.0)).values(groups[:1])
    assert together == [pytest.approx(row, abs=1e-5) for row in expected]
    assert alone == [pytest.approx(row, abs=1e-5) for row in expected]
    batches = live.app.metrics.text()
    assert "sightline_batch_items_total 8\n" in batches and "sightline_batches_total 8\n" not in batches
    assert isinstance(none[0][0], Failure) and "marks 1 pictures, and 0 came with it" in none[0][0].reason


def test_facts_that_are_none_of_a_scene_are_refused():
    app = build_service(spec("reward"))
    for facts in ({}, {"scene": 1, "kind": "caption", "truth": [], "tempting": 3}):
        body = {"id": "a", "prompts": [{**said("x"), "facts": facts}], "responses": [{"text": "A star."}]}
        ((status, reply),) = asked(app, ("/score", body))
        assert status == 422 and "facts" in reply["error"]["message"]


def test_a_judge_of_scenes_grades_by_the_facts_through_the_reward_term(tmp_path):
    groups = [answered(group, "There is a red star.") for group in Scenes(seed=2).prompts("train", 3, tmp_path)]
    with Live(spec()) as live:
        term = build_term(
            JudgeSpec(
                judge=f"{live.url}/v1", options={"model": "scenes"}, facts=("scene", "kind", "truth"), pictures=False
            )
        )
        values = term.values(groups)
    for (value,), group in zip(values, groups, strict=True):
        objects = Scene.from_facts(group.prompts[0].facts["scene"]).objects
        there = any((one.shape, one.colour) == ("star", "red") for one in objects)
        assert value == pytest.approx(2 * there / (1 + len(objects)), abs=1e-3)

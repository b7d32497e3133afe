"""A conversation: histories, colours and marks."""

from __future__ import annotations

import re
import threading
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from PIL import Image

from sightline.app.chat import Answered, Talk, Turn, about, ask, parts, talk_html
from sightline.app.desk import Desk
from sightline.app.folders import Folders
from sightline.app.speakers import Shade, Speaker, text_of
from sightline.app.tab_chat import drawn
from sightline.app.uploads import take_picture
from sightline.errors import DataError
from sightline.models.layout import lay_out
from sightline.recipes.schema import ModelSpec, SamplingSpec
from sightline.rollouts.hf import load_engine
from sightline.services.bounds import Bounds
from sightline.types import Group, Prompt, Response

pytestmark = pytest.mark.skipif(find_spec("gradio") is None, reason="the extra app (gradio) is absent")


@pytest.fixture(scope="module")
def speaker(tiny: dict[str, Path]) -> Speaker:
    return Speaker(name="tiny", engine=load_engine(ModelSpec(path=str(tiny["llava"]))))


def prompt(picture: str | None, text: str = "is there a star?") -> Prompt:
    return Talk(picture=picture).prompt(0, text)


def tokens_of(speaker: Speaker, text: str) -> list[int]:
    ids: list[int] = speaker.engine.tokenizer(text, add_special_tokens=False).input_ids
    return ids


def answered(speaker: Speaker, asked: Prompt, **options: object) -> Response:
    growing = speaker.answer(asked, SamplingSpec(**{"max_new_tokens": 8, **options}), seed=1)
    while True:
        try:
            next(growing)
        except StopIteration as ended:
            return ended.value


def test_an_answer_is_what_the_engine_gives(speaker: Speaker, pictures: list[str]) -> None:
    asked = prompt(pictures[0])
    group = Group(prompts=(asked,), source="chat")
    (same,) = speaker.engine.generate([group], SamplingSpec(max_new_tokens=8, temperature=1.0), seed=1)
    assert answered(speaker, asked, temperature=1.0) == same.responses[0]


def test_shades_are_log_probabilities_with_the_picture_and_without(speaker: Speaker, pictures: list[str]) -> None:
    response = Response(text="a red circle", tokens=(*tokens_of(speaker, "a red circle"), speaker.engine.ends[0]))
    shades = speaker.shades(prompt(pictures[0]), response)
    # the same tokens behind each prompt by itself, in another layout
    policy, renderer = speaker.engine.policy, speaker.engine.renderer
    alone = []
    for asked in (prompt(pictures[0]), prompt(None)):
        batch = lay_out(
            [renderer.render(Group(prompts=(asked,), responses=(response,)))], "packed", policy.family, policy.config
        )
        with torch.no_grad():
            alone.append(policy(batch).logprobs.tolist())
    assert [shade.seen for shade in shades] == pytest.approx(alone[0], abs=1e-5)
    assert [shade.unseen for shade in shades] == pytest.approx(alone[1], abs=1e-5)
    assert max(abs(shade.dependence) for shade in shades) > 1e-3, "the picture changes something"
    assert text_of(shades) == response.text and shades[-1].special


def test_what_was_sampled_is_as_likely_as_the_sampler_said(speaker: Speaker, pictures: list[str]) -> None:
    response = answered(speaker, prompt(pictures[0]), temperature=1.0)
    shades = speaker.shades(prompt(pictures[0]), response)
    assert sum(shade.seen for shade in shades) == pytest.approx(sum(response.rollout_logprobs), abs=1e-4)
    assert text_of(shades).strip() == response.text


def test_two_models_have_histories_of_their_own(pictures: list[str]) -> None:
    turns = (
        Turn(question="one", answers=(Answered(text="A"), Answered(text="B"))),
        Turn(question="two", answers=(Answered(text=""), Answered(text="C"))),
    )
    talk = Talk(picture=pictures[0], turns=turns)
    told = [
        [(m["role"], "".join(part.get("text", "<picture>") for part in m["content"])) for m in messages]
        for messages in (talk.prompt(0, "three").messages, talk.prompt(1, "three").messages)
    ]
    assert told == [
        [("user", "<picture>one"), ("assistant", "A"), ("user", "three")],
        [("user", "<picture>one"), ("assistant", "B"), ("user", "two"), ("assistant", "C"), ("user", "three")],
    ]
    assert talk.prompt(0, "x").images == (pictures[0],) and Talk().prompt(0, "x").images == ()


def test_a_row_is_asked_behind_its_earlier_turns(speaker: Speaker, pictures: list[str], tmp_path: Path) -> None:
    turns = (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Is there a moon?"}]},
        {"role": "assistant", "content": "No.", "weight": 1},
        {"role": "user", "content": [{"type": "text", "text": "What else?"}]},
    )
    talk = about(Group(prompts=(Prompt(id="row", messages=turns, images=(pictures[0],)),)))
    *_, last = ask(talk, [Says("A star.")], "What else?", SamplingSpec(), seed=0)
    same = [dict(turn) | {"weight": None} for turn in turns]
    assert [dict(turn) | {"weight": None} for turn in talk.prompt(0, "What else?").messages] == same
    told = last.prompt(0, "And now?").messages
    assert [message["role"] for message in told[4:]] == ["assistant", "user"]
    assert sum(part["type"] == "image" for m in told if not isinstance(m["content"], str) for part in m["content"]) == 1
    html = talk_html(last, ["says"])
    assert "Be brief." in html and "Is there a moon?" in html and html.index("A star.") < html.index("Is there a moon?")
    _, coloured = list(ask(talk, [speaker], "What else?", SamplingSpec(max_new_tokens=2, temperature=0), seed=0))[-2:]
    assert coloured.turns[0].answers[0].shades and not coloured.turns[0].answers[0].error


def test_both_answer_one_after_the_other_and_errors_stay_in_their_card(speaker: Speaker, pictures: list[str]) -> None:
    talk, sampling = Talk(picture=pictures[0]), SamplingSpec(max_new_tokens=6, temperature=0)
    *_, last = ask(talk, [speaker, speaker], "is there a star?", sampling, seed=0)
    one, other = last.turns[0].answers
    assert one == other and one.shades and not one.growing
    assert talk_html(last, ["a", "b"]).count("nats by the picture") == 2 * sum(
        not shade.special for shade in one.shades
    )
    *_, later = ask(last, [speaker], "is there a star? " * 2000, sampling, seed=0)
    assert "tokens" in later.turns[1].answers[0].error and later.turns[0] == last.turns[0]
    assert ask(last, [speaker], "again", sampling, seed=0) and last.turns[0].answers[0].text in str(last.prompt(0, "x"))


def test_a_reader_who_leaves_stops_the_model(speaker: Speaker, pictures: list[str]) -> None:
    growing = speaker.answer(prompt(pictures[0]), SamplingSpec(max_new_tokens=2000, temperature=1.0), seed=0)
    next(growing)
    growing.close()
    assert speaker.worker.submit(lambda: "free").result(timeout=20) == "free"


def test_a_stop_of_the_app_ends_an_answer(speaker: Speaker, pictures: list[str]) -> None:
    stops = replace(speaker, ended=threading.Event())
    growing = stops.answer(prompt(pictures[0]), SamplingSpec(max_new_tokens=2000, temperature=1.0), seed=0)
    next(growing)
    stops.ended.set()
    with pytest.raises(DataError, match="the app was stopped"):
        while True:
            next(growing)


def test_what_is_not_there_is_marked_by_the_letter() -> None:
    text = "A blue ring and a red moon."
    start = text.index("red ")
    shades = [Shade(text=word, seen=-1.0, unseen=-1.5) for word in re.findall(r"\s?\S+", text)]
    drawn_parts = parts(Answered(text=text, shades=shades, wrong=[(start, len(text) - 1)]))
    assert "".join(part.text for part in drawn_parts) == text
    assert "".join(part.text for part in drawn_parts if part.mark == "wrong") == "red moon"
    assert drawn_parts[0].dependence == 0.5 and drawn_parts[0].tint == " more" and "--d:9" in drawn_parts[0].style
    assert parts(Answered()) == [] and parts(Answered(text="x"))[0].tint == ""


class Says:
    """Stands for a model that says one thing."""

    def __init__(self, text: str) -> None:
        self.text, self.name = text, text

    def answer(self, prompt: Prompt, sampling: SamplingSpec, *, seed: int):
        yield self.text
        return Response(text=self.text, finish_reason="length")

    def shades(self, prompt: Prompt, response: Response) -> list[Shade]:
        return [Shade(text=" " + self.text, seen=-1.0, unseen=-2.0), Shade(text="</s>", seen=0, unseen=0, special=True)]


@pytest.mark.parametrize("kind", ["caption", "presence", "count"])
def test_answers_about_a_known_scene_are_judged(tmp_path: Path, kind: str) -> None:
    desk = Desk(folders=Folders.of([tmp_path]), speakers=(), scratch=tmp_path / "scratch")
    talk, question = drawn(desk, kind, 3)
    scene = talk.facts.scene
    truth = scene["truth"]
    wrong = {"yes": "no", "no": "yes"}.get(truth, "nineteen")
    absent = next(s for s in ("moon", "star", "ring", "heart", "drop", "cross") if s not in str(scene["scene"]))
    texts = [f"A {absent}.", f"A {absent}."] if kind == "caption" else [truth, wrong]
    *_, last = ask(talk, [Says(text) for text in texts], question, SamplingSpec(), seed=0)
    one, other = last.turns[0].answers
    if kind == "caption":
        ((start, end),) = one.wrong
        assert text_of(one.shades)[start:end].strip() == absent and one.missed and one.note == "cut at the limit"
        assert "not in the picture" in talk_html(last, texts)
    else:
        assert (one.note, other.note) == ("right, cut at the limit", f"wrong: {truth}, cut at the limit")
    *_, free = ask(talk, [Says("No.")], "Something else?", SamplingSpec(), seed=0)
    assert free.turns[0].answers[0].note == "cut at the limit", "the facts answer another question"
    row = Group(prompts=(replace(last.prompt(0, question), facts=scene),))
    assert about(row).facts == talk.facts


def test_uploads_are_looked_at_before_they_are_decoded(tmp_path: Path, pictures: list[str]) -> None:
    kept = take_picture(Path(pictures[0]), tmp_path, Bounds())
    assert kept.read_bytes() == Path(pictures[0]).read_bytes() and kept.suffix == ".png"
    assert take_picture(Path(pictures[0]), tmp_path, Bounds()) == kept
    for bounds, why in (
        (Bounds(picture=10), "bytes, expected 10 at most"),
        (Bounds(pixels=99), "1200 pixels, expected 99"),
    ):
        with pytest.raises(DataError, match=why):
            take_picture(Path(pictures[0]), tmp_path, bounds)
    (tmp_path / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0")
    (tmp_path / "half.png").write_bytes(Path(pictures[0]).read_bytes()[:-60])
    for name in ("x.png", "half.png"):
        with pytest.raises(DataError, match="no picture that can be read"):
            take_picture(tmp_path / name, tmp_path, Bounds())
    Image.new("F", (8, 8)).save(tmp_path / "float.tif")
    with pytest.raises(DataError, match="values of 32 bits"):
        take_picture(tmp_path / "float.tif", tmp_path, Bounds())


def test_texts_are_texts_on_the_page() -> None:
    bad = "<script>alert(1)</script>{{x}}${y}"
    talk = Talk(turns=(Turn(question=bad, answers=(Answered(text=bad, error=bad),)),))
    html = talk_html(talk, [bad])
    assert "<script>" not in html and html.count("&lt;script&gt;") == 4


def test_an_answer_ends_where_another_conversation_begins(speaker: Speaker, tmp_path: Path) -> None:
    """Whether or not the browser's word that it is cancelled comes in time."""
    import gradio as gr

    from sightline.app.chat import Seat
    from sightline.app.tab_chat import ChatTab

    desk = Desk(folders=Folders.of([tmp_path]), speakers=(speaker, speaker), scratch=tmp_path)
    with gr.Blocks():
        tab = ChatTab(desk)
    seat = Seat()
    tab.scene(seat, "caption", 0)
    growing = tab.answer(seat, "what?", 0.0, 30, 0, seat.talk.id)
    next(growing)
    next(growing)
    _, asked, _, _ = tab.scene(seat, "caption", 1)
    begun = seat.talk
    assert list(growing) == [] and seat.talk is begun and not begun.turns
    growing = tab.answer(seat, asked, 0.0, 30, 0, seat.talk.id)
    next(growing)
    next(growing)
    assert tab.end(seat).count("stopped") == 2 and list(growing) == []
    (turn,) = seat.talk.turns
    assert [(one.note, one.growing) for one in turn.answers] == [("stopped", False)] * 2
    assert turn.answers[0].text and not turn.answers[1].text
    *_, last = tab.answer(seat, "and now?", 0.0, 4, 0, seat.talk.id)
    assert len(seat.talk.turns) == 2 and "and now?" in last
    lost = Seat()  # the app was started again below the page, or forgot it
    with pytest.raises(gr.Error, match="the page shows another conversation"):
        list(tab.answer(lost, "and now?", 0.0, 4, 0, seat.talk.id))
    shown, said = tab.anew(lost)
    assert not lost.talk.turns and all(f'data-talk="{lost.talk.id}"' in part for part in (shown, said))


def test_the_end_of_turn_behind_half_a_character_is_no_text(speaker: Speaker, pictures: list[str]) -> None:
    whole = tokens_of(speaker, "é")
    assert len(whole) > 1, "a token for each byte"
    response = Response(text="\ufffd", tokens=(whole[0], speaker.engine.ends[0]))
    shades = speaker.shades(prompt(pictures[0]), response)
    assert [(shade.text, shade.special) for shade in shades[:1]] == [("\ufffd", False)] and shades[1].special

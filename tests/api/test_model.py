"""A model that is asked from Python: answers, streams, scores, samples."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from transformers.modeling_utils import local_torch_dtype

import sightline as sl
from command_line import sightline
from sightline.errors import CheckpointError, DataError, RecipeError
from sightline.evaluation.results import read_measured
from sightline.models.load import read_pretrained

QUESTION = "is there a yellow moon in the image?"


@pytest.fixture(scope="module")
def model(tiny: dict[str, Path]) -> sl.Model:
    return sl.load(tiny["llava"])


def test_it_answers_as_chat_does(model: sl.Model, tiny: dict[str, Path], pictures: list[str]) -> None:
    told = sightline("chat", tiny["llava"], "--image", pictures[0], "--question", QUESTION, "--max-tokens", 12).out
    with Image.open(pictures[0]) as opened:
        group = model.answer(opened, QUESTION, max_tokens=12)
    assert group.texts == (told.strip("\n"),)
    assert group.responses[0].finish_reason in ("stop", "length")
    assert model.answer(Path(pictures[0]).read_bytes(), QUESTION, max_tokens=12).texts == group.texts
    assert "".join(model.stream(pictures[0], QUESTION, max_tokens=12)) == group.texts[0]


def test_several_answers_are_sampled_and_a_seed_gives_them_again(model: sl.Model, pictures: list[str]) -> None:
    first = model.answer(pictures[0], QUESTION, n=4, max_tokens=6)
    assert len(set(first.texts)) > 1 and first.texts == model.answer(pictures[0], QUESTION, n=4, max_tokens=6).texts
    assert first.texts != model.answer(pictures[0], QUESTION, n=4, max_tokens=6, seed=1).texts
    assert len(set(model.answer(pictures[0], QUESTION, n=2, temperature=0, max_tokens=6).texts)) == 1


def test_several_pictures_none_and_a_conversation(model: sl.Model, pictures: list[str]) -> None:
    two = model.answer(pictures[:2], QUESTION, max_tokens=3)
    assert len(two.prompts[0].images) == 2 and two.prompts[0].question == QUESTION
    assert model.answer(None, QUESTION, max_tokens=3).prompts[0].images == ()
    said = {"role": "assistant", "content": [{"type": "text", "text": "yes"}]}
    talk = [two.prompts[0].messages[0], said, {"role": "user", "content": [{"type": "text", "text": "how many?"}]}]
    assert model.answer(pictures[:2], talk, max_tokens=3).prompts[0].question == "how many?"
    with pytest.raises(DataError, match="2 image placeholders and 1 images"):
        model.answer(pictures[0], talk, max_tokens=3)


def test_leaving_the_loop_ends_the_work(model: sl.Model, pictures: list[str]) -> None:
    pieces = model.stream(pictures[0], QUESTION, max_tokens=400)
    assert next(pieces)
    assert any(thread.name == "stream" for thread in threading.enumerate())
    pieces.close()  # type: ignore[attr-defined]
    assert not any(thread.name == "stream" for thread in threading.enumerate())


def test_what_goes_wrong_in_a_stream_is_raised_where_it_is_read(model: sl.Model, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"broken\.png"):
        list(model.stream(broken, QUESTION))


def test_scores_are_the_log_probabilities_of_the_sampler(model: sl.Model, pictures: list[str]) -> None:
    sampled = model.answer(pictures[1], "how many?", n=6, max_tokens=8)
    ended = [r for r in sampled.responses if r.finish_reason == "stop" and r.text.isascii()]
    scored = model.score(pictures[1], "how many?", ["one two", "three four five"])
    assert [response.text for response in scored.responses] == ["one two", "three four five"]
    assert all(response.rewards["logprob"] < 0 and response.rewards["tokens"] > 1 for response in scored.responses)
    for one in ended:
        (again,) = model.score(pictures[1], "how many?", [one.text]).responses
        if again.rewards["tokens"] == len(one.tokens or ()):
            assert math.isclose(again.rewards["logprob"], sum(one.rollout_logprobs or ()), abs_tol=1e-3)


def test_rows_are_sampled_as_the_command_does(
    model: sl.Model, tiny: dict[str, Path], pictures: list[str], tmp_path: Path
) -> None:
    rows = [{"id": str(n), "prompt": f"how many, {n}?", "images": [path]} for n, path in enumerate(pictures[:2])]
    sl.write_groups(tmp_path / "prompts.jsonl", sl.read_rows(rows, prompts_only=True))
    options = ("-n", 2, "--max-tokens", 5, "-o", tmp_path / "samples.jsonl")
    assert sightline("sample", tiny["llava"], tmp_path / "prompts.jsonl", *options).code == 0
    there = sl.read_groups(tmp_path / "samples.jsonl")
    ours = model.sample(rows, sl.SamplingSpec(n=2, max_new_tokens=5))
    assert [group.texts for group in ours] == [group.texts for group in there]


def test_scoring_and_pairing_refuse_what_the_commands_refuse(model: sl.Model, pictures: list[str]) -> None:
    group = model.answer(pictures[0], QUESTION, n=2, max_tokens=4)
    with pytest.raises(DataError, match="has answers without a reward"):
        sl.pairs([group])
    with pytest.raises(DataError, match=r"none of 1 groups has an answer\. Sample answers first"):
        sl.score(sl.read_rows([group], prompts_only=True), "scenes")
    with pytest.raises(RecipeError, match=r"the reward is a object without a method reward\(group\)"):
        sl.score([group], object())  # type: ignore[arg-type]
    scored = sl.score([group], {"repetition": 1.0})
    assert all(response.reward is not None for response in scored[0].responses)
    assert set(scored[0].responses[0].rewards) == {"repetition"}


def test_pairs_take_the_options_of_the_command(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    said = ({"role": "user", "content": [{"type": "text", "text": "what?"}]},)
    prompt = sl.Prompt(id="a", messages=said, facts={"answer": "a ball"})
    answers = [sl.Response(text=str(reward), reward=reward) for reward in (0.7, 0.2, 0.5)]
    answers += [sl.Response(text="x", reward_error="no object is named")]
    scored = [sl.Group(prompts=(prompt,), responses=tuple(answers))]
    sl.write_groups(tmp_path / "scored.jsonl", scored)
    rule = sl.SelectionSpec(good=0.6, small_gap=0.4)
    for ours, options in (
        ({"best": True}, ("--best",)),
        ({"relation": "ovip", "selection": rule}, ("--relation", "ovip", "--selection", "good=0.6,small_gap=0.4")),
        ({"min_gap": 0.3, "relation": "ranked"}, ("--min-gap", 0.3, "--relation", "ranked")),
    ):
        done = sightline("pairs", tmp_path / "scored.jsonl", *options, "-o", tmp_path / "out.jsonl")
        assert done.code == 0, done.err
        made, there = sl.pairs(scored, **ours), sl.read_groups(tmp_path / "out.jsonl")
        assert [(one.texts, one.edges) for one in made] == [(one.texts, one.edges) for one in there]
    assert "1 answers got no reward and are left out (first: no object is named)" in caplog.text
    for wrong, told in (
        ({"best": True, "keep_all": True}, "found --best and --keep-all"),
        ({"best": True, "relation": "ranked"}, "found --best and --relation ranked"),
        ({"selection": rule}, "--selection is for --relation ovip, found best_worst"),
        ({"relation": "ovip", "min_gap": 1.0}, "--min-gap is not read with --relation ovip"),
        ({"min_gap": -1.0}, "--min-gap is -1.0, expected 0 or more"),
        ({"relation": "worst_best"}, "relation is 'worst_best', expected one of best_worst"),
    ):
        with pytest.raises(RecipeError, match=told):
            sl.pairs(scored, **wrong)
    for reward, told in (({"repetition": 1.0}, "for one reward model"), ("scenes", "--reward is scenes")):
        with pytest.raises(RecipeError, match=told):
            sl.score(scored, reward, missing_facts="leave_out")
    with pytest.raises(RecipeError, match="--quantization is for reward models, and --reward is an object"):
        sl.score(scored, sl.load_reward("scenes"), quantization="nf4")


def test_preferences_take_the_options_of_the_command(
    tiny: dict[str, Path], pictures: list[str], tmp_path: Path
) -> None:
    rows = [
        {"prompt": f"{n}?", "chosen": "one two", "rejected": "three", "images": [path]}
        for n, path in enumerate(pictures[:2])
    ]
    how = sl.Scoring(limit=1, looking=0, generate=1, max_tokens=2, beta=0.5)
    ours = sl.preferences(tiny["llava"], rows, out=tmp_path / "ours", scoring=how)
    sl.write_groups(tmp_path / "rows.jsonl", sl.read_rows(rows))
    asked = ("--limit", 1, "--looking", 0, "--generate", 1, "--max-tokens", 2, "--beta", 0.5, "-o", tmp_path / "theirs")
    done = sightline("eval", "preferences", "--model", tiny["llava"], "--data", tmp_path / "rows.jsonl", *asked)
    assert done.code == 0, done.err
    theirs = read_measured(tmp_path / "theirs/preferences")
    assert ours.metrics == theirs.metrics and len(ours.result.graded) == 1
    again = sl.Scoring(looking=0)
    with pytest.raises(CheckpointError, match="--overwrite"):
        sl.preferences(tiny["llava"], rows, out=tmp_path / "ours", scoring=again)
    anew = sl.preferences(tiny["llava"], rows, out=tmp_path / "ours", scoring=again, overwrite=True)
    assert len(anew.result.graded) == 2
    with pytest.raises(RecipeError, match="scoring: limit: found 0"):
        sl.preferences(tiny["llava"], rows, scoring=sl.Scoring(limit=0))


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (
            "nowhere.jpg",
            r"picture: picture 'nowhere.jpg' is missing.*Give the path of a file, the bytes of one, or a PIL",
        ),
        (b"no picture", "picture: the 10 bytes of the picture are no image"),
        (7, "picture: a picture is given as int 7"),
    ],
)
def test_what_is_no_picture_is_said(model: sl.Model, picture: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        model.answer(picture, QUESTION)  # type: ignore[arg-type]


def test_options_out_of_range_and_no_answers_are_refused(model: sl.Model, pictures: list[str]) -> None:
    with pytest.raises(RecipeError, match="temperature"):
        model.answer(pictures[0], QUESTION, temperature=-1)
    with pytest.raises(DataError, match=r"answers: found one text, expected texts\. Give a list of texts"):
        model.score(pictures[0], QUESTION, "yes")
    with pytest.raises(RecipeError, match="nowhere/at/all"):
        sl.load("nowhere/at/all")


def test_it_says_what_it_is(model: sl.Model, tiny: dict[str, Path]) -> None:
    assert repr(model).startswith(f"Model({tiny['llava']}: llava, ") and repr(model).endswith("float32 on cpu)")


def test_what_is_no_question_is_said(model: sl.Model) -> None:
    ends = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
    wrong = [
        (None, "expected a question"),
        ([], "expected a question"),
        ([{"role": "user"}], r"messages\[0\]"),
        (ends, "ends"),
        ([{"role": "bot", "content": "hi"}], "'bot'"),
        ([{"role": "user", "content": None}], "expected a string"),
        ([{"role": "user", "content": [{"type": "text"}]}], "a text part without text"),
        ([{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "hi"}]}], "Videos"),
        ([{"role": "user", "content": "hi", "name": "bob"}], "unknown key"),
        ("half \ud83d", "half of a character"),
    ]
    for question, told in wrong:
        with pytest.raises(DataError, match=f"^question: .*{told}"):
            model.answer(None, question)
    for answers in ([1], (text for text in ("a", "b")), {"a", "b"}, []):
        with pytest.raises(DataError, match="expected texts"):
            model.score(None, "hi", answers)
    with pytest.raises(RecipeError, match="expected options by name"):
        sl.load("my/model", pictures=3)
    with pytest.raises(DataError, match="expected rows"):
        model.sample(3)
    with pytest.raises(RecipeError, match="which is loaded"):
        sl.preferences(model, [{"prompt": "a", "chosen": "b", "rejected": "c"}])
    for call in (sl.train, sl.check):
        with pytest.raises(RecipeError, match="no such recipe file"):
            call("nowhere.yaml")


def test_threads_that_ask_one_model_wait_for_each_other(model: sl.Model, pictures: list[str]) -> None:
    asked = [(pictures[0], QUESTION), (pictures[1], "how many objects can you see?")]
    alone = [model.answer(*one, max_tokens=12).texts[0] for one in asked]
    began, done, other = threading.Event(), threading.Event(), threading.Event()
    told: dict[int, str] = {}

    def first() -> None:
        told[0] = _streamed(model, asked[0], lambda: (began.set(), other.wait(0.3)))  # of two at work, the second comes
        done.set()

    def second() -> None:
        told[1] = _streamed(model, asked[1], lambda: (other.set(), done.wait(30)))

    threads = [threading.Thread(target=work, daemon=True) for work in (first, second)]
    threads[0].start()
    assert began.wait(30)
    threads[1].start()
    for thread in threads:
        thread.join(60)
    assert [told.get(0), told.get(1)] == alone
    assert model.answer(*asked[0], max_tokens=12).texts[0] == alone[0]


def _streamed(model: sl.Model, asked: tuple[str, str], at_first: Callable[[], object]) -> str:
    pieces: list[str] = []

    def tell(piece: str) -> None:
        pieces.append(piece)
        if len(pieces) == 1:
            at_first()

    prompt = model.answer(*asked, max_tokens=1).prompts[0]
    sampling = sl.SamplingSpec(temperature=0, max_new_tokens=12)
    model.engine.stream(sl.Group(prompts=(prompt,)), sampling, seed=0, on_text=tell)
    return "".join(pieces)


def test_models_that_load_in_other_threads_change_no_answer(model: sl.Model, pictures: list[str]) -> None:
    """Torch's default dtype, which is that of the whole process, is another one while transformers makes a model."""
    began, other, done = threading.Event(), threading.Event(), threading.Event()
    default = torch.get_default_dtype()

    def drawn() -> list[object]:
        answers = model.answer(pictures[0], QUESTION, n=3, max_tokens=6).responses
        return [(answer.tokens, answer.rollout_logprobs) for answer in answers]

    def made(path: str, **_: object) -> None:
        with local_torch_dtype(torch.bfloat16):
            (began if path == "first" else other).set()
            (other if path == "first" else done).wait(0.3 if path == "first" else 30)  # of two at once the second comes

    def load(path: str) -> None:
        read_pretrained(SimpleNamespace(from_pretrained=made), path)
        done.set()

    try:
        before = drawn()
        torch.set_default_dtype(torch.bfloat16)
        assert drawn() == before
        torch.set_default_dtype(default)
        threads = [threading.Thread(target=load, args=(name,), daemon=True) for name in ("first", "second")]
        threads[0].start()
        assert began.wait(30)
        threads[1].start()
        for thread in threads:
            thread.join(60)
        assert torch.get_default_dtype() == default
    finally:
        torch.set_default_dtype(default)

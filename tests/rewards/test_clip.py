"""CLIP and SigLIP as rewards: tiny ones, against their own forward pass."""

from __future__ import annotations

import itertools
from pathlib import Path

import sightline.models  # noqa: F401  (makes torchvision importable, so before transformers)

# isort: split

import pytest
import torch
from answers import asked
from PIL import Image
from pydantic import ValidationError
from tiny_clip import MOST, save_clip
from transformers import CLIPModel, CLIPProcessor, SiglipModel, SiglipProcessor

from sightline.errors import CheckpointError, DataError
from sightline.recipes.terms import ClipSpec
from sightline.rewards.build import build_reward, build_term
from sightline.rewards.clip import sentences
from sightline.rewards.terms import Failure


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return save_clip(tmp_path_factory.mktemp("clip"))


def cosine(folder: str, text: str, picture: str) -> float:
    """By the model's own forward pass, one text and one picture."""
    kind, processor = {"clip": (CLIPModel, CLIPProcessor), "siglip": (SiglipModel, SiglipProcessor)}[Path(folder).name]
    model, made = kind.from_pretrained(folder), processor.from_pretrained(folder)
    padding = {"padding": "max_length", "max_length": MOST} if kind is SiglipModel else {}
    inputs = made(text=[text], images=[Image.open(picture).convert("RGB")], return_tensors="pt", **padding)
    inputs = {n: inputs[n] for n in inputs if n in ("input_ids", "pixel_values", "attention_mask")}
    if kind is SiglipModel:
        inputs.pop("attention_mask", None)
    with torch.no_grad():
        out = model(**inputs)
    return float((out.text_embeds @ out.image_embeds.T)[0, 0])


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_the_score_is_the_cosine_of_the_models_own_forward_pass(models, pictures, name):
    term = build_term(ClipSpec(path=models[name], unit="answer"))
    texts = ("a red circle", "one green star", "no", "a red circle")
    groups = [asked(*texts[:2], images=[pictures[0]]), asked(*texts[2:], images=[pictures[1]])]
    found = term.values(groups)
    expected = [[cosine(models[name], t, pictures[n]) for t in texts[2 * n : 2 * n + 2]] for n in (0, 1)]
    assert found == [pytest.approx(row, abs=1e-5) for row in expected]
    assert len({round(value, 4) for row in expected for value in row}) > 2  # a model that tells nothing would pass
    alone = build_term(ClipSpec(path=models[name], unit="answer", batch_size=1))
    assert alone.values(groups) == [pytest.approx(row, abs=1e-5) for row in found]


def test_sentences_are_scored_one_by_one_and_averaged(models, pictures):
    term = build_term(ClipSpec(path=models["clip"]))
    parts = ["a red circle.", "one star!", "no"]
    (found,) = term.values([asked(" ".join(parts), images=[pictures[2]])])[0]
    assert found == pytest.approx(sum(cosine(models["clip"], p, pictures[2]) for p in parts) / 3, abs=1e-5)


def test_sentences():
    text = "A dog. It weighs 3.5 kg!\nIs it old? Yes\n- a list\n..."
    assert sentences(text) == ["A dog.", "It weighs 3.5 kg!", "Is it old?", "Yes", "- a list"]
    assert sentences(" \n.") == []
    said = 'Mr. Smith says "stop." He has No. 5, i.e. it is 3.5 m off.'
    assert sentences(said) == ['Mr. Smith says "stop."', "He has No. 5, i.e. it is 3.5 m off."]
    assert sentences("1. A dog\n2. A cat\n这是一只狗。它在跑！") == ["1. A dog", "2. A cat", "这是一只狗。", "它在跑！"]


def test_what_is_too_long_is_cut_between_words_or_refused_and_never_in_silence(models, pictures):
    term = build_term(ClipSpec(path=models["clip"]))
    long = "the picture shows a small red circle and a large blue square next to a green star"
    pieces = term._pieces(long)
    assert " ".join(pieces) == long and len(pieces) > 1
    assert all(term._size(piece) <= MOST for piece in pieces)
    for piece, after in itertools.pairwise(pieces):  # as few as fit
        assert term._size(f"{piece} {after.split()[0]}") > MOST
    (found,) = term.values([asked(long, images=[pictures[0]])])[0]
    expected = sum(cosine(models["clip"], piece, pictures[0]) for piece in pieces) / len(pieces)
    assert found == pytest.approx(expected, abs=1e-5)
    reward = build_reward({"clip": ClipSpec(path=models["clip"], unit="answer")})
    (group,) = reward.rewards([asked(long, "star", "", images=[pictures[0]])])
    assert [r.reward is None for r in group.responses] == [True, False, True]
    assert (
        group.responses[0].reward_error
        == f"clip: the answer has {term._size(long)} tokens, and the text tower reads {MOST}"
    )
    assert group.responses[2].reward_error == "clip: the answer is empty"
    (word,) = term.values([asked("x" * 40, images=[pictures[0]])])[0]
    assert isinstance(word, Failure) and "is longer than 12 tokens" in word.reason


def test_the_nearest_of_several_pictures_counts_and_each_is_embedded_once(models, pictures, monkeypatch):
    term = build_term(ClipSpec(path=models["clip"], unit="answer"))
    looked, look = [], term._look
    monkeypatch.setattr(term, "_look", lambda paths: looked.extend(paths) or look(paths))
    group = asked("a red circle", images=pictures[:3])
    (found,) = term.values([group, group])[0]
    assert found == pytest.approx(max(cosine(models["clip"], "a red circle", p) for p in pictures[:3]), abs=1e-5)
    term.values([asked("one star", images=pictures[1:4])])
    assert looked == pictures[:4]


def test_what_cannot_be_compared_is_refused(models, tmp_path, tiny):
    term = build_term(ClipSpec(path=models["clip"]))
    with pytest.raises(DataError, match=r"f\.jsonl:3: prompt 'p' has no picture"):
        term.check([asked("a")])
    with pytest.raises(DataError, match=r"none\.png"):
        term.values([asked("a", images=["none.png"])])
    with pytest.raises(CheckpointError, match="cannot be loaded as CLIP"):
        build_term(ClipSpec(path=str(tmp_path)))
    with pytest.raises(CheckpointError, match="a model of type llava, expected clip or siglip"):
        build_term(ClipSpec(path=str(tiny["llava"])))


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_an_answer_that_is_too_long_is_read_as_far_as_the_model_reads_where_asked(models, pictures, name):
    term = build_term(ClipSpec(path=models[name], unit="answer", long="cut"))
    long = "the picture shows a small red circle and a large blue square next to a green star"
    (found,) = term.values([asked(long, "star", images=[pictures[0]])])
    kept = term.processor.tokenizer(long, truncation=True, max_length=MOST)["input_ids"]
    assert len(kept) == MOST and kept[-1] == term.processor.tokenizer.eos_token_id
    expected = cosine(models[name], term.processor.tokenizer.decode(kept, skip_special_tokens=True), pictures[0])
    assert found == [
        pytest.approx(expected, abs=1e-5),
        pytest.approx(cosine(models[name], "star", pictures[0]), abs=1e-5),
    ]
    with pytest.raises(ValidationError, match="long: cut is of unit: answer"):
        ClipSpec(path=models[name], long="cut")

"""The probability that an answer begins with yes or no: which tokens count, and that the numbers are the model's."""

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedTokenizerFast,
)

from sightline.errors import DataError, RecipeError
from sightline.evaluation.bench import JudgeRequest
from sightline.evaluation.judge import JudgeClient
from sightline.evaluation.judges.local import LocalBackend
from sightline.recipes.schema import ModelSpec
from sightline.rollouts.first_words import FirstWords, spellings
from sightline.rollouts.hf import load_engine
from sightline.rollouts.text import load_text_engine
from sightline.types import Group, Prompt
from tiny_models import FAMILIES, save_text_model

WORDS = ("yes", "no")
QUESTIONS = ("is there a moon?", "is there a small red circle in the image?", "can you see five objects?", "a star?")


def wrapped(model, **options):
    tokenizer = Tokenizer(model)
    for name, value in options.items():
        setattr(tokenizer, name, value)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<yes>", unk_token="<unk>")


def byte_level():
    words = ["<unk>", "<yes>", "yes", "Yes", "Ġyes", "ĠYES", "eyes", "yess", "Ġno", "No", "no,", "Ċno"]
    model = models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>")
    return wrapped(model, decoder=decoders.ByteLevel()), {"yes": (2, 3, 4, 5), "no": (8, 9, 11)}


def sentencepiece():
    pieces = [("<unk>", 0.0), ("<yes>", 0.0), ("▁yes", -1.0), ("yes", -2.0), ("▁Yes", -1.0), ("▁no", -1.0), ("▁", -3.0)]
    model = models.Unigram(pieces, unk_id=0)
    options = {"pre_tokenizer": pre_tokenizers.Metaspace(), "decoder": decoders.Metaspace()}
    return wrapped(model, **options), {"yes": (2, 3, 4), "no": (5,)}


def wordpiece():
    words = ["<unk>", "<yes>", "yes", "##yes", "no", "##no", "now"]
    model = models.WordPiece({word: n for n, word in enumerate(words)}, unk_token="<unk>")
    options = {"normalizer": normalizers.Lowercase(), "decoder": decoders.WordPiece()}
    return wrapped(model, **options), {"yes": (2,), "no": (4,)}


@pytest.mark.parametrize("made", [byte_level, sentencepiece, wordpiece])
def test_every_token_that_spells_a_word_by_itself_counts_and_no_other(made):
    """Not the end token ``<yes>``, nor ``eyes``, ``no,`` or the continuation ``##yes``."""
    tokenizer, right = made()
    assert {word: spellings(tokenizer, word, 100) for word in WORDS} == right


def test_tokens_behind_the_distribution_of_the_model_do_not_count():
    tokenizer, _ = byte_level()
    assert spellings(tokenizer, "yes", 4) == (2, 3)


def test_a_word_of_several_tokens_is_refused_with_what_it_is_written_as():
    alphabet = {**{chr(97 + n): n for n in range(26)}, "<yes>": 26, "<unk>": 27, "no": 28}
    tokenizer = wrapped(models.BPE(alphabet, [("n", "o")], unk_token="<unk>"))
    assert spellings(tokenizer, "no", 100) == (28,)
    with pytest.raises(RecipeError, match=r"models/m has no token that spells 'yes' .*\['y', 'e', 's'\].*Take another"):
        spellings(tokenizer, "yes", 100, name="models/m")


def asked(text, *images, id="q"):
    parts = [{"type": "image"}] * len(images) + [{"type": "text", "text": text}]
    return Group(prompts=(Prompt(id=id, messages=({"role": "user", "content": parts},), images=tuple(images)),))


def plain(folder, group):
    """As transformers' own forward has it: one prompt, its picture and no tree."""
    from PIL import Image

    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    prompt = group.prompts[0]
    text = processor.apply_chat_template([dict(m) for m in prompt.messages], add_generation_prompt=True)
    images = [Image.open(path).convert("RGB") for path in prompt.images]
    inputs = processor(text=[text], images=images or None, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits[0, -1]
    told = logits.softmax(-1)
    names = {word: [id for id in range(len(told)) if spelled(processor, id) == word] for word in WORDS}
    return spelled(processor, int(logits.argmax())), {word: float(told[ids].sum()) for word, ids in names.items()}


def spelled(processor, token):
    return processor.tokenizer.decode([token]).strip().lower()


@pytest.mark.parametrize("family", FAMILIES)
def test_probabilities_are_those_of_a_plain_forward_whatever_is_asked_beside_it(family, tiny, pictures):
    engine = load_engine(ModelSpec(path=str(tiny[family])))
    groups = [asked(question, picture) for question in QUESTIONS for picture in pictures[:2]]
    groups += [asked("is it?", *pictures[1:3]), asked("is there a moon?", pictures[0])]
    for group, found in zip(groups, engine.first_words(groups, WORDS), strict=True):
        text, told = plain(tiny[family], group)
        assert found.text.lower() == text
        assert found.probabilities == pytest.approx(told, abs=1e-5) and 0 < told["yes"] != told["no"]


def test_a_picture_is_encoded_once_for_all_questions_of_a_pass(tiny, pictures):
    engine = load_engine(ModelSpec(path=str(tiny["llava"])))
    seen = []
    tower = engine.policy.base.model.vision_tower
    tower.register_forward_hook(
        lambda module, given, kept, result: seen.append(len(result.last_hidden_state)), with_kwargs=True
    )
    groups = [asked(question, picture) for question in QUESTIONS for picture in pictures[:2]]
    whole = engine.first_words(groups, WORDS)
    assert len(seen) == 1 and seen[0] == 2  # both pictures in one pass
    small = FirstWords(engine.policy, engine.renderer, pass_tokens=1).of(groups, WORDS)
    assert seen[1:] == [1] * len(groups)
    for one, other in zip(whole, small, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-6)


def test_a_local_judge_tells_probabilities_and_fails_one_question_alone(tiny, pictures):
    backend = LocalBackend(lambda: load_engine(ModelSpec(path=str(tiny["llava"]))), name="m")
    texts = ["is there a moon?", "is there <image> here?", "a star?"]
    requests = [
        JudgeRequest(
            id=str(n),
            messages=[{"role": "user", "content": text}],
            images=(pictures[0],),
            max_tokens=1,
            choices=WORDS,
        )
        for n, text in enumerate(texts)
    ]
    right, wrong, also = JudgeClient(backend).ask(requests)
    assert wrong.text is None and wrong.final and "<image>" in wrong.error
    for text, reply in ((texts[0], right), (texts[2], also)):
        assert reply.probabilities == pytest.approx(plain(tiny["llava"], asked(text, pictures[0]))[1], abs=1e-5)


def test_a_language_model_tells_them_of_text_alone(tmp_path):
    """As its own forward of the chat has it; with a picture it is refused."""
    engine = load_text_engine(ModelSpec(path=str(save_text_model(tmp_path))))
    tokenizer, model = engine.model.tokenizer, engine.model.model
    groups = [asked("is there a moon?"), asked("a star?")]
    for group, found in zip(groups, engine.first_words(groups, WORDS), strict=True):
        text = f"user: {group.prompts[0].messages[0]['content'][0]['text']} assistant:"
        with torch.no_grad():
            told = model(**tokenizer(text, return_tensors="pt", return_token_type_ids=False)).logits[0, -1].softmax(-1)
        for word in WORDS:
            ids = [id for id in range(len(tokenizer)) if tokenizer.decode([id]).strip().lower() == word]
            assert found.probabilities[word] == pytest.approx(float(told[ids].sum()), abs=1e-6) and ids
    with pytest.raises(DataError, match="sees no pictures"):
        engine.first_words([asked("a star?", "p.png")], WORDS)

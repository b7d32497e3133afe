"""Whatever the chat template: what is trained of an answer is its text and one token that ends it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from groups import assistant, user
from published_templates import LLAVA_15, PUBLISHED, QWEN2, Published, chatml
from tokenizers import normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sightline.data.encode import ChatEncoder
from sightline.errors import DataError, RecipeError
from sightline.models.load import load_processor
from sightline.recipes.schema import ModelSpec
from tiny_models import byte_level_tokenizer

CASES = Path(__file__).resolve().parents[2].parent / "shared" / "cases" / "training"
ANSWERS = ("A lamp.", "Two: one red, one blue.\nThe red one is lit", "yes")


def processor_of(published: Published) -> Any:
    """A tokenizer with these special tokens, behind the one method of a processor that is used."""
    special = dict.fromkeys((published.eos, published.image, *published.others, published.bos or published.eos))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_level_tokenizer(list(special)),
        eos_token=published.eos,
        bos_token=published.bos,
        extra_special_tokens=[*published.others, published.image],
    )
    return SimpleNamespace(
        tokenizer=tokenizer,
        chat_template=published.template,
        image_token=published.image,
        image_token_id=tokenizer.convert_tokens_to_ids(published.image),
        apply_chat_template=tokenizer.apply_chat_template,
    )


def conversation(answers: int, *, weight: int | None = 1) -> tuple[Any, ...]:
    """So many questions, each but the last with its answer; the first has a picture."""
    messages: list[Any] = []
    for index in range(answers):
        messages.append(user(None, "How many lamps?") if index == 0 else user(f"And {index}?"))
        if index + 1 < answers:
            messages.append(assistant(ANSWERS[index], weight=weight))
    return tuple(messages)


def plain(processor: Any, messages: Any) -> list[int]:
    """As transformers does it."""
    text = processor.apply_chat_template(
        list(messages), chat_template=processor.chat_template, tokenize=False, add_generation_prompt=True
    )
    return processor.tokenizer(text, add_special_tokens=False).input_ids


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("answers", [1, 2, 3])
def test_every_trained_answer_is_its_text_and_one_end(name: str, answers: int) -> None:
    published = PUBLISHED[name]
    processor = processor_of(published)
    encoder, decode = ChatEncoder(processor), processor.tokenizer.decode
    messages = conversation(answers)
    encoded = encoder.prompt(messages)
    trained = [decode(encoded.ids[start:end]) for start, end in encoded.spans]
    trained.append(decode(encoder.answer(messages, ANSWERS[answers - 1])))
    assert [text.lstrip(" ") for text in trained] == [answer + published.end for answer in ANSWERS[:answers]]
    ends = [processor.tokenizer.convert_tokens_to_ids(token) for token in {published.eos, published.end}]
    spans = [encoded.ids[start:end] for start, end in encoded.spans]
    assert [sum(token in ends for token in span) for span in spans] == [1] * (answers - 1)
    assert encoder.end_id == processor.tokenizer.convert_tokens_to_ids(published.end)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_history_that_is_only_read_is_what_the_template_writes(name: str) -> None:
    processor = processor_of(PUBLISHED[name])
    messages = conversation(3, weight=None)
    assert list(ChatEncoder(processor).prompt(messages).ids) == plain(processor, messages)


def test_an_end_that_the_template_lacks_is_added_behind_every_trained_answer() -> None:
    processor = processor_of(PUBLISHED["llava-1.5"])
    encoded = ChatEncoder(processor).prompt(conversation(3))
    assert processor.tokenizer.decode(encoded.ids) == (
        "USER: <image>\nHow many lamps? ASSISTANT: A lamp.</s> USER: And 1? "
        "ASSISTANT: Two: one red, one blue.\nThe red one is lit</s> USER: And 2? ASSISTANT:"
    )


def restripped() -> tuple[Any, Any]:
    """A template that drops the reasoning of earlier answers."""
    keep = "{{ p.text.split('</think>')[-1] if m.role == 'assistant' and not loop.last else p.text }}"
    template = chatml("<|image_pad|>").replace("{{ p.text }}", keep.replace("loop.last", "m is sameas messages[-1]"))
    messages = (
        user(None, "How many lamps?"),
        assistant("<think>I count them.</think>Two.", weight=1),
        user("Which one is lit, the left one or the right one?"),
    )
    published = PUBLISHED["qwen3-vl"]
    return processor_of(Published(**{**vars(published), "template": template})), messages


def test_a_template_that_rewrites_earlier_answers_is_refused_where_they_are_trained() -> None:
    processor, messages = restripped()
    encoder = ChatEncoder(processor)
    with pytest.raises(DataError, match=r"the chat template writes an earlier answer otherwise.*train_on: last"):
        encoder.prompt(messages)
    read = tuple({key: value for key, value in message.items() if key != "weight"} for message in messages)
    text = processor.tokenizer.decode(encoder.prompt(read).ids)
    assert "Two." in text and "I count" not in text and "Which one is lit, the left one or the right one?" in text
    assert processor.tokenizer.decode(encoder.answer(messages, "<think>Light.</think>The left one.")) == (
        "<think>Light.</think>The left one.<|im_end|>"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("{{ p.text }}", "{{ p.text | upper }}"), "rewrites an answer|leaves out"),
        (("{{ p.text }}", "{{ p.text.split('.')[0] }}"), "rewrites an answer"),
    ],
)
def test_a_template_that_rewrites_an_answer_is_refused(change: tuple[str, str], message: str) -> None:
    published = PUBLISHED["qwen3-vl"]
    processor = processor_of(Published(**{**vars(published), "template": published.template.replace(*change)}))
    with pytest.raises((DataError, RecipeError), match=message):
        ChatEncoder(processor).answer(conversation(1), "A lamp. It is lit.")


def test_templates_that_take_strings_get_strings() -> None:
    published = PUBLISHED["llava-1.6-hermes-yi"]
    strings = chatml("").replace("{% for p in m.content %}{% if p.type == 'image' %}{% else %}{{ p.text }}{% endif %}"
                                 "{% endfor %}", "{{ m.content }}")  # fmt: skip
    assert "m.content }}" in strings
    for template in (strings, strings.replace("{{ m.content }}", "{{ m.content + '' }}")):
        processor = processor_of(Published(**{**vars(published), "template": template}))
        encoder = ChatEncoder(processor)
        messages = (user("Hello"), assistant("Hi.", weight=1), user("Well", "?"))
        assert processor.tokenizer.decode(encoder.prompt(messages).ids) == (
            "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\nHi.<|im_end|>\n"
            "<|im_start|>user\nWell?<|im_end|>\n<|im_start|>assistant\n"
        )
        with pytest.raises(DataError, match="takes strings from the user, and the message holds a picture"):
            encoder.prompt((user(None, "Hello"),))


def test_strings_reach_templates_that_take_parts() -> None:
    processor = processor_of(PUBLISHED["llava-1.5"])
    text = processor.tokenizer.decode(ChatEncoder(processor).prompt(({"role": "user", "content": "Hello"},)).ids)
    assert text == "USER: Hello ASSISTANT:"


def test_a_template_that_leaves_a_turn_out_is_refused() -> None:
    silent = LLAVA_15.replace("m.content if p.type == 'text'", "m.content if p.type == 'words'")
    with pytest.raises(RecipeError, match="leaves out what the user says"):
        ChatEncoder(processor_of(Published(**{**vars(PUBLISHED["llava-1.5"]), "template": silent})))


@pytest.mark.parametrize("name", PUBLISHED)
def test_control_tokens_in_a_text_are_refused_and_like_ones_stay_text(name: str) -> None:
    published = PUBLISHED[name]
    processor = processor_of(published)
    encoder = ChatEncoder(processor)
    for token in encoder.template.special:
        asked = (user(f"What is {token}?"),), (user(token[:2], token[2:]),), (user("a"), assistant(token), user("b"))
        for messages in asked:
            with pytest.raises(DataError, match=r"contains .*, which is no text to the tokenizer"):
                encoder.prompt(messages)
        with pytest.raises(DataError, match="an answer contains"):
            encoder.answer((user("What?"),), f"It is {token}")
    text = "a < b, </S>, <|im_ end|>, <IMAGE >, [img]"
    ids = encoder.prompt((user(text),)).ids
    assert text in processor.tokenizer.decode(ids) and list(ids) == plain(processor, (user(text),))


@pytest.mark.real
def test_the_case_of_a_template_that_restrips(tiny: dict[str, Path]) -> None:
    if not CASES.is_dir():
        pytest.skip("the folder of small failing inputs (../shared/cases) is absent")
    from sightline.data.load import load_groups
    from sightline.data.render import Renderer
    from sightline.models.families.qwen2_5_vl import QWEN2_5_VL
    from sightline.recipes.schema import DataSpec

    template = str(CASES / "restripped_history.jinja")
    renderer = Renderer(load_processor(ModelSpec(path=str(tiny["qwen2_5_vl"]), chat_template=template)), QWEN2_5_VL)
    for train_on, refused in (("all", True), ("last", False)):
        (group,) = load_groups(DataSpec(path=str(CASES / "restripped_history.jsonl"), train_on=train_on))
        if refused:
            with pytest.raises(DataError, match="writes an earlier answer otherwise"):
                renderer.render(group)
            continue
        prompt = renderer.tokenizer.decode(renderer.render(group).prompts[0].tokens)
        assert "Which one is lit, the left one or the right one?" in prompt and "one by one" not in prompt


def test_the_traits_are_those_of_the_published_templates() -> None:
    """So that the cases above do not drift into one."""
    ends = {name: published.end in published.template for name, published in PUBLISHED.items()}
    assert not ends["llava-1.5"] and not ends["llava-1.6-mistral"] and ends["llava-1.6-vicuna"]
    assert r"<\s>" in PUBLISHED["llava-1.6-mistral"].template and "is string" in QWEN2
    assert {name for name, p in PUBLISHED.items() if p.eos != p.end} == {"gemma-3", "idefics3"}


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("kind", ["bytes", "metaspace", "prepend"])
def test_a_trained_history_has_the_ids_of_its_whole_text(name: str, kind: str) -> None:
    processor = processor_of(PUBLISHED[name])
    backend = processor.tokenizer.backend_tokenizer
    if kind == "metaspace":  # as Llama's: the first word of a text, and no other, gets a blank before it
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Metaspace(prepend_scheme="first"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    if kind == "prepend":  # as the older ones: every piece between control tokens gets one
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("_"), normalizers.Replace(" ", "_")])
    encoder = ChatEncoder(processor)
    messages, whole = conversation(3), ""
    befores = [encoder.template.text(messages[:index], generation=True) for index in (1, 3, 5)]
    written = ""
    for index, before in zip((1, 3), befores, strict=False):
        turn = encoder.template.turn(messages[:index], messages[index], before, befores[(index + 1) // 2])
        whole, written = whole + before[len(written) :] + turn.answer + turn.end, turn.written
    whole += befores[2][len(written) :]
    bos = processor.tokenizer.bos_token
    plain_ids = processor.tokenizer(whole, add_special_tokens=not (bos and whole.startswith(bos))).input_ids
    assert list(encoder.prompt(messages).ids) == plain_ids


def test_a_prompt_is_written_once_for_all_its_answers() -> None:
    processor, written = processor_of(PUBLISHED["qwen2-vl"]), []
    write = processor.apply_chat_template

    def noted(messages: Any, **options: Any) -> Any:
        written.append(len(messages))
        return write(messages, **options)

    encoder = ChatEncoder(processor)
    processor.apply_chat_template = noted
    messages = conversation(1)
    encoder.prompt(messages)
    for answer in ANSWERS:
        encoder.answer(messages, answer)
    assert written == [1, 2, 2, 2]

"""Groups to ids and pixels: as the processor does it, with the answer cut where the prompt ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from groups import assistant, corner_groups, user
from PIL import Image

from sightline.data.render import Renderer
from sightline.errors import DataError, RecipeError
from sightline.models.family import family_of
from sightline.models.load import load_policy, load_processor
from sightline.recipes.schema import ModelSpec
from sightline.types import Group, Prompt, Response
from tiny_models import FAMILIES


def renderer_of(path: Path, **options: object) -> Renderer:
    policy = load_policy(ModelSpec(path=str(path), **options), trainable=False)  # type: ignore[arg-type]
    return Renderer(policy.processor, policy.family)


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_are_what_the_processor_makes(tiny: dict[str, Path], pictures: list[str], family: str) -> None:
    renderer = renderer_of(tiny[family])
    for group in corner_groups(pictures)[:5]:
        rendered = renderer.render(group)
        for prompt, own in zip(group.prompts, rendered.prompts, strict=True):
            text = renderer.processor.apply_chat_template(
                list(prompt.messages), tokenize=False, add_generation_prompt=True
            )
            images = [Image.open(path).convert("RGB") for path in prompt.images] or None
            expected = renderer.processor(text=[text], images=images, return_tensors="pt")
            assert expected["input_ids"][0].tolist() == list(own.tokens)
            joined = renderer.family.join([rendered.images[index].tensors for index in own.images])
            for key, value in joined.items():
                assert torch.equal(value, expected[key]), key


def test_what_a_processor_writes_for_a_picture_is_tokenized_once(
    tiny: dict[str, Path], pictures: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    renderer, told = renderer_of(tiny["llava"]), []
    expand = renderer._expanded
    monkeypatch.setattr(renderer, "_expanded", lambda text: told.append(text) or expand(text))
    first, second = (renderer.image(path) for path in pictures[:2])
    assert first.key != second.key and first.num_tokens == second.num_tokens
    assert len(told) == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_length_from_the_size_of_a_picture_is_the_length_rendered(
    tiny: dict[str, Path], tmp_path: Path, family: str
) -> None:
    renderer = renderer_of(tiny[family])
    for index, size in enumerate([(31, 17), (64, 64), (200, 40), (40, 190), (33, 95), (128, 96)]):
        path = tmp_path / f"{index}.jpg"
        turned = Image.Exif()
        turned[0x0112] = 6 if index % 2 else 1  # orientation: a quarter turn
        Image.new("RGB", size, (9, 99, 199)).save(path, exif=turned)
        group = Group(
            prompts=(Prompt(id="0", messages=(user(None, "what?", None),), images=(str(path),) * 2),),
            responses=(Response(text="a"), Response(text="a longer answer")),
        )
        rendered = renderer.render(group)
        longest = len(rendered.prompts[0].tokens) + max(len(response.tokens) for response in rendered.responses)
        assert renderer.num_tokens(group) == longest
        assert len(rendered.images) == 1


def test_the_processor_is_asked_once_about_each_size(tiny: dict[str, Path], tmp_path: Path, monkeypatch: Any) -> None:
    renderer, asked = renderer_of(tiny["qwen2_5_vl"]), []
    count = renderer.processor._get_num_multimodal_tokens

    def counting(image_sizes: Any) -> Any:
        asked.append(image_sizes[0])
        return count(image_sizes=image_sizes)

    monkeypatch.setattr(renderer.processor, "_get_num_multimodal_tokens", counting)
    for index in range(6):
        Image.new("RGB", [(64, 64), (96, 64)][index % 2], (index, 9, 9)).save(tmp_path / f"{index}.png")
    numbers = [renderer.image_tokens(str(tmp_path / f"{index}.png")) for index in range(6)]
    assert asked == [(64, 64), (64, 96)] and numbers == numbers[:2] * 3 and numbers[0] != numbers[1]


def test_an_answer_ends_its_turn_and_is_cut_there(tiny: dict[str, Path]) -> None:
    group = Group(prompts=(Prompt(id="0", messages=(user("hello"),)),), responses=(Response(text="a blue star"),))
    for family, end in (("llava", "</s>"), ("qwen2_5_vl", "<|im_end|>")):
        renderer = renderer_of(tiny[family])
        rendered = renderer.render(group)
        whole = renderer.tokenizer.decode([*rendered.prompts[0].tokens, *rendered.responses[0].tokens])
        assert whole.endswith(f"a blue star{end}")
        assert rendered.responses[0].tokens.count(renderer.tokenizer.eos_token_id) == 1
        assert all(rendered.responses[0].trained)


def test_sampled_tokens_are_kept_as_they_are(tiny: dict[str, Path]) -> None:
    group = Group(
        prompts=(Prompt(id="0", messages=(user("hello"),)),),
        responses=(Response(text="x", tokens=(9, 8, 7), trained=(True, False, True)),),
    )
    (response,) = renderer_of(tiny["llava"]).render(group).responses
    assert response.tokens == (9, 8, 7)
    assert response.trained == (True, False, True)


@pytest.mark.parametrize(
    ("text", "extra", "message"),
    [
        ("a blue star", (), ""),
        (" a  blue star\n", (), ""),
        ("a red star", (), "spell 'a blue star' with this tokenizer, and its text is 'a red star'"),
        ("a blue star", (90,), "spell 'a blue star"),
        ("a blue star", (3,), "hold the image placeholder '<image>'"),
    ],
)
def test_tokens_of_rows_must_spell_their_text(
    tiny: dict[str, Path], text: str, extra: tuple[int, ...], message: str
) -> None:
    """An edited text, or answers of a model with another tokenizer, would be trained as what they are not."""
    renderer = renderer_of(tiny["llava"])
    tokens = (*renderer.tokenizer("a blue star", add_special_tokens=False).input_ids, *extra, 2)
    group = Group(
        prompts=(Prompt(id="0", messages=(user("hello"),)),),
        responses=(Response(text=text, tokens=tokens),),
        source="f:3",
    )
    if not message:
        assert renderer.num_tokens(group) == len(renderer.render(group).prompts[0].tokens) + len(tokens)
        return
    with pytest.raises(DataError, match=f"^f:3: .*{message}"):
        renderer.num_tokens(group)


def test_a_template_that_refuses_a_conversation(tiny: dict[str, Path]) -> None:
    renderer = renderer_of(tiny["llava"])
    renderer.encoder.template.source = "{{ raise_exception('System role not supported') }}"
    group = Group(prompts=(Prompt(id="0", messages=(user("hello"),)),), source="f:3")
    with pytest.raises(
        DataError, match=r"^f:3: the chat template refuses the conversation \(System role not supported"
    ):
        renderer.num_tokens(group)


@pytest.mark.parametrize("family", FAMILIES)
def test_trained_history_is_the_assistant_turns_of_weight_one(
    tiny: dict[str, Path], pictures: list[str], family: str
) -> None:
    renderer = renderer_of(tiny[family])
    messages = (user("one", None), assistant("first answer", weight=1), user("two"), assistant("second"), user("three"))
    group = Group(
        prompts=(Prompt(id="0", messages=messages, images=(pictures[0],)),), responses=(Response(text="end"),)
    )
    (prompt,) = renderer.render(group).prompts
    assert len(prompt.trained) == 1
    start, end = prompt.trained[0]
    text = renderer.tokenizer.decode(prompt.tokens[start:end])
    assert text.strip() == f"first answer{renderer.tokenizer.eos_token}"


@pytest.mark.parametrize(
    ("prompt", "answer", "message"),
    [
        ((user(None, "?"),), "x", "renders to 1 image placeholders and has 0 images"),
        ((user("a <image> b"),), "x", "a user message contains the image placeholder '<image>'"),
        ((user("?"),), "  ", "the answer is empty"),
        ((user("?"),), "look: <image>", "contains the image placeholder '<image>'"),
    ],
)
def test_what_would_train_wrongly_is_refused(tiny: dict[str, Path], prompt: tuple, answer: str, message: str) -> None:
    group = Group(
        prompts=(Prompt(id="row-7", messages=prompt),), responses=(Response(text=answer),), source="file.json:7"
    )
    with pytest.raises(DataError, match=message) as caught:
        renderer_of(tiny["llava"]).render(group)
    assert "file.json:7" in str(caught.value)


def test_a_broken_picture_is_named(tiny: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    prompt = Prompt(id="0", messages=(user(None, "?"),), images=(str(tmp_path / "broken.png"),))
    group = Group(prompts=(prompt,), responses=(Response(text="x"),), source="data.json:3")
    for use in (Renderer.render, Renderer.num_tokens):
        with pytest.raises(DataError, match=r"data.json:3|broken.png.*cannot be read"):
            use(renderer_of(tiny["llava"]), group)


def test_the_cache_of_pictures_forgets_the_oldest(tiny: dict[str, Path], pictures: list[str]) -> None:
    policy = load_policy(ModelSpec(path=str(tiny["llava"])), trainable=False)
    one = 3 * 32 * 32 * 4
    renderer = Renderer(policy.processor, policy.family, cache_bytes=2 * one)
    first = renderer.image(pictures[0])
    assert renderer.image(pictures[0]) is first
    for path in pictures[1:3]:
        renderer.image(path)
    assert renderer.image(pictures[2]) is renderer.image(pictures[2])
    assert renderer.image(pictures[0]) is not first


def test_image_size_of_the_recipe_reaches_the_processor(tiny: dict[str, Path], pictures: list[str]) -> None:
    small = {"shortest_edge": 64, "longest_edge": 256}
    path = pictures[3]  # 48 x 96 pixels
    plain = renderer_of(tiny["qwen2_5_vl"])
    bound = renderer_of(tiny["qwen2_5_vl"], image_size=small)
    assert plain.image(path).num_tokens > bound.image(path).num_tokens
    assert bound.image(path).num_tokens == bound.image_tokens(path) <= 256 // 64


def test_a_processor_without_template_or_end_is_refused(tiny: dict[str, Path]) -> None:
    spec = ModelSpec(path=str(tiny["llava"]))
    policy = load_policy(spec, trainable=False)
    processor = load_processor(spec)
    processor.chat_template = processor.tokenizer.chat_template = None
    with pytest.raises(RecipeError, match="no chat template"):
        Renderer(processor, family_of(policy.config))
    processor = load_processor(spec)
    processor.tokenizer.eos_token = None
    with pytest.raises(RecipeError, match="no eos_token"):
        Renderer(processor, family_of(policy.config))

"""Rendered rows as people read them: which tokens are marked, how pictures fold, what is cut."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from groups import assistant, user

from sightline.data.render import Renderer
from sightline.data.shown import Piece, as_text, shown_row, stretches
from sightline.models.family import family_of
from sightline.models.load import load_processor
from sightline.recipes.schema import ModelSpec, SegmentSpec
from sightline.types import Edge, Group, Prompt, Response
from tiny_models import FAMILIES


@pytest.fixture(scope="session")
def renderers(tiny: dict[str, Path]) -> dict[str, Renderer]:
    from transformers import AutoConfig

    made = {}
    for family in FAMILIES:
        processor = load_processor(ModelSpec(path=str(tiny[family])))
        made[family] = Renderer(processor, family_of(AutoConfig.from_pretrained(tiny[family])))
    return made


def preference(picture: str) -> Group:
    prompt = Prompt(id="a", messages=(user(None, "what is it?"),), images=(picture,))
    answers = (Response(text="a red circle"), Response(text="a blue square"))
    return Group(prompts=(prompt,), responses=answers, edges=(Edge(winner=0, loser=1),), source="rows.jsonl:3")


def test_a_preference_shows_both_answers_and_folds_the_picture(
    renderers: dict[str, Renderer], pictures: list[str]
) -> None:
    renderer = renderers["llava"]
    text = as_text(shown_row(renderer.render(preference(pictures[0])), renderer.tokenizer))
    lengths = renderer.lengths(preference(pictures[0]))
    assert (lengths.prompts, lengths.pictures, lengths.answers) == ((30,), (16,), ((0, 4), (0, 4)))
    assert text == (
        "rows.jsonl:3\n"
        "  picture 1: pictures0/0.png, 40 x 30, 16 tokens\n"
        "  prompt (pictures0/0.png): 30 tokens\n"
        "    USER: <image x16>⏎what is it? ASSISTANT:\n"
        "  chosen: 4 tokens, 4 trained\n"
        "    « a red circle</s>»\n"
        "  rejected: 4 tokens, 4 trained\n"
        "    « a blue square</s>»"
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_pieces_spell_every_token_and_pictures_stand_for_theirs(
    renderers: dict[str, Renderer], pictures: list[str], family: str
) -> None:
    renderer = renderers[family]
    messages = (user(None, "é ☃ 日本 first", None), assistant("yés ☃", weight=1), user("and now?"))
    prompt = Prompt(id="a", messages=messages, images=(pictures[1], pictures[5]))
    rendered = renderer.render(Group(prompts=(prompt,), responses=(Response(text="☃ nothing 日"),)))
    row = shown_row(rendered, renderer.tokenizer)
    for part, ids in zip(row.parts, (rendered.prompts[0].tokens, rendered.responses[0].tokens), strict=True):
        assert part.tokens == len(ids)
        plain = "".join(piece.text for piece in part.pieces if piece.picture is None)
        kept, at = [], 0
        for piece in part.pieces:
            kept += [] if piece.picture is not None else ids[at : at + piece.tokens]
            at += piece.tokens
        assert plain == renderer.tokenizer.decode(kept, clean_up_tokenization_spaces=False)
    folded = [piece for piece in row.parts[0].pieces if piece.picture is not None]
    assert [piece.picture for piece in folded] == [0, 1]
    assert [piece.text for piece in folded] == [f"<image x{image.num_tokens}>" for image in rendered.images]
    (start, end), *_ = rendered.prompts[0].trained
    assert row.parts[0].trained == end - start
    marked = "".join(piece.text for piece in row.parts[0].pieces if piece.trained)
    assert marked.strip().startswith("yés ☃")


def test_an_expansion_with_other_tokens_folds_whole(renderers: dict[str, Renderer], pictures: list[str]) -> None:
    renderer = renderers["llava"]
    rendered = renderer.render(preference(pictures[0]))
    (image,), (prompt,) = rendered.images, rendered.prompts
    place, frame = prompt.placeholders[0], 7
    expansion = (frame, *[renderer.placeholder] * 16, frame)
    tokens = (*prompt.tokens[:place], *expansion, *prompt.tokens[place + 16 :])
    framed = replace(prompt, tokens=tokens, placeholders=tuple(one + 1 for one in prompt.placeholders))
    made = replace(rendered, prompts=(framed,), images=(replace(image, expansion=expansion),))
    row = shown_row(made, renderer.tokenizer)
    assert [(p.text, p.tokens) for p in row.parts[0].pieces if p.picture is not None] == [("<image x16 +2>", 18)]
    assert row.parts[0].tokens == len(tokens)


def test_weights_labels_and_visual_comparisons_are_named(renderers: dict[str, Renderer], pictures: list[str]) -> None:
    plain = renderers["llava"]
    weighing = Renderer(plain.processor, plain.family, segments=SegmentSpec(corrected=5.0, shared=1.0))
    row = shown_row(weighing.render(preference(pictures[0])), plain.tokenizer)
    runs = [(piece.text.strip(), piece.weight) for piece in stretches(row.parts[1])]
    assert runs == [("a", 1.0), ("red circle", 5.0), ("</s>", 1.0)]
    assert "»×5«</s>»" in as_text(row)

    first = preference(pictures[0])
    second = replace(first.prompts[0], id="b", images=(pictures[1],))
    answers = (*first.responses, Response(text="a red circle", prompt=1, label=False, reward=0.5))
    edges = (*first.edges, Edge(winner=0, loser=2, kind="image"))
    row = shown_row(
        plain.render(replace(first, prompts=(first.prompts[0], second), responses=answers, edges=edges)),
        plain.tokenizer,
    )
    assert [(part.title, part.note) for part in row.parts] == [
        ("prompt 1", "pictures0/0.png"),
        ("prompt 2", "pictures0/1.png"),
        ("answer 1", "to prompt 1, over answer 2 (text), 3 (image)"),
        ("answer 2", "to prompt 1"),
        ("answer 3", "to prompt 2, undesirable, reward 0.5"),
    ]


def test_a_reward_is_read_at_the_last_token(renderers: dict[str, Renderer], pictures: list[str]) -> None:
    renderer = renderers["llava"]
    row = shown_row(renderer.render(preference(pictures[0])), renderer.tokenizer, scores=True)
    assert [part.trained for part in row.parts] == [0, 1, 1]
    assert [p for p in row.parts[1].pieces if p.trained] == [Piece(text="</s>", trained=True, special=True)]
    assert "4 tokens, 1 scored" in as_text(row)


def test_long_texts_are_cut_in_the_middle(renderers: dict[str, Renderer], pictures: list[str]) -> None:
    renderer = renderers["llava"]
    group = preference(pictures[0])
    long = replace(group, responses=(Response(text="red " * 500 + "end"), group.responses[1]))
    line = as_text(shown_row(renderer.render(long), renderer.tokenizer), most=100).splitlines()[5].strip()
    assert len(line) == 101 and line.startswith("« red red") and line.endswith("red end</s>»") and " ... " in line

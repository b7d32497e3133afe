"""Every family can be sized without its weights, and its rows shown as it sees them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sightline.data.render import Renderer
from sightline.data.shown import shown_row
from sightline.models.load import load_policy
from sightline.models.outline import outline, patches_of, read_card
from sightline.recipes.schema import ModelSpec, PartsSpec
from sightline.types import Group, Prompt, Response
from tiny_families import BUILDERS


@pytest.mark.parametrize("model_type", BUILDERS)
def test_an_outline_counts_what_loading_trains_and_rows_are_shown(
    folder_of: Callable[[str], Path], pictures: list[str], model_type: str
) -> None:
    parts = PartsSpec(language="lora", projector="full")
    card = read_card(ModelSpec(path=str(folder_of(model_type)), parts=parts, layout="rows"))
    sizes, policy = outline(card), load_policy(card.spec)
    trained = {part: sum(p.numel() for _, p in named) for part, named in policy.parts().items()}
    assert {part.part: part.trained for part in sizes.parts} == trained
    assert sum(part.held for part in sizes.parts) == sum(p.numel() * p.element_size() for p in policy.parameters())
    assert min(sizes.hidden, sizes.intermediate, sizes.layers, sizes.vision_hidden, sizes.vision_layers) > 0

    renderer = Renderer(card.processor, card.family)
    messages = ({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is it?"}]},)
    group = Group(
        prompts=(Prompt(id="a", messages=messages, images=(pictures[3],)),), responses=(Response(text="a star"),)
    )
    rendered = renderer.render(group)
    row = shown_row(rendered, renderer.tokenizer)
    assert [part.tokens for part in row.parts] == [len(rendered.prompts[0].tokens), len(rendered.responses[0].tokens)]
    (picture,) = [piece for piece in row.parts[0].pieces if piece.picture is not None]
    assert picture.text.startswith(f"<image x{rendered.images[0].num_tokens}")
    texts = "".join(piece.text for piece in row.parts[0].pieces)
    assert "what is it?" in texts and texts.count("<image x") == 1
    assert patches_of(rendered.images[0], card.config) >= 1

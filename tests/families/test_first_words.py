"""Of every family: the probabilities of first words are those of one prompt alone in the model's own forward."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sightline.data.render import Renderer
from sightline.models.layout import lay_out
from sightline.recipes.schema import ModelSpec
from sightline.rendered import RenderedResponse
from sightline.rollouts.hf import load_engine
from sightline.types import Group, Prompt, Response
from tiny_families import BUILDERS

QUESTIONS = ("is there a moon?", "is there a small red circle in the image?", "a star?")
WORDS = ("e", "t")
"""Tokens of the tiny tokenizers."""


def asked(text: str, picture: str) -> Group:
    content = [{"type": "image"}, {"type": "text", "text": text}]
    return Group(prompts=(Prompt(id=text, messages=({"role": "user", "content": content},), images=(picture,)),))


@pytest.mark.parametrize("model_type", BUILDERS)
def test_first_words(model_type: str, folder_of: Callable[[str], Path], pictures: list[str]) -> None:
    engine = load_engine(ModelSpec(path=str(folder_of(model_type))))
    groups = [asked(question, picture) for question in QUESTIONS for picture in pictures[1:3]]
    found = engine.first_words(groups, WORDS)
    renderer = Renderer(engine.policy.processor, engine.policy.family)
    for group, one in zip(groups, found, strict=True):
        rendered = renderer.render(Group(prompts=group.prompts))
        answer = RenderedResponse(prompt=0, tokens=(0,), trained=(True,))
        alone = type(rendered)(
            group=Group(prompts=group.prompts, responses=(Response(text=""),)),
            prompts=rendered.prompts,
            responses=(answer,),
            images=rendered.images,
        )
        batch = lay_out([alone], "rows", engine.policy.family, engine.policy.config)
        with torch.no_grad():
            told = engine.policy.logits(engine.policy.hidden(batch)[batch.source])[0].float().softmax(-1)
        tokenizer = renderer.tokenizer
        for word in WORDS:
            ids = [id for id in range(len(told)) if tokenizer.decode([id]).strip().lower() == word]
            ids = [id for id in ids if id not in tokenizer.all_special_ids and id < len(tokenizer)]
            assert one.probabilities[word] == pytest.approx(float(told[ids].sum()), abs=1e-5)
            assert one.probabilities[word] > 0

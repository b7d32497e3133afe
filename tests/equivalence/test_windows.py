"""Sliding windows and blocks: every layout and the sampler see exactly what the model's own forward sees."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from groups import corner_groups, user
from test_layouts import batch_of, policy_of, relative, score
from transformers import AutoConfig, AutoModelForImageTextToText, MistralConfig

from sightline.data.render import Renderer
from sightline.recipes.schema import SamplingSpec
from sightline.rollouts.hf import HFEngine
from sightline.types import Group, Prompt

WINDOW = 6


@pytest.fixture(scope="module", params=["llava", "qwen2_5_vl"])
def windowed(tiny: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """Every layer of the one, and one of the two of the other, looks back six tokens."""
    folder = tmp_path_factory.mktemp("windowed")
    config = AutoConfig.from_pretrained(tiny[request.param])
    if request.param == "llava":
        own = config.text_config.to_dict()
        names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
        kept = {name: own[name] for name in (*names, "num_key_value_heads", "max_position_embeddings")}
        config.text_config = MistralConfig(**kept, head_dim=8, sliding_window=WINDOW, pad_token_id=0)
    else:
        config.text_config.use_sliding_window = True
        config.text_config.sliding_window = WINDOW
        config.text_config.layer_types = ["full_attention", "sliding_attention"]
    torch.manual_seed(0)
    AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    for path in tiny[request.param].iterdir():
        if path.name not in {file.name for file in folder.iterdir()}:
            (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_layouts_agree_under_windows(windowed: Path, pictures: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    policy, groups = policy_of(windowed).train(), corner_groups(pictures)
    logprobs, grads = score(policy, batch_of(policy, groups, "rows"))
    for layout in ("packed", "tree"):
        for form, entries in (("dense", 0), ("gather", 0), ("segments", 0), ("segments", 2**40)):
            policy.attention = form  # type: ignore[assignment]
            monkeypatch.setattr("sightline.models.attention_plan.SMALL_ENTRIES", entries)
            own, own_grads = score(policy, batch_of(policy, groups, layout))
            assert (own - logprobs).abs().max() < 1e-5, (layout, form, entries)
            assert relative(own_grads, grads) < 1e-5, (layout, form, entries)


def test_sampling_looks_back_no_farther_than_the_window(windowed: Path, pictures: list[str]) -> None:
    policy = policy_of(windowed).eval()
    messages = (user(None, "what is this?"), user("and a question without a picture, which is longer"))
    prompts = [
        Group(prompts=(Prompt(id=str(n), messages=(message,), images=tuple(pictures[:1]) if n == 0 else ()),))
        for n, message in enumerate(messages)
    ]
    renderer = Renderer(policy.processor, policy.family)
    engine = HFEngine(policy, renderer)
    sampled = engine.generate(prompts, SamplingSpec(n=1, temperature=0, max_new_tokens=12), seed=0)
    for group in sampled:
        (response,) = group.responses
        rendered = renderer.render(group)
        ids = torch.tensor([[*rendered.prompts[0].tokens, *response.tokens]])
        vision = policy.family.join([image.tensors for image in rendered.images])
        extra = policy.family.row_inputs(ids == policy.processor.image_token_id, ids < 0, vision)
        with torch.no_grad():
            logits = policy.base(input_ids=ids, **vision, **extra).logits[0]
        logits[:, list(engine.forbidden)] = -torch.inf
        start = len(rendered.prompts[0].tokens)
        assert start + len(response.tokens) > 2 * WINDOW
        assert logits[start - 1 : -1].argmax(-1).tolist() == list(response.tokens)

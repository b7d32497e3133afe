"""Log-probabilities of answers against transformers' own forward pass on rows of one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from sightline.errors import DataError
from sightline.evaluation.logprobs import LogprobScorer
from sightline.negatives.relate import under_pictures
from sightline.recipes.schema import ModelSpec
from sightline.rollouts.hf import load_engine
from sightline.types import Edge, Group, Prompt, Response

ENDS = {"llava": "</s>", "llava_next": "</s>", "qwen2_5_vl": "<|im_end|>"}
TEXTS = ("a red circle next to a blue square", "one green star")


def pairs(pictures: list[str]) -> list[Group]:
    """Three questions about three pictures and one about none, two answers each."""
    made = []
    for index, images in enumerate([(pictures[0],), (pictures[2],), (), (pictures[4],)]):
        parts = [*({"type": "image"} for _ in images), {"type": "text", "text": f"describe number {index}"}]
        history = {"role": "assistant", "content": [{"type": "text", "text": "yes, there is"}], "weight": 1}
        asked = {"role": "user", "content": [{"type": "text", "text": "how many?"}]}
        messages = (
            ({"role": "user", "content": parts}, history, asked)
            if index == 1
            else ({"role": "user", "content": parts},)
        )
        prompt = Prompt(id=f"row-{index}", messages=messages, images=images)
        answers = tuple(Response(text=f"{text} {index}", reward=1.0, rewards={"old": 1.0}) for text in TEXTS)
        made.append(Group(prompts=(prompt,), responses=answers, edges=(Edge(winner=0, loser=1),)))
    return made


def plain(family: str, model, processor, prompt: Prompt, text: str, images: tuple[str, ...]) -> tuple[float, int]:
    """Summed log-probability of an answer and its end, and how many tokens they are."""
    opened = [Image.open(path).convert("RGB") for path in images] or None
    head = processor.apply_chat_template([dict(m) for m in prompt.messages], add_generation_prompt=True)
    joint = "" if family == "qwen2_5_vl" else " "
    whole = processor(text=[f"{head}{joint}{text}{ENDS[family]}"], images=opened, return_tensors="pt")
    start = processor(text=[head], images=opened, return_tensors="pt")["input_ids"].shape[1]
    with torch.no_grad():
        logits = model(**whole).logits[0].double().log_softmax(-1)
    targets = whole["input_ids"][0, start:]
    return float(logits[start - 1 : -1].gather(1, targets[:, None]).sum()), len(targets)


@pytest.mark.parametrize("family", ENDS)
def test_scores_are_those_of_transformers(
    family: str, tiny: dict[str, Path], pictures: list[str], tmp_path: Path
) -> None:
    """Under the own, a white and another picture; whatever shares a forward pass."""
    groups = pairs(pictures)
    looked = {g.id: g for g in under_pictures([groups[0], groups[1], groups[3]], folder=tmp_path, seed=0)}
    engine = load_engine(ModelSpec(path=str(tiny[family])), "cpu")
    model = AutoModelForImageTextToText.from_pretrained(tiny[family]).eval()
    for budget in (1, 8192):
        scorer = LogprobScorer(engine.policy, engine.renderer, looked=looked, batch_tokens=budget)
        scored = scorer.scores(groups)
        assert [(g.id, g.prompts, g.edges) for g in scored] == [(g.id, g.prompts, g.edges) for g in groups]
        for group in scored:
            variants = [prompt.images for prompt in looked[group.id].prompts] if group.id in looked else [()]
            assert set(group.responses[0].rewards) == {
                "logprob",
                "tokens",
                *(["blank", "other"] if len(variants) > 1 else []),
            }
            for name, images in zip(("logprob", "blank", "other"), variants, strict=False):
                for response in group.responses:
                    expected, tokens = plain(
                        family, model, engine.policy.processor, group.prompts[0], response.text, images
                    )
                    assert response.rewards[name] == pytest.approx(expected, abs=2e-4), (group.id, name)
                    assert response.rewards["tokens"] == tokens and response.reward is None
    blanks = [response.rewards["logprob"] - response.rewards["blank"] for response in scored[0].responses]
    assert max(map(abs, blanks)) > 1e-3  # the picture counts


def test_tokens_of_another_tokenizer_are_refused(tiny: dict[str, Path], pictures: list[str]) -> None:
    engine = load_engine(ModelSpec(path=str(tiny["llava"])), "cpu")
    scorer = LogprobScorer(engine.policy, engine.renderer)
    group = replace(pairs(pictures)[0], source="rows.jsonl:1")
    tokens = engine.renderer.render(group).responses[0].tokens
    sampled, other = (replace(group.responses[0], tokens=ids) for ids in (tokens, tokens[::-1]))
    given = scorer.scores([replace(group, responses=(sampled, group.responses[1]))])[0]
    assert given.responses[0].rewards == pytest.approx(scorer.scores([group])[0].responses[0].rewards, abs=1e-5)
    with pytest.raises(DataError, match=r"rows.jsonl:1: the tokens of an answer spell"):
        scorer.scores([replace(group, responses=(other, group.responses[1]))])

"""A row that surely fits is never too long, and has no fault that counting its tokens would find."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, normalizers

from sightline.data.fits import Fits, _growth
from sightline.data.render import Renderer
from sightline.errors import DataError
from sightline.models.family import family_of
from sightline.models.load import load_policy
from sightline.recipes.schema import ModelSpec
from sightline.types import Edge, Group, Prompt, Response
from tiny_models import FAMILIES

WORDS = (
    "lamp",
    "two",
    "red",
    "cafés",
    "日本語",
    "ﷺ",
    "  ",
    "x" * 40,
    "a\nb",
    "e\u0301",
    "👩‍🚀",
    "<think>",
    "user",
    "\t",
)


def said(draw: random.Random, most: int) -> str:
    return " ".join(draw.choices(WORDS, k=draw.randint(1, most)))


def row(draw: random.Random, pictures: list[str]) -> Group:
    """One to four rounds with up to two pictures, one answer or two."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": said(draw, 3)}] * draw.randint(0, 1)
    shown = draw.sample(pictures, draw.randint(0, 2))
    parts: list[Any] = [{"type": "image"} for _ in shown] + [{"type": "text", "text": said(draw, 5)}]
    messages.append({"role": "user", "content": parts})
    for _ in range(draw.randint(0, 3)):
        messages.append({"role": "assistant", "content": said(draw, 8), "weight": draw.randint(0, 1)})
        messages.append({"role": "user", "content": [{"type": "text", "text": said(draw, 4)}]})
    answers = tuple(Response(text=said(draw, 12)) for _ in range(draw.randint(1, 2)))
    edges = (Edge(winner=0, loser=1),) if len(answers) == 2 else ()
    return Group(
        prompts=(Prompt(id="a", messages=tuple(messages), images=tuple(shown)),), responses=answers, edges=edges
    )


def renderer_of(path: Path, template: str | None = None) -> Renderer:
    policy = load_policy(ModelSpec(path=str(path)), trainable=False)
    if template is not None:
        policy.processor.chat_template = policy.processor.tokenizer.chat_template = template
    return Renderer(policy.processor, family_of(policy.config))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_fits_is_counted_as_no_more(tiny: dict[str, Path], pictures: list[str], family: str) -> None:
    renderer, draw = renderer_of(tiny[family]), random.Random(0)
    fits, sure, found = Fits(renderer), 0, 0
    for _ in range(150):
        group = row(draw, pictures)
        try:
            length: float = renderer.num_tokens(group)
        except DataError:
            length = float("inf")
        most = draw.choice((40, 150, 400, 1000))
        sure += fits(group, most)
        found += length <= most
        assert not fits(group, most) or length <= most
        assert length == float("inf") or not fits(group, int(length) - 1)
    assert found and sure > 0.3 * found, "it tells of many"


def plain(*texts: str) -> Group:
    *history, answer = texts
    messages = [
        {"role": "assistant" if n % 2 else "user", "content": text, "weight": 1} for n, text in enumerate(history)
    ]
    return Group(prompts=(Prompt(id="a", messages=tuple(messages)),), responses=(Response(text=answer),))


def test_what_a_template_makes_of_a_text_is_seen(tiny: dict[str, Path]) -> None:
    dropping = (
        "{% for m in messages %}{{ m['role'] }}: "
        "{% if m['content'] is string %}{{ m['content'].split('</think>')[-1] }}"
        "{% else %}{% for p in m['content'] %}{{ p['text'].split('</think>')[-1] }}{% endfor %}{% endif %}</s>"
        "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    )
    fits = Fits(renderer_of(tiny["llava"], dropping))
    assert fits(plain("?", "a lamp", "which?", "the red one"), 400)
    assert not fits(plain("?", "so</think> a lamp", "which?", "the red one"), 400)
    assert not fits(plain("?", "a lamp", "which?", "so</think> the red one"), 400)


def test_what_counting_would_refuse_does_not_fit(tiny: dict[str, Path], tmp_path: Path) -> None:
    fits = Fits(renderer_of(tiny["llava"]))
    good = plain("?", "a lamp")
    assert fits(good, 100)
    assert not fits(plain("?</s>", "a lamp"), 100)
    assert not fits(plain("?", "a <image> lamp"), 100)
    assert not fits(plain("?", " "), 100)
    assert not fits(replace(good, responses=()), 100)
    assert not fits(replace(good, responses=(Response(text="a", tokens=(5, 2)),)), 100)
    shown = ({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]},)
    lost = Prompt(id="a", messages=shown, images=(str(tmp_path / "gone.png"),))
    assert not fits(replace(good, prompts=(lost,)), 100)
    assert not fits(replace(good, prompts=(*good.prompts, lost)), 100)


def test_new_tokens_are_counted_in(tiny: dict[str, Path]) -> None:
    renderer = renderer_of(tiny["llava"])
    group = plain("?", "a lamp")
    least = next(most for most in range(200) if Fits(renderer)(group, most))
    assert not Fits(renderer, new=50)(group, least + 49)
    assert Fits(renderer, new=50)(group, least + 50)


@pytest.mark.parametrize(
    ("normalizer", "growth"),
    [
        (None, 1),
        (normalizers.NFC(), 3),
        (normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]), 1),
        (normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()]), 11),
        (normalizers.Replace(Regex("a+"), "<letter>"), None),
        (normalizers.Replace("a", "bbb"), None),
        (normalizers.Nmt(), None),
    ],
)
def test_the_bound_is_kept_where_the_tokenizer_is_known_to_keep_it(
    tiny: dict[str, Path], normalizer: Any, growth: int | None
) -> None:
    tokenizer = renderer_of(tiny["llava"]).tokenizer
    tokenizer.backend_tokenizer.normalizer = normalizer
    assert _growth(tokenizer) == growth

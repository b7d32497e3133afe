"""Conflicts of ``online.engine`` with itself and with what is trained."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from sightline.recipes.engine import EngineSpec
from sightline.recipes.schema import Recipe
from sightline.recipes.source import KeyPath

_OF_VLLM = ("urls", "sync", "timeout", "patience")


def engine_conflicts(recipe: Recipe) -> Iterator[tuple[KeyPath, str]]:
    """Conflicts of ``online.engine`` with itself and with what is trained: the place, and the message."""
    if recipe.online is None:
        return
    engine, here = recipe.online.engine, ("online", "engine")
    if recipe.online.replay is not None and engine != EngineSpec():
        yield here, "online.replay gives the answers, and no engine is asked. Remove online.engine, or replay."
    if engine.name == "hf":
        for name in (name for name in _OF_VLLM if vars(engine)[name] != vars(EngineSpec())[name]):
            yield (*here, name), f"{name} is an option of name: vllm, found name: hf. Remove it."
        return
    if not engine.urls:
        yield here, "found no online.engine.urls, expected the servers' addresses. Add urls: [http://127.0.0.1:8000]."
    for index, url in enumerate(engine.urls):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.query:
            text = f"found {url!r}, expected http://HOST:PORT and nothing behind it. Correct the address."
            yield (*here, "urls", index), text
        elif url.rstrip("/") in (other.rstrip("/") for other in engine.urls[:index]):
            yield (*here, "urls", index), f"found {url!r} twice. Name each server once."
    if (heat := recipe.online.sampling.temperature) > 2:
        yield (
            ("online", "sampling", "temperature"),
            f"found {heat:g}, and vLLM takes 0 to 2. Lower it, or use name: hf.",
        )
    if recipe.train.distribution == "fsdp":
        yield here, "servers get the weights of a policy that is whole. Set train.distribution to ddp, or name: hf."
    yield from _unsendable(recipe)


def _unsendable(recipe: Recipe) -> Iterator[tuple[KeyPath, str]]:
    """What is trained and would not reach the servers."""
    assert recipe.online is not None
    parts, place = recipe.model.parts, ("online", "engine", "sync")
    if parts is None and recipe.model.adapter is not None:
        return  # known when it is loaded
    modes = {"language": "full", "projector": "full"} if parts is None else vars(parts)
    full = [part for part, mode in modes.items() if mode == "full"]
    lora = [part for part, mode in modes.items() if mode == "lora"]
    if recipe.online.engine.sync == "adapter" and full:
        text = (
            f"sync: adapter sends LoRA adapters alone, but model.parts.{full[0]} is trained whole. Set it to lora or "
            "frozen, or set sync: weights"
        )
        yield place, text + (", with no part on lora." if lora else ".")
    if recipe.online.engine.sync == "weights" and lora:
        yield place, f"sync: weights sends whole models, but model.parts.{lora[0]} is lora. Set sync: adapter."

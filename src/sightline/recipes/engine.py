"""The ``online.engine`` section of a recipe, and what in it cannot be. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from sightline.recipes.source import KeyPath

if TYPE_CHECKING:
    from sightline.recipes.schema import Recipe

_OF_VLLM = ("urls", "sync", "timeout", "patience")


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class EngineSpec:
    """What samples the answers of an online run."""

    name: Literal["hf", "vllm"] = "hf"
    """``hf``: the policy itself, through transformers, where it is trained. ``vllm``: servers that run already
    (``vllm serve``), which get the policy's weights before every round."""
    urls: tuple[str, ...] = ()
    """vllm: addresses of the servers, such as ``http://127.0.0.1:8000``. Each serves the model of ``model.path``."""
    sync: Literal["adapter", "weights"] = "adapter"
    """vllm: how the servers get the policy. ``adapter``: the LoRA adapter, as a folder that they read, under a new name
    each time. ``weights``: all weights, over a connection of their own, while the servers pause."""
    timeout: float = Field(default=600, gt=0, le=86400)
    """vllm: seconds that one request may take: the answers to a prompt, an adapter, or all weights."""
    patience: float = Field(default=600, ge=0, le=86400)
    """vllm: seconds that the run waits for a server to come back where none answers. Then it stops, and the same
    command goes on from its checkpoint. As long as one server answers it does the work of the others."""
    check: bool = True
    """Before the first step 8 answers are sampled and scored again by the trainer. A run whose engine and trainer
    disagree, in the tokens of a picture or by more than ``max_kl``, is refused."""
    max_kl: float = Field(default=0.015, gt=0, le=1e3)
    """Most nats per token between engine and trainer (the k3 estimate of their KL divergence)."""


def engine_conflicts(recipe: Recipe) -> Iterator[tuple[KeyPath, str]]:
    """Conflicts of ``online.engine`` with itself and with what is trained: the place, and the message."""
    if recipe.online is None:
        return
    engine, here = recipe.online.engine, ("online", "engine")
    if engine.name == "hf":
        fields = EngineSpec.__dataclass_fields__
        for name in (name for name in _OF_VLLM if vars(engine)[name] != vars(EngineSpec())[name]):
            yield (*here, name), f"{fields[name].name} is an option of name: vllm, found name: hf. Remove it."
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

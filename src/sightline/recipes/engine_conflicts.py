"""Conflicts of ``online.engine`` with itself and with what is trained."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

from sightline.recipes.engine import EngineSpec
from sightline.recipes.schema import OnlineSpec, Recipe
from sightline.recipes.source import KeyPath
from sightline.recipes.terms import IrisSpec

_READERS = {
    "urls": ("vllm",),
    "sync": ("vllm",),
    "workers": ("ray",),
    "gpus": ("ray",),
    "address": ("ray",),
    "rewards": ("ray",),
    "timeout": ("vllm", "ray"),
    "patience": ("vllm", "ray"),
}
"""Which engines read an option; the others are read by all."""
_ADDRESS = re.compile(r"auto|([^\s/:]+|\[[0-9a-fA-F:.]+\]):\d{1,5}")
_HERE: KeyPath = ("online", "engine")


def engine_conflicts(recipe: Recipe) -> Iterator[tuple[KeyPath, str]]:
    """Conflicts of ``online.engine`` with itself and with what is trained: the place, and the message."""
    if recipe.online is None:
        return
    engine = recipe.online.engine
    if recipe.online.replay is not None and engine != EngineSpec():
        yield _HERE, "online.replay gives the answers, and no engine is asked. Remove online.engine, or replay."
    for name, readers in _READERS.items():
        if engine.name not in readers and vars(engine)[name] != vars(EngineSpec())[name]:
            text = f"{name} is an option of name: {' and '.join(readers)}, found name: {engine.name}. Remove it."
            yield (*_HERE, name), text
    if engine.name != "hf" and recipe.train.distribution == "fsdp":
        text = "servers and workers get a policy that is whole. Set train.distribution to ddp, or name: hf."
        yield _HERE, text
    if engine.name == "vllm":
        yield from _of_servers(recipe, recipe.online)
    if engine.address is not None and not _ADDRESS.fullmatch(engine.address):
        text = (
            f"found {engine.address!r}, expected auto, or HOST:PORT of the cluster's head. Correct it, or leave it out."
        )
        yield (*_HERE, "address"), text
    if engine.rewards == "workers":
        yield from _of_rewards(recipe.online)


def url_faults(urls: Sequence[str]) -> Iterator[tuple[int, str]]:
    """What cannot be the address of a server, or stands twice, by its place."""
    for index, url in enumerate(urls):
        try:
            parts = urlsplit(url)
        except ValueError:
            parts = urlsplit("")
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.query:
            yield index, f"found {url!r}, expected http://HOST:PORT and nothing behind it. Correct the address."
        elif url.rstrip("/") in (other.rstrip("/") for other in urls[:index]):
            yield index, f"found {url!r} twice. Name each server once."


def _of_servers(recipe: Recipe, online: OnlineSpec) -> Iterator[tuple[KeyPath, str]]:
    urls = online.engine.urls
    if not urls:
        yield _HERE, "found no online.engine.urls, expected the servers' addresses. Add urls: [http://127.0.0.1:8000]."
    for index, text in url_faults(urls):
        yield (*_HERE, "urls", index), text
    if (heat := online.sampling.temperature) > 2:
        yield (
            ("online", "sampling", "temperature"),
            f"found {heat:g}, and vLLM takes 0 to 2. Lower it, or use name: hf.",
        )
    yield from _unsendable(recipe, online)


def _unsendable(recipe: Recipe, online: OnlineSpec) -> Iterator[tuple[KeyPath, str]]:
    """What is trained and would not reach the servers."""
    parts, place = recipe.model.parts, (*_HERE, "sync")
    if online.engine.sync == "weights":
        if (kind := recipe.model.quantization) != "none":
            yield place, f"sync: weights sends whole weights, and model.quantization is {kind}. Set sync: adapter."
        return
    if parts is None:
        return  # known when the adapter is loaded
    for part, mode in vars(parts).items():
        if mode == "full":
            text = f"sync: adapter sends LoRA adapters alone, but model.parts.{part} is trained whole."
            yield place, f"{text} Set it to lora or frozen, or set sync: weights."
        elif mode == "lora" and part != "language":
            text = f"found sync: adapter and model.parts.{part}: lora, and servers leave out what lies on tower or"
            yield place, f"{text} projector, without a word. Set sync: weights, which merges it, or freeze the part."


def _of_rewards(online: OnlineSpec) -> Iterator[tuple[KeyPath, str]]:
    terms = {} if isinstance(online.reward, str) else online.reward
    for name, term in terms.items():
        if isinstance(term, IrisSpec) and term.path is None:
            text = "it asks the policy in training, which workers do not have. Set rewards: trainer, or its path."
            yield ("online", "reward", name), text

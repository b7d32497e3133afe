"""What ``sightline doctor`` looks at. Each look is a few lines for a bug report: no token, no name of a user."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from packaging.requirements import Requirement

from sightline import __version__
from sightline.cli.console import say

State = Literal["ok", "note", "wrong"]
EXTRAS: Final = {
    "wandb": "train.trackers: wandb",
    "trackio": "train.trackers: trackio",
    "quantize": "model.quantization (QLoRA) and optimizers in 8 bits",
    "nouns": "AMBER and CHAIR by their official scripts",
    "serve": "sightline serve",
    "smolvlm": "models of the family SmolVLM",
    "diffusion": "pictures painted by pipelines of diffusers",
    "recurrence": "hybrid attention (linear layers) in the layout tree",
    "ray": "online.engine.name: ray",
    "app": "sightline app",
    "bench": "benchmarks beside TRL",
    "compressed": "reading models exported with --quantize gptq or awq",
    "docs": "building the site of the documentation",
}
"""What each extra is for."""
_LEAST_ROOM: Final = 5e9
"""Bytes: less holds no checkpoint of a small model."""
_HOME: Final = str(Path.home())


@dataclass(frozen=True, kw_only=True)
class Look:
    """One thing that was looked at."""

    about: str
    """Under which title it stands."""
    state: State
    found: str
    remedy: str = ""


def looks(*, tested: bool) -> Iterator[Look]:
    """Everything, in the order of the report; with the self test where it is ``tested``."""
    every = {"versions": versions, "GPU": devices, "extras": extras, "places": places, "hub": hub}
    if tested:
        every["self test"] = self_test
    for about, look in every.items():
        for one in _to_its_end(about, look):
            yield Look(about=one.about, state=one.state, found=_nobody(one.found), remedy=_nobody(one.remedy))


def _to_its_end(about: str, look: Callable[[], Iterator[Look]]) -> Iterator[Look]:
    """A look; one that stops is a fault to tell of, and the next one comes all the same."""
    try:
        yield from look()
    except (ImportError, OSError, RuntimeError, ValueError, TypeError, ArithmeticError) as error:
        say(_nobody(traceback.format_exc()))
        told = f"stopped by {type(error).__name__}: {error}".splitlines()[0]
        remedy = "Report this, with all that was printed"
        if isinstance(error, ImportError):
            remedy = "Install anew what it names; versions, above, says what is expected"
        yield Look(about=about, state="wrong", found=told, remedy=remedy)


def _nobody(text: str) -> str:
    """Without the home of the one who asks."""
    return text.replace(_HOME, "~") if len(_HOME) > 1 else text


def versions() -> Iterator[Look]:
    """Python, the machine's kind, and all packages that Sightline needs, against what it asks of them."""
    system = f"{platform.system()} {platform.release()}, {platform.machine()}, {os.cpu_count()} CPUs"
    yield Look(about="versions", state="ok", found=f"sightline {__version__}, Python {platform.python_version()}")
    yield Look(about="versions", state="ok", found=system)
    needed = [one for one in _requirements() if one.marker is None or one.marker.evaluate({"extra": ""})]
    fitting = [f"{one.name} {_version(one.name)}" for one in needed if _fits(one)]
    if fitting:
        yield Look(about="versions", state="ok", found=", ".join(fitting))
    for one in needed:
        if not _fits(one):
            there = _version(one.name) or "not installed"
            remedy = f"pip install '{one.name}{one.specifier}'"
            yield Look(about="versions", state="wrong", found=f"{one.name}: {there}", remedy=remedy)
    if not needed:
        told = "sightline is not installed as a package (it runs from its sources), so versions were not compared"
        yield Look(about="versions", state="note", found=told)


def devices() -> Iterator[Look]:
    """The GPUs that torch sees."""
    import torch

    built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
    if not torch.cuda.is_available():
        told = f"none that torch {torch.__version__} sees ({built}): everything runs on the CPU"
        yield Look(about="GPU", state="note", found=told)
        return
    for index in range(torch.cuda.device_count()):
        seen = torch.cuda.get_device_properties(index)
        free, whole = (size / 2**30 for size in torch.cuda.mem_get_info(index))
        told = f"{seen.name}, capability {seen.major}.{seen.minor}, {free:.0f} of {whole:.0f} GiB free, torch {built}"
        yield Look(about="GPU", state="ok", found=told)


def extras() -> Iterator[Look]:
    """Which optional packages are there, and what each is for. None of them is missed before it is asked for."""
    by_extra: dict[str, list[Requirement]] = {}
    for one in _requirements():
        for extra in importlib.metadata.metadata("sightline").get_all("Provides-Extra") or ():
            if one.marker is not None and "extra" in str(one.marker) and one.marker.evaluate({"extra": extra}):
                by_extra.setdefault(extra, []).append(one)
    for extra, packages in by_extra.items():
        if extra == "dev":
            continue
        use = EXTRAS.get(extra, "")
        there = [f"{one.name} {_version(one.name)}" for one in packages if _version(one.name)]
        unfit = [one for one in packages if _version(one.name) and not _fits(one)]
        lacking = [one.name for one in packages if not _version(one.name)]
        install = f"pip install 'sightline[{extra}]'"
        if unfit:
            told = f"{extra}: {', '.join(there)}, expected {', '.join(map(str, unfit))}"
            yield Look(about="extras", state="wrong", found=told, remedy=install)
        elif lacking:
            told = f"{extra}: without {', '.join(lacking)}. For: {use}"
            yield Look(about="extras", state="note", found=told, remedy=install)
        else:
            yield Look(about="extras", state="ok", found=f"{extra}: {', '.join(there)}. For: {use}")


def places() -> Iterator[Look]:
    """Where files go: caches, temporary files, and the folder that the command stands in."""
    from huggingface_hub.constants import HF_HUB_CACHE

    other = "or set {} to another"
    wanted = {
        "cache of models": (Path(HF_HUB_CACHE), other.format("HF_HOME")),
        "temporary files": (Path(tempfile.gettempdir()), other.format("TMPDIR")),
        "here": (Path.cwd(), "or run in another folder"),
    }
    for name, (folder, otherwise) in wanted.items():
        # what this user may not look into is not there for it: Path.exists would raise
        there = next(one for one in (folder, *folder.parents) if os.access(one, os.F_OK))
        free = shutil.disk_usage(there).free
        told = f"{name}: {folder}, {free / 1e9:.1f} GB free"
        if not os.access(there, os.W_OK | os.X_OK) or not there.is_dir():
            remedy = f"Give it to this user, {otherwise}"
            yield Look(about="places", state="wrong", found=f"{told}, not writable", remedy=remedy)
        elif free < _LEAST_ROOM:
            yield Look(about="places", state="note", found=told, remedy="Make room: a checkpoint may not fit")
        else:
            yield Look(about="places", state="ok", found=told)


def hub() -> Iterator[Look]:
    """Whether models can be fetched by name. No request is made with the token."""
    from huggingface_hub import constants, get_token

    told = "a token is set" if get_token() else "no token is set"
    if constants.HF_HUB_OFFLINE:
        yield Look(about="hub", state="note", found=f"HF_HUB_OFFLINE is set: only what is cached is found; {told}")
    elif fault := _unreachable(constants.ENDPOINT):
        remedy = "Name folders in place of hub names, or set HF_HUB_OFFLINE=1 so that nothing waits for it"
        yield Look(about="hub", state="note", found=f"cannot be reached ({fault}); {told}", remedy=remedy)
    else:
        yield Look(about="hub", state="ok", found=f"can be reached; {told}")


def self_test() -> Iterator[Look]:
    """A tiny model: two layouts against each other, and a training."""
    from sightline.demo.self_test import self_test as run

    test = run()
    told = (
        f"on {test.device}: {test.tokens} tokens in tree and in rows differ by {test.gap:.1e} nats at most; "
        f"losses of DPO {', '.join(f'{loss:.4f}' for loss in test.losses)}; {test.seconds:.0f} s"
    )
    yield Look(about="self test", state="wrong" if test.faults() else "ok", found=told)
    for fault in test.faults():
        remedy = "Report this with all lines above. Reinstall torch for this machine"
        yield Look(about="self test", state="wrong", found=fault, remedy=remedy)


def _unreachable(address: str) -> str:
    """Why a server does not answer in a few seconds; empty where it does."""
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=3):
            return ""
    except urllib.error.HTTPError:
        return ""  # an answer
    except (OSError, ValueError) as error:
        return str(error)


def _requirements() -> list[Requirement]:
    try:
        return [Requirement(text) for text in importlib.metadata.requires("sightline") or ()]
    except importlib.metadata.PackageNotFoundError:
        return []


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _fits(needed: Requirement) -> bool:
    there = _version(needed.name)
    return bool(there) and needed.specifier.contains(there, prereleases=True)

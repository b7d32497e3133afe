"""How servers of vLLM get the policy: as a LoRA adapter under a new name each time, as whole weights, or not at all."""

from __future__ import annotations

import hashlib
import secrets
import shutil
import socket
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

import torch

from sightline.errors import RecipeError
from sightline.models.adapters import POLICY
from sightline.models.named_adapters import adapter_parameters, save_adapter
from sightline.models.policy import Policy
from sightline.models.serving import adapter_fault, served_weights, weights_fault
from sightline.rollouts.servers import Failed, Server, Unreachable
from sightline.rollouts.transfer import TRAINER, Group, Manifest, Meeting, listen

T = TypeVar("T")


class Ranks(Protocol):
    """The part of the runtime that a sync needs."""

    @property
    def rank(self) -> int: ...
    def gather_objects(self, value: Any) -> list[Any]: ...


class Alone:
    """One process."""

    rank: int = 0

    def gather_objects(self, value: Any) -> list[Any]:
        return [value]


class Sync(Protocol):
    """Gives servers the policy as it was at the last ``publish``."""

    version: int
    """What was published last."""
    ranks: Ranks

    @property
    def model(self) -> str | None:
        """The name that requests ask for; None: the model of the server."""
        ...

    def publish(self, version: int) -> None:
        """The policy is now ``version``. Every rank calls; servers are told one by one (``bring``)."""
        ...

    def bring(self, server: Server) -> None:
        """Makes the server answer as the policy does. Raises what ``Server.post`` raises."""
        ...

    def holds(self, reply: Any) -> bool:
        """Whether an answer of ``/inference/v1/generate`` comes from what was published."""
        ...


@dataclass(kw_only=True)
class NoSync:
    """The servers' model as they serve it: to be checked, or where nothing is trained."""

    version: int = 0
    model: None = None
    ranks: Ranks = field(default_factory=Alone)

    def publish(self, version: int) -> None:
        self.version = version

    def bring(self, server: Server) -> None:
        """There is nothing to bring."""

    def holds(self, reply: Any) -> bool:
        return True


class AdapterSync:
    """The LoRA adapter as a folder, loaded under a name that tells its version and its content.

    vLLM keeps what it computed for a prompt under the name of the adapter: another adapter under the same name would be
    answered from what the old one left behind. Needs ``--enable-lora`` and ``VLLM_ALLOW_RUNTIME_LORA_UPDATING=1``, and
    a folder that trainer and servers see under one path.
    """

    KEPT = 2
    """Adapters on disk and in each server: an answer may still be on its way."""

    def __init__(self, policy: Policy, folder: Path, ranks: Ranks | None = None) -> None:
        """
        Args:
            policy: with an adapter that is all that is trained.
            folder: of the adapters; made if need be.
            ranks: this rank, and the way to the others; None: one process.

        Raises:
            RecipeError: more is trained than an adapter of vLLM holds.
        """
        if (fault := adapter_fault(policy)) is not None:
            raise RecipeError(f"online.engine.sync: adapter cannot send this policy: {fault}")
        self._policy, self._folder, self.ranks = policy, folder.absolute(), ranks or Alone()
        self.version = 0
        self.model: str | None = None
        self._loaded: dict[str, list[str]] = {}

    def publish(self, version: int) -> None:
        name = f"v{version:06d}-{self._fingerprint()}"
        if self.ranks.rank == 0:
            save_adapter(self._policy.model, POLICY, self._folder / name)
            for old in sorted(self._folder.iterdir(), key=lambda path: path.stat().st_mtime)[: -self.KEPT]:
                shutil.rmtree(old)
        self.model = self.ranks.gather_objects(name)[0]
        self.version = version

    def bring(self, server: Server) -> None:
        assert self.model is not None
        there = [one["id"] for one in server.get("/v1/models")["data"]]
        if self.model not in there:
            body = {"lora_name": self.model, "lora_path": str(self._folder / self.model)}
            server.post("/v1/load_lora_adapter", body)
        mine = [name for name in self._loaded.get(server.url, []) if name in there and name != self.model]
        for old in mine[: 1 - self.KEPT]:
            server.post("/v1/unload_lora_adapter", {"lora_name": old})
        self._loaded[server.url] = [*mine[1 - self.KEPT :], self.model]

    def holds(self, reply: Any) -> bool:
        return bool(reply["model"] == self.model)

    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for name, parameter in sorted(adapter_parameters(self._policy.model, POLICY).items()):
            digest.update(name.encode())
            digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()[:12]


@dataclass
class _Line:
    """The connection to one server's workers."""

    group: Group
    label: str = field(default="")
    """Of the weights that it brought last."""


class WeightSync:
    """All weights, over a process group of the trainer and the workers of each server (``transfer.Group``).

    The server waits for what it is doing, pauses, forgets what it computed for prompts and pictures, loads and goes on.
    Needs ``VLLM_SERVER_DEV_MODE=1`` and the plugin (``vllm_plugin``). The main process sends; others wait.
    """

    model = None

    def __init__(self, policy: Policy, ranks: Ranks | None = None, *, seconds: float) -> None:
        """
        Args:
            policy: whatever of it is trained; an adapter is merged into what is sent.
            ranks: this rank, and the way to the others; None: one process.
            seconds: most for one transfer.

        Raises:
            RecipeError: quantised weights, or an adapter that cannot be merged.
        """
        if (fault := weights_fault(policy)) is not None:
            raise RecipeError(f"online.engine.sync: weights cannot send this policy: {fault}")
        self._policy, self.ranks, self._seconds = policy, ranks or Alone(), seconds
        self._run = self.ranks.gather_objects(secrets.token_hex(4))[0]  # another run's version 0 is not this one's
        self._lines: dict[str, _Line] = {}
        self._sending = threading.Lock()
        self.version = 0

    @property
    def _label(self) -> str:
        return f"{self._run}-{self.version}"

    def publish(self, version: int) -> None:
        self.version = version

    def holds(self, reply: Any) -> bool:
        spans = [span["version"] for choice in reply["choices"] for span in choice["weight_versions"] or ()]
        return bool(spans) and set(spans) == {self._label}

    def bring(self, server: Server) -> None:
        there = server.get("/weight_info")["weight_version"]
        if there == self._label:
            return
        if self.ranks.rank != 0:
            raise Unreachable(f"{server.url}: the main process has not brought it the weights yet")
        with self._sending:
            line = self._lines.get(server.url)
            if line is None or line.label != there:  # started again since, or never met
                self._hang_up(server)
                line = self._lines[server.url] = _Line(self._connect(server))
            try:
                self._send(server, line.group)
            except BaseException:
                self._hang_up(server)
                raise
            line.label = self._label

    def _connect(self, server: Server) -> Group:
        size = 1 + int(server.get("/get_world_size")["world_size"])
        store = listen(self._seconds)
        meeting = Meeting(address=_address_towards(server.url), port=store.port, size=size, seconds=self._seconds)
        told = _beside(lambda: server.post("/init_weight_transfer_engine", {"init_info": asdict(meeting)}))
        return told(lambda: Group(meeting, TRAINER, self._policy.device, listening=store))

    def _send(self, server: Server, group: Group) -> None:
        # waits for requests under way, and clears what was computed for prompts and pictures with the old weights
        server.post("/pause?mode=wait")
        server.post("/start_weight_update")
        weights = served_weights(self._policy)
        manifest = Manifest.of((one.name, one.stored) for one in weights)
        told = _beside(lambda: server.post("/update_weights", {"update_info": asdict(manifest)}))
        told(lambda: group.send(one.whole() for one in weights))
        server.post("/finish_weight_update", {"weight_version": self._label})
        server.post("/resume")

    def _hang_up(self, server: Server) -> None:
        line = self._lines.pop(server.url, None)
        if line is not None:
            line.group.close()


def _beside(call: Callable[[], Any]) -> Callable[[Callable[[], T]], T]:
    """Starts ``call`` in a thread; gives what runs our side of it meanwhile and waits for both."""
    fault: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            fault.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def ours(work: Callable[[], T]) -> T:
        try:
            made = work()
        except RuntimeError as error:  # what torch raises where the other side is gone
            thread.join(timeout=5)
            raise fault[0] if fault else Failed(f"the transfer of weights broke off ({error})") from error
        thread.join()
        if fault:
            raise fault[0]
        return made

    return ours


def _address_towards(url: str) -> str:
    """The address of this machine as a server sees it."""
    parts = urlsplit(url)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((parts.hostname, parts.port or 80))  # sends nothing
        return str(probe.getsockname()[0])

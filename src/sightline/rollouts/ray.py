"""Rollouts and rewards of a round on many machines: actors of Ray, each with a copy of the policy.

The prompts of a round go out in batches, pictures as paths, and come back as groups with their answers. An answer's
random numbers come from the seed, the id of its prompt and its number (``rollouts.hf``), so that it is the same
whichever worker gives it. A worker holds two batches at most, one that it computes and one that waits there: what is
not handed out yet stays here. One that dies, or takes too long for a batch, is replaced, gets the policy and what was
asked of it goes to whoever is free.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any, Protocol

from torch import Tensor

from sightline.errors import EngineError, MissingExtra, SightlineError, shortened
from sightline.recipes.engine import EngineSpec
from sightline.recipes.schema import SamplingSpec
from sightline.rollouts.engine import Progress, same_pictures_together
from sightline.types import Group

_log = logging.getLogger(__name__)

AHEAD = 2
"""Most batches that are at one worker."""
TRIES = 3
"""How often a worker may be lost over one and the same batch before that is an error."""
_LOOK = 1.0
"""Seconds between two looks at what takes too long."""
_CONNECT = 10.0
"""Seconds that the head of a cluster may take to answer."""
_AT_ONCE = 1000
"""Prompts that a worker looks through in one call."""
_PACKAGES = ("sightline", "torch", "torchvision", "transformers", "tokenizers", "peft", "pillow")
"""Another version of one of these may read, compute or draw otherwise."""


def _versions() -> dict[str, str]:
    """Without what a build is for: the trainer may have a GPU where a worker has none."""
    return {name: version(name).partition("+")[0] for name in _PACKAGES}


class Worker(Protocol):
    """What an actor holds."""

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Takes over the policy as it is trained now."""
        ...

    def read(self, group: Group) -> tuple[int, ...]:
        """See ``ReadEngine.read``."""
        ...

    def generate(self, groups: Sequence[Group], sampling: SamplingSpec, seed: int) -> list[Group]:
        """See ``RolloutEngine.generate``."""
        ...

    def check(self, groups: Sequence[Group]) -> None:
        """Looks whether the rewards can be computed of answers to these prompts."""
        ...

    def score(self, groups: Sequence[Group]) -> list[Group | str]:
        """See ``rewards.base.score_groups``."""
        ...


@dataclass(frozen=True, kw_only=True)
class _Surroundings:
    """Of this process: relative paths and modules named in a recipe mean the same to a worker."""

    folder: str = field(default_factory=os.getcwd)
    modules: tuple[str, ...] = field(default_factory=lambda: tuple(sys.path))
    versions: Mapping[str, str] = field(default_factory=_versions)

    def enter(self) -> None:
        for name, here in _versions().items():
            if here != self.versions[name]:
                raise EngineError(
                    f"a worker of Ray has {name} {here}, and the trainer {self.versions[name]}. Install the same "
                    "versions on all machines"
                )
        try:
            os.chdir(self.folder)
        except OSError as error:
            raise EngineError(
                f"a worker of Ray has no folder {self.folder} ({error}), from where the run was started. Give all "
                "machines the same files under the same paths"
            ) from error
        sys.path += [path for path in self.modules if path not in sys.path]


class _Actor:
    """A worker on its machine, made when it is first given a policy: what fails then is told in its own words, and an
    actor that fails in its constructor is only dead."""

    def __init__(self, make: Callable[[], Worker], surroundings: _Surroundings, *, gpus: float) -> None:
        self._make, self._surroundings = make, surroundings
        self._worker: Worker | None = None
        if not gpus:  # Ray leaves all of them in sight
            os.environ["CUDA_VISIBLE_DEVICES"] = ""

    def load(self, state: Mapping[str, Tensor]) -> None:
        if self._worker is None:
            self._surroundings.enter()
            self._worker = self._make()
        self._worker.load(state)

    def read(self, group: Group) -> tuple[int, ...]:
        return self._here().read(group)

    def generate(self, groups: Sequence[Group], sampling: SamplingSpec, seed: int) -> list[Group]:
        return self._here().generate(groups, sampling, seed)

    def check(self, groups: Sequence[Group]) -> None:
        self._here().check(groups)

    def score(self, groups: Sequence[Group]) -> list[Group | str]:
        return self._here().score(groups)

    def _here(self) -> Worker:
        assert self._worker is not None
        return self._worker


@dataclass(kw_only=True, eq=False)
class _Seat:
    """A worker as it is seen from here."""

    actor: Any
    loading: Any
    """Reference to the end of its ``load``; None: it has the policy."""
    asked: dict[Any, int] = field(default_factory=dict)
    """Numbers of the batches that are there, by the references to their results."""
    since: float = 0.0
    """When it last began a batch, on the monotonic clock."""
    unloaded: int = 0
    """How often in a row it was lost before it had the policy."""


class RayEngine:
    """A ``RolloutEngine`` on the machines of a Ray cluster.

    >>> engine = RayEngine(partial(PolicyWorker, recipe), policy.trainable_state, EngineSpec(name="ray", workers=8))
    ... # doctest: +SKIP
    >>> engine.update(0)  # doctest: +SKIP
    >>> engine.generate(groups, SamplingSpec(n=8), seed=0)  # doctest: +SKIP
    """

    def __init__(self, make: Callable[[], Worker], state: Callable[[], Mapping[str, Tensor]], spec: EngineSpec) -> None:
        """
        Args:
            make: makes a worker on its machine.
            state: what is trained, as it is now, on the CPU.
            spec: how many workers, and where.

        Raises:
            MissingExtra: Ray is not there.
            EngineError: no cluster at ``spec.address``.
        """
        self._ray = _connected(spec)
        self._make, self._state, self._spec = make, state, spec
        self._surroundings, self._weights = _Surroundings(), None
        self._seats: list[_Seat] = []
        self._kind = self._ray.remote(_Actor).options(num_cpus=1, num_gpus=spec.gpus)

    def update(self, version: int) -> None:
        """See ``CheckedEngine.update``. Workers take it over while the next call begins."""
        self._weights = self._ray.put(dict(self._state()))
        if not self._seats:
            self._seats += (self._seat() for _ in range(self._spec.workers))
            return
        for seat in self._seats:
            seat.loading = seat.actor.load.remote(self._weights)

    def generate(
        self, groups: Sequence[Group], sampling: SamplingSpec, *, seed: int, on_progress: Progress | None = None
    ) -> list[Group]:
        """See ``RolloutEngine.generate``; batches have ``sampling.batch_size`` prompts, or fewer where all workers are
        to have some.

        Raises:
            EngineError: no worker for too long, or a batch that costs worker after worker.
        """
        order = same_pictures_together(groups)
        parts = _parts(order, min(sampling.batch_size, -(-len(order) // len(self._seats))))
        bare = [replace(group, responses=(), edges=()) for group in groups]
        answered: dict[int, Group] = {}

        def note(number: int, made: list[Group]) -> None:
            answered.update(zip(parts[number], made, strict=True))
            if on_progress is not None:
                on_progress(len(answered), len(groups))

        self._spread(parts, lambda actor, part: actor.generate.remote([bare[i] for i in part], sampling, seed), note)
        return [answered[index] for index in range(len(groups))]

    def read(self, group: Group) -> tuple[int, ...]:
        """See ``ReadEngine.read``."""
        found: list[tuple[int, ...]] = []
        self._spread([[0]], lambda actor, _: actor.read.remote(group), lambda _, made: found.append(made))
        return found[0]

    def check(self, groups: Sequence[Group]) -> None:
        """Looks whether the rewards can be computed of answers to these prompts.

        Raises:
            DataError: they cannot.
        """
        self._spread(
            _parts(range(len(groups)), _AT_ONCE),
            lambda actor, part: actor.check.remote([groups[i] for i in part]),
            lambda _, made: None,
        )

    def score(self, groups: Sequence[Group]) -> list[Group | str]:
        """See ``rewards.base.score_groups``."""
        parts = _parts(range(len(groups)), -(-len(groups) // (AHEAD * len(self._seats))))
        scored: dict[int, Group | str] = {}
        self._spread(
            parts,
            lambda actor, part: actor.score.remote([groups[i] for i in part]),
            lambda number, made: scored.update(zip(parts[number], made, strict=True)),
        )
        return [scored[index] for index in range(len(groups))]

    def close(self) -> None:
        """See ``CheckedEngine.close``: workers end, whatever they are at."""
        for seat in self._seats:
            self._ray.kill(seat.actor)
        self._seats = []

    # --- workers ---

    def _seat(self) -> _Seat:
        actor = self._kind.remote(self._make, self._surroundings, gpus=self._spec.gpus)
        return _Seat(actor=actor, loading=actor.load.remote(self._weights))

    def _spread(
        self, parts: Sequence[Sequence[int]], ask: Callable[[Any, Sequence[int]], Any], note: Callable[[int, Any], None]
    ) -> None:
        """Asks every part of somebody.

        Args:
            parts: of the work.
            ask: asks an actor for a part; gives the reference to its result.
            note: gets the number of a part and its result.
        """
        assert self._seats, "update comes first"
        left, lost, done = deque(range(len(parts))), Counter[int](), 0
        gone_since: float | None = None
        try:
            while done < len(parts):
                self._hand_out(left, lambda actor, number: ask(actor, parts[number]))
                for number, made in self._ready(left, lost):
                    note(number, made)
                    done += 1
                self._replace_late(left, lost)
                up = any(seat.loading is None for seat in self._seats)
                gone_since = None if up else gone_since or time.monotonic()
                self._check_patience(gone_since)
        finally:  # where it broke off: results that still come are nobody's
            for seat in self._seats:
                seat.asked.clear()

    def _ready(self, left: deque[int], lost: Counter[int]) -> Iterator[tuple[int, Any]]:
        """Numbers of the parts that are done, and their results."""
        refs = [ref for seat in self._seats for ref in (seat.loading, *seat.asked) if ref is not None]
        for ref in self._ray.wait(refs, timeout=_LOOK)[0]:
            seat = next((one for one in self._seats if ref == one.loading or ref in one.asked), None)
            made = None if seat is None else self._result(seat, ref, left, lost)
            if made is not None:
                yield made

    def _hand_out(self, left: deque[int], ask: Callable[[Any, int], Any]) -> None:
        for filled in range(AHEAD):  # level by level, so that all have some
            for seat in self._seats:
                if left and seat.loading is None and len(seat.asked) == filled:
                    seat.since = seat.since if seat.asked else time.monotonic()
                    number = left.popleft()
                    seat.asked[ask(seat.actor, number)] = number

    def _result(self, seat: _Seat, ref: Any, left: deque[int], lost: Counter[int]) -> tuple[int, Any] | None:
        """The number of a part and its result; None: the policy was loaded, or the worker is lost."""
        try:
            made = self._ray.get(ref)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, SightlineError):
                raise error.cause from None
            raise EngineError(f"a worker of Ray failed: {shortened(str(error), 2000)}") from error
        except self._ray.exceptions.RayError as error:
            self._replace(seat, shortened(" ".join(str(error).split()), 300), left, lost)
            return None
        if ref == seat.loading:
            seat.loading, seat.unloaded = None, 0
            return None
        seat.since = time.monotonic()
        return seat.asked.pop(ref), made

    def _replace_late(self, left: deque[int], lost: Counter[int]) -> None:
        for seat in self._seats:
            if seat.asked and time.monotonic() - seat.since > self._spec.timeout:
                self._replace(seat, f"no answer for {self._spec.timeout:g} s (online.engine.timeout)", left, lost)

    def _replace(self, seat: _Seat, fault: str, left: deque[int], lost: Counter[int]) -> None:
        """Another worker in the place of one that is lost; what was asked of it is asked again, first of all."""
        _log.warning("A worker of Ray is lost and replaced: %s", fault)
        numbers = list(seat.asked.values())  # it was at the first
        if numbers:
            lost[numbers[0]] += 1
        else:
            seat.unloaded += 1
        if (lost[numbers[0]] if numbers else seat.unloaded) == TRIES:
            what = "one and the same batch" if numbers else "loading the policy"
            raise EngineError(
                f"{TRIES} workers of Ray were lost over {what} ({fault}). Look at Ray's logs; give workers more "
                "memory, or lower online.sampling.batch_size"
            )
        left.extendleft(reversed(numbers))
        with suppress(self._ray.exceptions.RayError):
            self._ray.kill(seat.actor)
        new = self._seat()
        seat.actor, seat.loading, seat.asked = new.actor, new.loading, {}

    def _check_patience(self, gone_since: float | None) -> None:
        spec = self._spec
        if gone_since is None or time.monotonic() - gone_since <= spec.patience:
            return
        there = {name: self._ray.cluster_resources().get(name, 0) for name in ("CPU", "GPU")}
        raise EngineError(
            f"no worker of Ray has started for {spec.patience:g} s: online.engine asks for {spec.workers} with 1 CPU "
            f"and {spec.gpus:g} GPUs each, and the cluster has {there['CPU']:g} CPUs and {there['GPU']:g} GPUs in all. "
            "Add machines, ask for less, or raise online.engine.patience; the same command goes on from the last "
            "checkpoint"
        )


def _parts(indices: Sequence[int], size: int) -> list[Sequence[int]]:
    return [indices[start : start + size] for start in range(0, len(indices), size)] if indices else []


def _connected(spec: EngineSpec) -> Any:
    """Ray, as a member of its cluster; where this process is one already it stays in that."""
    try:
        import ray
    except ImportError as error:
        raise MissingExtra("ray", "ray") from error
    if ray.is_initialized():
        return ray
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # of a batch that nobody waits for: one was told
    own: dict[str, Any] = {"logging_level": logging.WARNING, "log_to_driver": False}
    if spec.address is None:  # on the loopback alone
        own |= {"num_cpus": max(spec.workers, os.cpu_count() or 1), "_node_ip_address": "127.0.0.1"}
        own["include_dashboard"] = False
    try:
        if spec.address not in (None, "auto"):  # Ray would try for minutes, and heed no signal
            host, _, port = str(spec.address).rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT).close()
        ray.init(address=spec.address or "local", **own)
    except (OSError, OverflowError, RuntimeError, ValueError) as error:
        raise EngineError(
            f"no Ray cluster at online.engine.address {spec.address or 'none'} ({shortened(str(error), 300)}). Start "
            "one with ray start --head, or leave address out"
        ) from error
    return ray

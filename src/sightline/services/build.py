"""From a name on the command line to a service."""

from __future__ import annotations

import ipaddress
import tempfile
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from fastapi import APIRouter

from sightline.errors import RecipeError
from sightline.evaluation.judges.base import Backend
from sightline.evaluation.judges.http import TOKEN_NAME
from sightline.evaluation.rubric import load_rubric
from sightline.services.app import Service, build_app
from sightline.services.batching import Batcher
from sightline.services.bounds import Bounds
from sightline.services.guard import LOCAL, Guard
from sightline.services.image import Maker, Studio, image_routes
from sightline.services.judge import Desk, judge_routes, judged
from sightline.services.metrics import Metrics
from sightline.services.pictures import Pictures
from sightline.services.reward import Rewards, Scale, reward_routes, scored
from sightline.services.scenes import ScenesJudge, ScenesMaker, scenes_rewards

Kind = Literal["judge", "describe", "image", "reward"]
SCENES: Final = "scenes"
"""Name of the built-in world, in the place of a model."""


@dataclass(frozen=True, kw_only=True)
class ServeSpec:
    """What is served, and to whom."""

    kind: Kind
    model: str
    """``scenes``; or the folder or hub name of a chat model (judge, describe), a pipeline of diffusers (image), or the
    directory of a run with ``reward_model`` (reward)."""
    name: str | None = None
    """As clients of a judge name the model; None: as ``model``."""
    host: str = "127.0.0.1"
    port: int = 8000
    root: Path | None = None
    """Folder below which pictures are read and written by path; None: they come and go as bytes."""
    dtype: str = "float32"
    template: Path | None = None
    """Of ``/critic``: a rubric of one's own, with the fields of ``reward_score``."""
    token: str = field(default="", repr=False)
    bounds: Bounds = field(default_factory=Bounds)

    def __post_init__(self) -> None:
        if not self.token and not _is_local(self.host):
            raise RecipeError(
                f"--host {self.host} can be reached from other machines, and there is no token. Set {TOKEN_NAME} here "
                "and where the clients run, or bind 127.0.0.1 and tunnel"
            )
        if self.root is not None and not self.root.is_dir():
            raise RecipeError(f"--root {self.root} is no folder. Make it, or name another")
        if self.template is not None and self.kind not in ("judge", "describe"):
            raise RecipeError(f"--template words /critic, which {self.kind} does not serve. Remove it")


def build_service(spec: ServeSpec) -> Guard:
    """The application of a service; its model is loaded here.

    Raises:
        RecipeError, CheckpointError, DataError, MissingExtra: It cannot be served.
    """
    scratch = tempfile.TemporaryDirectory(prefix="sightline-serve-")
    pictures = Pictures(scratch=Path(scratch.name), root=spec.root, bounds=spec.bounds)
    router, batcher = _ROUTES[spec.kind](spec, pictures, Metrics())

    @asynccontextmanager
    async def cleared():  # type: ignore[no-untyped-def]
        with scratch:
            yield

    return build_app(
        Service(
            name=spec.kind,
            model=spec.name or spec.model,
            router=router,
            batcher=batcher,
            bounds=spec.bounds,
            metrics=batcher.metrics,
            token=spec.token,
            also=[cleared()],
        )
    )

"""What is served, and to whom. Imports no web framework."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from sightline.evaluation.judges.http import TOKEN_NAME
from sightline.services.bounds import Bounds
from sightline.services.guard import is_local

_STRICT = ConfigDict(extra="forbid")
Kind = Literal["judge", "describe", "image", "reward"]
Makes = Literal["text_to_image", "edit", "inpaint"]
SCENES: Final = "scenes"
"""Name of the built-in world, in the place of a model."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class ServeSpec:
    """What is served, and to whom."""

    what: Kind
    model: str
    """``scenes``; or the folder or hub name of a chat model (judge, describe), a pipeline of diffusers (image), or the
    directory of a run with ``reward_model`` (reward)."""
    name: str | None = None
    """As clients of a judge name the model; None: as ``model``."""
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    root: Path | None = None
    """Folder below which pictures are read and written by path; None: they come and go as bytes."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Of the weights of judges and describers (None: float32) and of pipelines (None: bfloat16). A reward model has
    that of its training."""
    makes: Makes = "text_to_image"
    """Of ``image`` with a pipeline."""
    template: Path | None = None
    """Of ``/critic``: a rubric of one's own, with the fields of ``reward_score``."""
    token: str = field(default="", repr=False)
    bounds: Bounds = field(default_factory=Bounds)

    def __post_init__(self) -> None:
        if not self.token and not is_local(self.host):
            raise ValueError(
                f"--host {self.host} can be reached from other machines, and there is no token. Set {TOKEN_NAME} here "
                "and where the clients run, or bind 127.0.0.1 and tunnel"
            )
        if self.root is not None and not self.root.is_dir():
            raise ValueError(f"--root {self.root} is no folder. Make it, or name another")
        if self.template is not None and self.what not in ("judge", "describe"):
            raise ValueError(f"--template words /critic, which {self.what} does not serve. Remove it")
        if self.template is not None and self.model == SCENES:
            raise ValueError("--template words /critic, and the judge of scenes reads its own rubric alone. Remove it")
        if self.dtype is not None and (self.what == "reward" or self.model == SCENES):
            raise ValueError(f"--dtype {self.dtype} is not read, found serve {self.what} {self.model}. Remove it")
        if self.makes != "text_to_image" and (self.what != "image" or self.model == SCENES):
            raise ValueError(f"--makes {self.makes} is of a pipeline, found serve {self.what} {self.model}. Remove it")

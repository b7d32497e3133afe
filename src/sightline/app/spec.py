"""What the app shows, and to whom. Imports no web framework."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Final

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from sightline.evaluation.judges.http import TOKEN_NAME
from sightline.services.guard import is_local

_STRICT = ConfigDict(extra="forbid")
UPLOAD: Final = 20 * (1 << 20)
"""Bytes of a request: a picture of 16 MiB and what goes with it."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class AppSpec:
    """Where the app is reached."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 7860
    token: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if not self.token and not is_local(self.host):
            raise ValueError(
                f"--host {self.host} can be reached from other machines, and there is no token. Set {TOKEN_NAME} to a "
                "secret of your own, which the browser is then asked for, or bind 127.0.0.1 and tunnel"
            )

"""Pictures from services over HTTP, asked as OViP asks its own (``/generate``)."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final

from PIL import Image, ImageDraw

from sightline.addresses import Addresses, Again, GivenUp, Patience, shown_url
from sightline.data.picture import read_picture
from sightline.errors import DataError
from sightline.evaluation.judges.http import (
    TOKEN_NAME,
    HttpReply,
    TooLarge,
    hidden,
    post,
    retry_after,
    service_headers,
    service_token,
)
from sightline.negatives.painting import Order, Painted, Unpainted
from sightline.recipes.negatives import PaintSpec

_REFUSED: Final = (401, 402, 403, 404, 405)
"""Wrong address, or no right to ask: every request would fail."""
_AGAIN: Final = (408, 409, 425, 429)
"""And all from 500 on."""
_LONGEST_PAUSE: Final = 60.0


@dataclass(kw_only=True)
class ImageService:
    """Sends ``prompt``, ``h``, ``w``, ``num_inference_steps``, ``guidance_scale``, ``seed``, ``save_dir`` and ``info``,
    and reads ``{"path": ...}`` of a file below ``save_dir``, or ``{"image": base64}``. A try that fails goes to the
    address with the least to do; a picture that fails for good is told, and no other is lost by it."""

    spec: PaintSpec
    kind: str
    folder: Path
    """Where a service on the same file system may write."""
    together: int = 0
    token: str = field(default_factory=service_token, repr=False)
    """Sent with every request; empty: none is."""
    _stop: threading.Event = field(default_factory=threading.Event, repr=False)

    def __post_init__(self) -> None:
        self._addresses = Addresses(urls=self.spec.urls, stop=self._stop)

    @property
    def settings(self) -> Mapping[str, Any]:
        """See ``Painter.settings``. Where a service is changes no picture."""
        names = ("width", "height", "steps", "guidance", "strength")
        return {"kind": self.kind, "maker": "service", **{name: vars(self.spec)[name] for name in names}}

    def paint(self, orders: Sequence[Order]) -> Iterator[Painted]:
        """See ``Painter.paint``."""
        with ThreadPoolExecutor(self.spec.workers) as pool:
            waiting = {pool.submit(self._painted, order): number for number, order in enumerate(orders)}
            try:
                for future in as_completed(waiting):
                    yield waiting[future], future.result()
            except BaseException:  # a refusal, an interrupt
                self._stop.set()
                raise

    def give_up(self) -> None:
        """See ``Painter.give_up``."""
        self._stop.set()

    def _painted(self, order: Order) -> Image.Image | Unpainted:
        try:
            body = json.dumps(self._body(order)).encode()
        except (OSError, SyntaxError, ValueError) as error:
            return Unpainted(reason=f"the picture to change cannot be read ({error})")
        if self._stop.is_set():
            return Unpainted(reason="given up")
        try:
            patience = Patience(tries=self.spec.tries, pause=self.spec.pause, longest=_LONGEST_PAUSE)
            return self._addresses.ask(lambda url: self._asked(url, body), patience)
        except GivenUp as error:
            return Unpainted(reason=str(error))

    def _asked(self, url: str, body: bytes) -> Image.Image | Unpainted:
        try:
            reply = post(url, body, service_headers(self.token), seconds=self.spec.timeout)
        except (HTTPException, OSError, TooLarge) as error:
            raise Again(f"{type(error).__name__}: {error}") from error
        said = f"HTTP {reply.status}: {hidden(reply.body[:200].decode('utf-8', 'replace'), self.token)}"
        if 300 <= reply.status < 400 or reply.status in _REFUSED:
            raise DataError(
                f"the image service answered {said}",
                source=shown_url(url),
                remedy=f"Correct online.negatives.paint.urls, or set {TOKEN_NAME} to the token of the service",
            )
        if reply.status >= 500 or reply.status in _AGAIN:
            raise Again(said, retry_after(reply.headers))
        if reply.status >= 400:
            return Unpainted(reason=f"{shown_url(url)}: {said}")
        return self._read(reply, url)

    def _read(self, reply: HttpReply, url: str) -> Image.Image:
        try:
            said = json.loads(reply.body)
            if isinstance(said.get("image"), str):
                content = base64.b64decode(said["image"], validate=True)
            else:
                content = self._inside(said["path"]).read_bytes()
            with Image.open(io.BytesIO(content)) as picture:
                return picture.convert("RGB")
        except (OSError, SyntaxError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            told = f"{type(error).__name__}: {error}"
            raise Again(f"the reply holds no picture ({told:.200}): {reply.body[:80]!r}") from error

    def _inside(self, path: str) -> Path:
        """A file that a service may name: below the folder that it was given."""
        found = Path(path).resolve()
        if not found.is_relative_to(self.folder.resolve()):
            raise ValueError(f"{path} is not below save_dir {self.folder}")
        return found

    def _body(self, order: Order) -> dict[str, Any]:
        spec = self.spec
        asked: dict[str, Any] = {
            "prompt": order.text,
            "h": spec.height,
            "w": spec.width,
            "num_inference_steps": spec.steps,
            "guidance_scale": spec.guidance,
            "seed": order.seed,
            "save_dir": str(self.folder.absolute()),
            "info": dict(order.about),
        }
        if order.picture is not None:
            picture = read_picture(order.picture)
            asked |= {"image": _sent(picture), "strength": spec.strength}
            if order.box is not None:
                asked["mask"] = _sent(mask(picture.size, order.box))
        return asked


def mask(size: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    """White where a picture of ``size`` is painted anew, black elsewhere."""
    made = Image.new("L", size, 0)
    left, top, right, bottom = box
    ImageDraw.Draw(made).rectangle((left, top, right - 1, bottom - 1), fill=255)
    return made


def _sent(picture: Image.Image) -> str:
    held = io.BytesIO()
    picture.save(held, format="PNG", compress_level=1)
    return base64.b64encode(held.getvalue()).decode("ascii")

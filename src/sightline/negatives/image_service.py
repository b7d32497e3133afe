"""Pictures from services over HTTP, asked as OViP asks its own (``/generate``)."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from PIL import Image, ImageDraw

from sightline.addresses import Addresses, Again, GivenUp, Patience, shown_url
from sightline.data.picture import FORMATS, UNREADABLE, read_picture
from sightline.evaluation.judges.http import (
    LARGEST,
    TOKEN_NAME,
    HttpReply,
    ask_service,
    hidden,
    service_token,
    shown_body,
)
from sightline.negatives.painting import Order, Painted, Unpainted
from sightline.recipes.negatives import PaintSpec

_LONGEST_PAUSE: Final = 60.0
_MOST_PIXELS: Final = 40_000_000
"""Of a picture that a service gives."""


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
        except UNREADABLE as error:
            return Unpainted(reason=f"the picture to change cannot be read ({error})")
        if self._stop.is_set():
            return Unpainted(reason="given up")
        try:
            patience = Patience(tries=self.spec.tries, pause=self.spec.pause, longest=_LONGEST_PAUSE)
            return self._addresses.ask(lambda url: self._asked(url, body), patience)
        except GivenUp as error:
            return Unpainted(reason=str(error))

    def _asked(self, url: str, body: bytes) -> Image.Image | Unpainted:
        remedy = f"Correct online.negatives.paint.urls, or set {TOKEN_NAME} to the token of the service"
        reply = ask_service(url, body, self.token, seconds=self.spec.timeout, name="image", remedy=remedy)
        if reply.status >= 400:
            return Unpainted(reason=f"{shown_url(url)}: HTTP {reply.status}: {shown_body(reply, self.token)}")
        return self._read(reply)

    def _read(self, reply: HttpReply) -> Image.Image:
        try:
            said = json.loads(reply.body)
            if isinstance(said.get("image"), str):
                content = base64.b64decode(said["image"], validate=True)
            else:
                content = self._inside(said["path"])
            with Image.open(io.BytesIO(content), formats=tuple(FORMATS)) as picture:
                if picture.width * picture.height > _MOST_PIXELS:
                    raise ValueError(f"it is {picture.width} x {picture.height}")
                return picture.convert("RGB")
        except UNREADABLE as error:
            why = hidden(f"{type(error).__name__}: {error}", self.token)
            raise Again(f"the reply holds no picture ({why:.200}): {shown_body(reply, self.token)!r:.80}") from error

    def _inside(self, path: str) -> bytes:
        """The bytes of a file that a service may name: a plain one, below the folder that it was given."""
        found = Path(path).resolve()
        if not found.is_relative_to(self.folder.resolve()):
            raise ValueError(f"{path} is not below save_dir {self.folder}")
        if not found.is_file():
            raise ValueError(f"{path} is no file")
        with found.open("rb") as file:
            return file.read(LARGEST)

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

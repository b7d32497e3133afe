"""Pictures from services over HTTP, asked as OViP asks its own (``/generate``)."""

from __future__ import annotations

import base64
import io
import json
import random
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final

from PIL import Image, ImageDraw

from sightline.data.picture import read_picture
from sightline.errors import DataError
from sightline.evaluation.judges.endpoint import shown_url
from sightline.evaluation.judges.http import HttpReply, TooLarge, post
from sightline.negatives.painting import Order, Painted, Unpainted
from sightline.recipes.negatives import PaintSpec

_REFUSED: Final = (401, 402, 403, 404, 405)
"""Wrong address, or no right to ask: every request would fail."""
_LONGEST_PAUSE: Final = 60.0


class _Again(Exception):
    """A try that may go well next time."""


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
    _busy: dict[str, int] = field(default_factory=dict, repr=False)
    """Requests under way, by address."""
    _away: dict[str, float] = field(default_factory=dict, repr=False)
    """Until when an address that failed is asked only where all others fail too."""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _stop: threading.Event = field(default_factory=threading.Event, repr=False)

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
        pause, last = self.spec.pause, ""
        for number in range(self.spec.tries):
            if self._stop.is_set():
                return Unpainted(reason=last or "given up")
            url = self._freest(avoid=number)
            try:
                return self._read(self._asked(url, body), url)
            except _Again as error:
                self._away[url] = time.monotonic() + _LONGEST_PAUSE
                last = f"{shown_url(url)}: {error} ({number + 1} tries)"
            finally:
                with self._lock:
                    self._busy[url] -= 1
            if number + 1 < self.spec.tries:
                self._stop.wait(pause * random.uniform(0.5, 1))
                pause = min(2 * pause, _LONGEST_PAUSE)
        return Unpainted(reason=last)

    def _freest(self, *, avoid: int) -> str:
        """The address with the fewest requests, of those that did not fail lately where there are such; of equals
        another one on every try."""
        urls = self.spec.urls
        with self._lock:
            turn = [*urls[avoid % len(urls) :], *urls[: avoid % len(urls)]]
            now = time.monotonic()
            url = min(turn, key=lambda one: (self._away.get(one, now) > now, self._busy.get(one, 0)))
            self._busy[url] = self._busy.get(url, 0) + 1
        return url

    def _asked(self, url: str, body: bytes) -> HttpReply:
        try:
            reply = post(url, body, {"Content-Type": "application/json"}, seconds=self.spec.timeout)
        except (HTTPException, OSError, TooLarge) as error:
            raise _Again(f"{type(error).__name__}: {error}") from error
        said = f"HTTP {reply.status}: {reply.body[:200].decode('utf-8', 'replace')}"
        if 300 <= reply.status < 400 or reply.status in _REFUSED:
            raise DataError(
                f"the image service answered {said}",
                source=shown_url(url),
                remedy="Correct online.negatives.paint.urls",
            )
        if reply.status >= 400:
            raise _Again(said)
        return reply

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
            raise _Again(f"the reply holds no picture ({told:.200}): {reply.body[:80]!r}") from error

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

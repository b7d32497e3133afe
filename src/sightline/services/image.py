"""Pictures to order behind OViP's ``/generate``: the picture first, then its line, and neither twice."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import io
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from fastapi import APIRouter
from PIL import Image

from sightline.data.schema import complete_lines
from sightline.files import replacing
from sightline.services.batching import Batcher, Refused
from sightline.services.pictures import Pictures
from sightline.services.wire import GenerateReply, GenerateRequest


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One picture to make."""

    text: str
    """What it shows; of an edit, what is changed."""
    seed: int
    width: int
    height: int
    steps: int
    guidance: float
    picture: str | None = None
    """Path of the picture that is changed."""
    mask: str | None = None
    """Path of a picture that is white where it is painted anew."""
    strength: float | None = None

    def key(self, maker: str) -> str:
        """Identity: of all that the picture depends on, the name of its maker with it."""
        told = {**vars(self), "picture": _name(self.picture), "mask": _name(self.mask), "maker": maker}
        return hashlib.blake2b(json.dumps(told, sort_keys=True).encode(), digest_size=16).hexdigest()


class Maker(Protocol):
    """Makes pictures. One does not depend on what is made with it, beyond rounding."""

    @property
    def name(self) -> str:
        """All that a picture depends on beside its order: pictures of another name are others."""
        ...

    def make(self, wanted: Sequence[Wanted]) -> Sequence[Image.Image | Refused]: ...


@dataclass(frozen=True, kw_only=True)
class Studio:
    """What the route of an image service works with."""

    maker: str
    """Its name."""
    batcher: Batcher[Wanted, Image.Image]
    pictures: Pictures
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    async def generate(self, request: GenerateRequest) -> GenerateReply:
        """Makes a picture, or finds the one that the same request made before."""
        if request.mask is not None and request.image is None:
            raise Refused(422, "mask says what of image is painted anew, and there is no image")
        if request.strength is not None and request.image is None:
            raise Refused(422, "strength is of an edit, and there is no image")
        _plain(request.info)
        if taken := sorted({"image", "image_instruction", "seed"} & set(request.info)):
            raise Refused(422, f"info holds {', '.join(taken)}, which the service writes itself")
        named = [one for one in (request.image, request.mask) if one is not None]
        # without a root there is no place to write: the reply holds the bytes
        folder = None if request.save_dir is None or self.pictures.root is None else self._folder(request.save_dir)
        with self.pictures.taken(named) as paths:
            wanted = _wanted(request, paths)
            file = None if folder is None else folder / "images" / f"{wanted.key(self.maker)}.png"
            made = None if file is not None and file.exists() else await self.batcher.submit(wanted)
        if file is None:
            assert made is not None
            return GenerateReply(image=base64.b64encode(_png(made)).decode("ascii"))
        if made is not None:
            with replacing(file) as aside:
                made.save(aside, format="PNG", compress_level=1)
        line = {**request.info, "image_instruction": request.prompt, "image": str(file), "seed": wanted.seed}
        self._record(file.parent.parent / "data.jsonl", line)
        return GenerateReply(path=str(file))

    def _folder(self, save_dir: str) -> Path:
        """Where pictures go: below the root, as are the folder and the file in it that are written."""
        folder = self.pictures.inside(save_dir)
        for place in (folder / "images", folder / "data.jsonl"):
            if self.pictures.inside(str(place)) != place:
                raise Refused(422, "images and data.jsonl in save_dir are links; name another folder")
        try:
            (folder / "images").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Refused(422, f"save_dir cannot be made ({error.strerror})") from error
        return folder

    def _record(self, path: Path, line: Mapping[str, Any]) -> None:
        """Adds the line, unless a request that was sent again finds it there."""
        text = _plain(line) + "\n"
        with self._lock, path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # of other services that write here
            complete_lines(path)
            file.seek(0)
            if text.encode() not in file:
                file.write(text.encode())


def image_routes(studio: Studio) -> APIRouter:
    """``/generate``."""
    router = APIRouter()

    @router.post("/generate")
    async def generate(request: GenerateRequest) -> GenerateReply:
        return await studio.generate(request)

    return router


def _wanted(request: GenerateRequest, paths: Sequence[str]) -> Wanted:
    seed = request.seed
    if seed is None:  # OViP's client sends none, and takes 0 for every picture; info tells pairs apart
        told = _plain([request.prompt, request.info])
        seed = int.from_bytes(hashlib.blake2b(told.encode(), digest_size=8).digest(), "big") >> 1
    return Wanted(
        text=request.prompt,
        seed=seed,
        width=request.w,
        height=request.h,
        steps=request.num_inference_steps,
        guidance=request.guidance_scale,
        picture=paths[0] if paths else None,
        mask=paths[1] if len(paths) > 1 else None,
        strength=request.strength,
    )


def _plain(value: object) -> str:
    """
    Raises:
        Refused: It is no plain JSON (NaN), or is nested too deeply.
    """
    try:
        return json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise Refused(422, f"info cannot be written as JSON ({error})") from error


def _name(path: str | None) -> str | None:
    """Pictures are named by their content (``Pictures``)."""
    return None if path is None else Path(path).name


def _png(picture: Image.Image) -> bytes:
    held = io.BytesIO()
    picture.save(held, format="PNG", compress_level=1)
    return held.getvalue()

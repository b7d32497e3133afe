"""Pictures by diffusion models, in this process, through diffusers."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Final

import sightline.models  # noqa: F401  (makes torchvision importable, so before diffusers)

# isort: split

import torch
from PIL import Image

from sightline.data.picture import read_picture
from sightline.errors import CheckpointError, DataError, MissingExtra, RecipeError
from sightline.negatives.image_service import mask
from sightline.negatives.painting import Order, Painted, Unpainted
from sightline.recipes.negatives import PaintSpec

_AUTO: Final = {"edit": "AutoPipelineForImage2Image", "inpaint": "AutoPipelineForInpainting"}
"""What finds the form of a text-to-image model that changes a picture."""
_CHANGING: Final = ("Img2Img", "Inpaint", "Fill", "Pix2Pix", "Edit")
"""In the names of pipelines that change a picture, and make none from words alone."""
_SIDE: Final = 16
"""Sides are multiples of this: every pipeline has one of 8 or 16."""
_GUIDANCE: Final = ("true_cfg_scale", "guidance_scale")
"""How pipelines call guidance. Where there are both, the first is it, and the second is of distilled models (Qwen)."""


@dataclass(kw_only=True)
class Diffusion:
    """A pipeline of diffusers as a painter. Each picture has a generator of its own, on the host, so that it does not
    depend on the device nor, beyond rounding, on what is made together with it."""

    spec: PaintSpec
    kind: str
    pipeline: Any
    _one: threading.Lock = field(default_factory=threading.Lock, repr=False)
    """Pipelines keep the state of a call in themselves."""
    _stop: threading.Event = field(default_factory=threading.Event, repr=False)

    def __post_init__(self) -> None:
        """
        Raises:
            RecipeError: an option that the pipeline would not read, or an input that it lacks.
        """
        self._takes = frozenset(inspect.signature(type(self.pipeline).__call__).parameters)
        name = type(self.pipeline).__name__
        needs = {"edit": {"image"}, "inpaint": {"image", "mask_image"}}.get(self.kind, set())
        lacks = sorted(needs - self._takes)
        if lacks or (not needs and any(word in name for word in _CHANGING)):
            found = f"takes no {' and no '.join(lacks)}" if lacks else "needs a picture to change"
            raise RecipeError(
                f"online.negatives.kind is {self.kind}, and {name} of {self.spec.path} {found}. Choose another kind, "
                "or name another class with paint.pipeline."
            )
        for key, option, remedy in (
            ("max_sequence_length", "prompt_tokens", "Set paint.prompt_tokens: null"),
            ("strength", "strength", "Remove paint.strength"),
        ):
            if vars(self.spec)[option] is not None and key not in self._takes:
                raise RecipeError(f"{name} of {self.spec.path} does not read {option}. {remedy}.")

    @property
    def settings(self) -> Mapping[str, Any]:
        """See ``Painter.settings``."""
        names = ("path", "width", "height", "steps", "guidance", "prompt_tokens", "strength", "dtype")
        pipeline = type(self.pipeline).__name__
        return {"kind": self.kind, "maker": pipeline, **{name: vars(self.spec)[name] for name in names}}

    @property
    def together(self) -> int:
        """See ``Painter.together``. Pictures of unequal size cannot be changed together."""
        return self.spec.batch_size if self.kind == "text_to_image" else 1

    def paint(self, orders: Sequence[Order]) -> Iterator[Painted]:
        """See ``Painter.paint``."""
        with self._one:
            if self._stop.is_set():
                yield from ((number, Unpainted(reason="given up")) for number in range(len(orders)))
                return
            try:
                pictures = self._called(orders)
            except DataError as error:  # the picture to change
                pictures = [Unpainted(reason=str(error))] * len(orders)
        yield from enumerate(pictures)

    def give_up(self) -> None:
        """See ``Painter.give_up``."""
        self._stop.set()

    @torch.no_grad()
    def _called(self, orders: Sequence[Order]) -> list[Image.Image | Unpainted]:
        before = [read_picture(order.picture) for order in orders if order.picture is not None]
        made = self.pipeline(**self._arguments(orders, before))
        flagged = dict(made).get("nsfw_content_detected") or [False] * len(orders)
        sizes = [one.size for one in before] or [(self.spec.width, self.spec.height)] * len(orders)
        return [
            Unpainted(reason="the pipeline's safety checker withholds it") if bad else _sized(picture, size)
            for picture, size, bad in zip(made.images, sizes, flagged, strict=True)
        ]

    def _arguments(self, orders: Sequence[Order], before: Sequence[Image.Image]) -> dict[str, Any]:
        spec = self.spec
        told: dict[str, Any] = {
            "prompt": [order.text for order in orders],
            "num_inference_steps": spec.steps,
            "generator": [torch.Generator("cpu").manual_seed(order.seed) for order in orders],
            next((name for name in _GUIDANCE if name in self._takes), "guidance_scale"): spec.guidance,
        }
        if spec.prompt_tokens is not None:
            told["max_sequence_length"] = spec.prompt_tokens
        if spec.strength is not None:
            told["strength"] = spec.strength
        if not before:
            return {**told, "width": spec.width, "height": spec.height}
        width, height = (max(_SIDE, round(side / _SIDE) * _SIDE) for side in before[0].size)
        size = (width, height)
        told["image"] = [_sized(one, size) for one in before]
        if {"width", "height"} <= self._takes:
            told |= {"width": width, "height": height}
        if self.kind == "inpaint":
            boxes = [order.box or (0, 0, *one.size) for one, order in zip(before, orders, strict=True)]
            told["mask_image"] = [mask(one.size, box).resize(size) for one, box in zip(before, boxes, strict=True)]
        return told


def _sized(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    whole = picture.convert("RGB")
    return whole if whole.size == size else whole.resize(size, Image.Resampling.LANCZOS)


def diffusion(spec: PaintSpec, kind: str) -> Diffusion:
    """The pipeline of a recipe, on the GPU where there is one.

    Args:
        spec: with ``path``.
        kind: ``text_to_image``, ``edit`` or ``inpaint``.

    Raises:
        MissingExtra: diffusers is not installed.
        RecipeError: no such class, or one that does not do what is asked.
        CheckpointError: there is no such pipeline.
    """
    try:
        import diffusers
    except ImportError as error:
        raise MissingExtra("diffusers", "diffusion") from error
    try:
        loader = attrgetter(spec.pipeline or _loader(diffusers, spec, kind))(diffusers)
        dtype = attrgetter(spec.dtype)(torch)
        pipeline = loader.from_pretrained(spec.path, torch_dtype=dtype, trust_remote_code=False)
    except AttributeError as error:
        if spec.pipeline is None:
            raise
        raise RecipeError(
            f"online.negatives.paint.pipeline: diffusers has no pipeline {spec.pipeline!r}. Correct its name."
        ) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{spec.path} cannot be loaded as a pipeline of diffusers ({str(error).splitlines()[0]}). Give the folder "
            "or hub name of one, with all of its parts, and paint.pipeline where its kind is not found"
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    if spec.offload and torch.cuda.is_available():
        pipeline.enable_model_cpu_offload()
    else:
        pipeline.to("cuda" if torch.cuda.is_available() else "cpu")
    return Diffusion(spec=spec, kind=kind, pipeline=pipeline)


def _loader(diffusers: Any, spec: PaintSpec, kind: str) -> str:
    """The class that loads it: what the folder names, or what finds the form of that model that changes a picture."""
    if kind == "text_to_image":
        return "DiffusionPipeline"
    named = str(diffusers.DiffusionPipeline.load_config(spec.path)["_class_name"])
    return "DiffusionPipeline" if any(word in named for word in (*_CHANGING, "Kontext")) else _AUTO[kind]

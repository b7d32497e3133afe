"""Negative pictures that are made while a run goes on, and how its stages overlap. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from sightline.recipes.terms import Count, Seconds, Text, Url

_STRICT = ConfigDict(extra="forbid", str_strip_whitespace=False, allow_inf_nan=False)
_MOST = 2**31 - 1

Share = Annotated[float, Field(gt=0, le=1)]


def _unread(spec: Any, names: tuple[str, ...], where: str, of: str = "") -> None:
    """
    Raises:
        ValueError: An option is set that nothing reads.
    """
    for name in names:
        if vars(spec)[name] != type(spec).__pydantic_fields__[name].get_default(call_default_factory=True):
            raise ValueError(f"{of}{name} is not read {where}. Remove it")


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class DescribeSpec:
    """Who writes what the negative picture is to show. It is given the roles as OViP gives them: the picture is to fit
    the rejected answer, and to contradict the chosen one."""

    judge: Text
    """``openai:MODEL``, ``http://ADDRESS`` (OpenAI-compatible), ``local:FOLDER`` or ``replay:FILE``."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Of the judge: ``model``, ``timeout``, ``tries``, ``workers``, ... A key comes from the environment alone."""
    temperature: float = Field(default=0.1, ge=0, le=100)
    """Published: 0.1."""
    max_tokens: Count = 128
    """Of a reply. Published: 128."""
    attempts: Count = 2
    """How often it is asked at most for a description that its reply does not hold."""
    template: Text | None = None
    """A text of one's own; it names ``{{answer_shown}}`` and ``{{answer_denied}}``, and may name ``{{question}}``."""
    cache: Text | None = None
    """Folder that keeps replies; None: ``negatives/descriptions`` of the run directory."""

    def __post_init__(self) -> None:
        if "key" in self.options:
            raise ValueError("a key in a recipe would be written to disk with every run. Set OPENAI_API_KEY instead")


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class PaintSpec:
    """What makes the picture of a description: a pipeline of diffusers in this process (``path``), or services
    (``urls``)."""

    path: Text | None = None
    """Folder or hub name of a pipeline of diffusers (extra ``diffusion``): FLUX, Stable Diffusion 3, SDXL, their
    inpainting and editing forms."""
    pipeline: Text | None = None
    """Name of its class in diffusers (``FluxKontextPipeline``); None: what ``kind`` and the folder say."""
    urls: tuple[Url, ...] = ()
    """Addresses of image services, each request to the one with the least to do; the bodies are OViP's ``/generate``
    (docs/guides/ovip.md)."""
    width: Count = 384
    """Of ``text_to_image``. Published: 384."""
    height: Count = 384
    """Published: 384."""
    steps: Count = 40
    """Published: 40."""
    guidance: float = Field(default=7.5, ge=0, le=1e4)
    """Published: 7.5."""
    prompt_tokens: int | None = Field(default=512, ge=1, le=_MOST)
    """Most tokens of a description that the pipeline reads (FLUX, SD3). Published: 512. None: its own limit."""
    strength: Share | None = None
    """Of ``edit`` and ``inpaint``: how much of the picture is noise at first. None: the pipeline's own."""
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    """None: each pair has a seed of its own, from the seed of the run. Published: 0 for all."""
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Published: bfloat16."""
    batch_size: Count = 4
    """Pictures that a pipeline makes together."""
    offload: bool = False
    """Parts of the pipeline wait in main memory until they are needed: slower, with a third of the GPU memory."""
    cache: Text | None = None
    """Folder that keeps pictures; None: ``negatives`` of the run directory."""
    timeout: Seconds = 120.0
    """Of services: one request, its reply included."""
    tries: Count = 5
    """Of services: requests for one picture in all. OViP asks without end."""
    pause: Seconds = 3.0
    """Of services: seconds before the second try, doubled for each one after. Published: 3, always."""
    workers: Count = 8
    """Of services: requests under way at once."""

    def __post_init__(self) -> None:
        if (self.path is None) == (not self.urls):
            found = "neither path nor urls" if self.path is None else "both path and urls"
            raise ValueError(f"found {found}, expected a pipeline of diffusers or services. Give one of the two")
        if self.path is None:
            _unread(self, ("pipeline", "prompt_tokens", "dtype", "batch_size", "offload"), "of services (urls)")
        else:
            _unread(self, ("timeout", "tries", "pause", "workers"), "of a pipeline (path)")


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class GateSpec:
    """Throws away pictures that do not show what the rejected answer says."""

    kind: Literal["clip", "question"]
    """``clip``: the picture must be nearer to the rejected answer than to the chosen one; ``question``: a
    vision-language model is asked whether the picture bears the rejected answer out."""
    path: Text | None = None
    """Of ``clip``: folder or hub name of a CLIP or SigLIP model."""
    margin: float = Field(default=0.0, ge=-2, le=2)
    """Of ``clip``: by how much, in cosines."""
    least: float = Field(default=-1.0, ge=-1, le=1)
    """Of ``clip``: least cosine of picture and rejected answer."""
    judge: Text | None = None
    """Of ``question``: as of ``describe``; it must see pictures."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Of ``question``: of the judge."""
    template: Text | None = None
    """Of ``question``: a text of one's own; it names ``{{answer}}``, and may name ``{{question}}``."""
    attempts: Count = 2
    """Of ``question``: how often it is asked at most for a yes or no that its reply does not hold."""
    tries: Count = 1
    """Pictures that are made of a pair, each with another seed, until one passes."""

    def __post_init__(self) -> None:
        if "key" in self.options:
            raise ValueError("a key in a recipe would be written to disk with every run. Set OPENAI_API_KEY instead")
        needs = "path" if self.kind == "clip" else "judge"
        if vars(self)[needs] is None:
            raise ValueError(f"kind {self.kind} needs {needs}. Add it")
        others = {"clip": ("judge", "options", "template", "attempts"), "question": ("path", "margin", "least")}
        _unread(self, others[self.kind], f"with kind {self.kind}")


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class GeneratedSpec:
    """Negative pictures that show what the rejected answer of each pair says, made when the pair is found (OViP). They
    stand in the place of ``visual.negative``. What becomes of a pair without its picture says ``failed``."""

    kind: Literal["text_to_image", "edit", "inpaint", "scenes"]
    """``text_to_image``: painted from a description alone (OViP); ``edit``: the picture itself, changed by an
    instruction; ``inpaint``: the same within a box; ``scenes``: the built-in world draws the scene that the rejected
    answer tells, exactly. Crops, noise and pictures of other rows are ``visual.negative``."""
    describe: DescribeSpec | None = None
    """Of all kinds but ``scenes``."""
    paint: PaintSpec | None = None
    """Of all kinds but ``scenes``."""
    gate: GateSpec | None = None
    """None: every picture is taken. Of all kinds but ``scenes``, whose pictures are checked against the facts."""
    box: tuple[Share, Share] = (0.2, 0.5)
    """Of ``inpaint``: least and most share of the picture's area; each pair's box is drawn by its seed."""
    box_fact: Text | None = None
    """Of ``inpaint``: key of ``Prompt.facts`` with the box, four pixels: left, top, right, bottom. None: drawn."""
    failed: Literal["drop", "text", "stop"] = "drop"
    """What becomes of a pair without its picture; it is counted and told. ``drop``: it is left out; ``text``: its
    answers are compared under the true picture alone; ``stop``: the run ends with an error where a description or a
    picture fails for good, and goes on from its last checkpoint, and what the gate refuses is left out."""

    def __post_init__(self) -> None:
        painted = self.kind != "scenes"
        for name in ("describe", "paint"):
            if painted and vars(self)[name] is None:
                raise ValueError(f"kind {self.kind} needs {name}. Add it")
        for name in ("describe", "paint", "gate"):
            if not painted and vars(self)[name] is not None:
                raise ValueError(f"scenes are drawn from their facts, and {name} is not read. Remove {name}")
        if self.kind != "inpaint" and (self.box != (0.2, 0.5) or self.box_fact is not None):
            raise ValueError(f"the box is one of inpaint, found kind {self.kind}. Remove box and box_fact")
        if self.box[0] > self.box[1]:
            raise ValueError(f"found box {list(self.box)}, expected the least share first. Exchange the two")
        paint = self.paint
        if paint is not None:
            words = self.kind == "text_to_image"
            _unread(paint, ("strength",) if words else ("width", "height"), f"with kind {self.kind}", "paint.")


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class StagesSpec:
    """Prompts go through sampling, scoring, relating and picture making a chunk at a time, each stage in a thread of
    its own: while one chunk is scored, the next is sampled, and what ``online.max_staleness`` lets be sampled ahead is
    scored and painted while the policy trains."""

    overlap: bool = True
    """False: the stages take turns, to the same results."""
    chunk: Count | None = None
    """Prompts that go from stage to stage together. None: ``sampling.batch_size``."""
    scorers: int = Field(default=1, ge=1, le=1000)
    """Chunks that are scored at once."""
    painters: int = Field(default=1, ge=1, le=1000)
    """Chunks whose pictures are made at once."""
    queue: Count = 64
    """Most chunks between sampling and training, those under work included: sampling waits there."""

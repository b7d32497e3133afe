"""Memory and time of a training run, on paper: from the sizes of a model, what its rows bring, and a device's speed.

Everything is an estimate with its assumptions (``Forecast.assumed``). Matrix products and attention are counted, of
activations what autograd keeps of a decoder layer as transformers writes it (RMSNorm in float32, gated MLP).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, get_args

import torch

from sightline.errors import RecipeError
from sightline.models.outline import Outline
from sightline.ops.logprobs import CHUNK, SAVE_LOGITS_BELOW
from sightline.recipes.schema import Recipe
from sightline.types import LayoutName

LAYOUTS: Final = get_args(LayoutName)
SHARE_OF_PRODUCT: Final = 0.5
"""Of the speed of a large matrix product that a step reaches where it was measured (docs/performance.md)."""
SHARE_OF_PEAK: Final = 0.38
"""Of the datasheet's figure, the same."""
_PRODUCT_SECONDS: Final = 0.4


@dataclass(frozen=True, kw_only=True)
class Device:
    """Peak of dense products, FLOP/s, and memory in bytes, from the datasheet."""

    bfloat16: float
    float32: float
    memory: float


DEVICES: Final[Mapping[str, Device]] = {
    "b200": Device(bfloat16=2250e12, float32=80e12, memory=180e9),
    "h200": Device(bfloat16=989e12, float32=67e12, memory=141e9),
    "h100": Device(bfloat16=989e12, float32=67e12, memory=80e9),
    "a100": Device(bfloat16=312e12, float32=19.5e12, memory=80e9),
    "a100-40gb": Device(bfloat16=312e12, float32=19.5e12, memory=40e9),
    "l40s": Device(bfloat16=362e12, float32=91.6e12, memory=48e9),
    "a6000": Device(bfloat16=155e12, float32=38.7e12, memory=48e9),
    "a10": Device(bfloat16=125e12, float32=31.2e12, memory=24e9),
    "rtx4090": Device(bfloat16=165e12, float32=82.6e12, memory=24e9),
    "rtx3090": Device(bfloat16=71e12, float32=35.6e12, memory=24e9),
    "t4": Device(bfloat16=8.1e12, float32=8.1e12, memory=16e9),  # no units for bfloat16: as float32 at best
}
"""By the name that ``--device`` takes."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one group of the data brings, in the mean."""

    tokens: Mapping[str, float]
    """By layout: tokens that the decoder computes."""
    largest: Mapping[str, float]
    """By layout, of the largest group."""
    seen: Mapping[str, float]
    """By layout: pairs of a token and one that it sees."""
    scored: float
    """Tokens whose log-probability is computed."""
    image_tokens: float
    """Of its distinct pictures."""
    patches: float
    """Of its distinct pictures, as the tower takes them."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What a device does in a second."""

    device: str
    flops: float
    """That a training step reaches, per second."""
    memory: float | None
    """Bytes; None: not known."""
    how: str
    """Where the figure is from."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes on one device at the fullest moment of a step."""

    weights: float
    reference: float
    """Of a copy that the policy is compared with."""
    gradients: float
    moments: float
    """Of the optimizer."""
    casts: float
    """Copies in bfloat16 that autocast makes of float32 weights and keeps for the backward pass."""
    activations: float
    head: float
    """Logits of the LM head."""

    @property
    def total(self) -> float:
        return sum(vars(self).values())


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Of a recipe."""

    outline: Outline
    memory: Memory
    micro_tokens: float
    """Tokens of the fullest micro-batch."""
    tokens: Mapping[str, float]
    """By layout: tokens of an optimizer step."""
    flops: Mapping[str, float]
    """By layout: of an optimizer step."""
    layout: str
    """Of the recipe."""
    steps: int
    speed: Speed
    processes: int
    assumed: tuple[str, ...]

    @property
    def seconds_per_step(self) -> float:
        return self.flops[self.layout] / self.speed.flops / self.processes

    @property
    def seconds(self) -> float:
        """Of all steps, without loading, evaluation and checkpoints."""
        return self.seconds_per_step * self.steps


def forecast(
    sizes: Outline, recipe: Recipe, work: Work, steps: int, speed: Speed, *, processes: int = 1, forwards: int = 0
) -> Forecast:
    """
    Args:
        sizes: of the recipe's model.
        recipe: with its reference decided.
        work: in the mean of its rows.
        steps: optimizer steps.
        speed: of the device.
        processes: devices that share a step.
        forwards: passes beside the policy's own and the reference's (a survey of the step).
    """
    spec, layout = recipe.train, recipe.model.layout
    groups = spec.batch_size
    per_rank = work.tokens[layout] * max(1.0, groups / processes)
    micro = max(min(spec.micro_batch_tokens, per_rank), work.largest[layout])
    reference = recipe.reference in ("adapter", "copy")
    flops = {name: groups * _flops(sizes, recipe, work, name, passes=forwards + reference) for name in LAYOUTS}
    return Forecast(
        outline=sizes,
        memory=_memory(sizes, recipe, work, micro, processes),
        micro_tokens=micro,
        tokens={name: groups * work.tokens[name] for name in LAYOUTS},
        flops=flops,
        layout=layout,
        steps=steps,
        speed=speed,
        processes=processes,
        assumed=_assumed(recipe, speed, processes),
    )


def computes_in(recipe: Recipe) -> torch.dtype:
    """The type of the recipe's matrix products."""
    low = recipe.model.dtype == "bfloat16" or recipe.train.mixed_precision == "bf16"
    return torch.bfloat16 if low else torch.float32


def named_speed(name: str, dtype: torch.dtype, mfu: float | None = None) -> Speed:
    """Speed of a device of :data:`DEVICES`."""
    device, share = DEVICES[name], SHARE_OF_PEAK if mfu is None else mfu
    kind = "bfloat16" if dtype == torch.bfloat16 else "float32"
    peak = device.bfloat16 if kind == "bfloat16" else device.float32
    how = f"{share:.0%} of the datasheet's {peak / 1e12:g} TFLOP/s in {kind}"
    return Speed(device=name, flops=share * peak, memory=device.memory, how=how)


def check_device(name: str) -> None:
    """
    Raises:
        RecipeError: a device of which no speed is known.
    """
    if name not in DEVICES:
        raise RecipeError(f"--device is '{name}', expected one of {', '.join(DEVICES)}. Choose one, or leave it out.")


def measured_speed(sizes: Outline, dtype: torch.dtype, *, tokens: int = 512, mfu: float | None = None) -> Speed:
    """Speed of this machine's device: a product of the decoder's own shape, the best of half a second."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    share = SHARE_OF_PRODUCT if mfu is None else mfu
    left = torch.randn(tokens, sizes.hidden, dtype=dtype, device=device)
    right = torch.randn(sizes.hidden, sizes.intermediate, dtype=dtype, device=device)
    best, began = float("inf"), time.monotonic()
    with torch.no_grad():
        while time.monotonic() - began < _PRODUCT_SECONDS:
            start = time.perf_counter()
            for _ in range(8):
                left @ right
            if device.type == "cuda":
                torch.cuda.synchronize()
            best = min(best, time.perf_counter() - start)
    product = 8 * 2 * tokens * sizes.hidden * sizes.intermediate / best
    cuda = device.type == "cuda"
    memory = float(torch.cuda.get_device_properties(device).total_memory) if cuda else None
    name = torch.cuda.get_device_name(device) if cuda else "this machine's CPU"
    how = f"{share:.0%} of a product of {product / 1e12:.3g} TFLOP/s measured here"
    return Speed(device=name, flops=share * product, memory=memory, how=how)


# --- operations ---------------------------------------------------------------------------------


def _flops(sizes: Outline, recipe: Recipe, work: Work, layout: str, *, passes: int) -> float:
    """Of one group: forward and backward of the policy, and further forward ``passes``."""
    modes = {part.part: part.mode for part in sizes.parts}
    decoder = 2 * sizes.linear["language"] * work.tokens[layout]
    decoder += 4 * sizes.layers * sizes.heads_width * work.seen[layout]
    head = 2 * sizes.head * work.scored
    tower = 2 * sizes.linear["vision"] * work.patches
    projector = 2 * sizes.linear["projector"] * work.image_tokens
    pictures = tower + projector
    frozen = modes["vision"] == modes["projector"] == "frozen"
    again = decoder + head + (0.0 if frozen else pictures)  # frozen features serve every pass
    total = decoder * (1 + _backward(modes["language"])) + head * (1 + _backward(modes["language"]))
    total += tower * (1 + (0 if modes["vision"] == "frozen" else _backward(modes["vision"])))
    total += projector * (1 + (0 if frozen else _backward(modes["projector"])))
    if recipe.model.gradient_checkpointing:
        total += decoder + (0 if modes["vision"] == "frozen" else tower)
    return total + passes * again


def _backward(mode: str) -> int:
    """Products of the backward pass for one of the forward pass: gradients of inputs, and of weights trained whole."""
    return 2 if mode == "full" else 1


# --- memory -------------------------------------------------------------------------------------


def _memory(sizes: Outline, recipe: Recipe, work: Work, micro: float, processes: int) -> Memory:
    spread = processes if recipe.train.distribution == "fsdp" else 1
    trained = sum(part.trained for part in sizes.parts)
    held = sum(part.held for part in sizes.parts)
    small = sum(part.small for part in sizes.parts)
    low = "8bit" in recipe.train.optimizer
    width = 2 if computes_in(recipe) == torch.bfloat16 else 4
    head = (SAVE_LOGITS_BELOW, 4 * CHUNK * sizes.vocabulary)
    scored = work.scored / work.tokens[recipe.model.layout] * micro
    kept = min(head[0], 4 * scored * sizes.vocabulary) if _whole(sizes, "language") else 0.0
    return Memory(
        weights=held / spread,
        reference=(held if recipe.reference == "copy" else 0.0) / spread,
        gradients=4 * trained / spread,
        moments=(2 * (trained - small) + 8 * small if low else 8 * trained) / spread,
        casts=_casts(sizes, recipe) / spread,
        activations=micro * _per_token(sizes, recipe, work, width),
        head=kept + 2 * min(4 * scored * sizes.vocabulary, head[1]),
    )


def _whole(sizes: Outline, part: str) -> bool:
    return any(one.part == part and one.mode == "full" for one in sizes.parts)


def _casts(sizes: Outline, recipe: Recipe) -> float:
    """Weights in float32 under autocast: those of all layers, or of one where layers are computed again."""
    whole = recipe.model.dtype == "float32" and recipe.train.mixed_precision == "bf16"
    masters = recipe.model.dtype == "bfloat16" and _whole(sizes, "language")
    if not (whole or masters):
        return 0.0
    layers = sizes.linear["language"] + sizes.head
    return 2.0 * (layers / sizes.layers if recipe.model.gradient_checkpointing else layers)


def _per_token(sizes: Outline, recipe: Recipe, work: Work, width: int) -> float:
    """Bytes that autograd keeps of a token of the decoder, the tower's share included."""
    trained = any(part.part == "language" and part.mode != "frozen" for part in sizes.parts)
    layer = _layer(sizes, recipe, width, inputs=trained)
    kept = sizes.layers * layer
    if recipe.model.gradient_checkpointing:
        kept = sizes.layers * width * sizes.hidden + layer
    if any(part.part == "vision" and part.mode != "frozen" for part in sizes.parts):
        tower = width * (8 * sizes.vision_hidden + 3 * sizes.vision_intermediate)
        depth = 1 if recipe.model.gradient_checkpointing else sizes.vision_layers
        kept += depth * tower * work.patches / max(1.0, work.tokens[recipe.model.layout])
    return kept


def _layer(sizes: Outline, recipe: Recipe, width: int, *, inputs: bool) -> float:
    """Of one decoder layer. Norms keep their input in float32; attention its queries, keys, values and output; the
    gated MLP both halves, the activated one and their product. Linear layers keep their inputs where they, or adapters
    on them, are trained."""
    norms = 2 * 4 * sizes.hidden + (2 * width * sizes.hidden if _whole(sizes, "language") else 0)
    attention = width * (2 * sizes.heads_width + 2 * sizes.keys_width)
    mlp = width * 3 * sizes.intermediate
    if inputs:
        mlp += width * (2 * sizes.hidden + sizes.intermediate)
    return norms + attention + mlp


def _assumed(recipe: Recipe, speed: Speed, processes: int) -> tuple[str, ...]:
    told = [
        f"speed: {speed.how}",
        "counted: matrix products and attention, forward and backward; not loading, evaluation, checkpoints, sampling",
        "activations: what autograd keeps of a decoder layer with RMSNorm and gated MLP; compiled layers keep about "
        "three quarters",
        "not modelled: the time to launch operations, which makes models of a few million parameters many times slower",
        "not counted: fragments of the allocator, buffers of kernels, copies of keys that attention gathers on a GPU",
    ]
    if processes > 1:
        told.append(f"{processes} processes share every step equally, and sending costs nothing")
    if recipe.train.compile:
        told.append("train.compile is not taken into account")
    return tuple(told)

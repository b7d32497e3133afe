"""What the arithmetic allows: FLOPs of a group's step without sharing, as ``rows`` and as ``tree``, on paper.

    python -m benchmarks.arithmetic       # a table for LLaVA-1.5-7B and Qwen2.5-VL-7B

Full fine-tuning: the backward pass costs twice the forward pass of every part, so ratios are those of the forward
pass. Attention counts the entries that are seen. Left out: attention inside the vision tower (it would raise the
ratios), norms, softmax, optimizer and memory traffic. A measured ratio can differ either way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.shapes import Shape


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Weights that a token meets."""

    body: float
    """Weights of the decoder's linear layers."""
    head: float
    """Vocabulary x hidden size."""
    vision: float
    """Weights of vision tower and projector per image token: times the patches that make one."""
    width: float
    """Layers x heads x size of a head."""


LLAVA = Architecture(
    body=32 * (4 * 4096**2 + 3 * 4096 * 11008),
    head=32_064 * 4096,
    vision=23 * 12 * 1024**2 + 1024 * 4096 + 4096**2,
    width=32 * 4096,
)
"""LLaVA-1.5-7B; its tower's last layer is not used."""
QWEN = Architecture(
    body=28 * (2 * 3584**2 + 2 * 3584 * 512 + 3 * 3584 * 18944),
    head=152_064 * 3584,
    vision=4 * 32 * (4 * 1280**2 + 3 * 1280 * 3420) + 5120**2 + 5120 * 3584,
    width=28 * 3584,
)
"""Qwen2.5-VL-7B: four patches become one image token."""


def of_shape(shape: Shape) -> Architecture:
    """A model that ``benchmarks.step`` runs."""
    inner, hidden = shape.vision_hidden, shape.hidden
    return Architecture(
        body=shape.layers * (4 * hidden**2 + 3 * hidden * shape.intermediate),
        head=shape.vocabulary * hidden,
        vision=(shape.vision_layers - 1) * 12 * inner**2 + inner * hidden + hidden**2,
        width=shape.layers * hidden,
    )


@dataclass(frozen=True, kw_only=True)
class Work:
    """One prompt with its answers."""

    image: int = 576
    """Image tokens."""
    question: int = 48
    answers: int = 8
    length: int = 120
    """Tokens of an answer, all scored."""


def forward_flops(
    model: Architecture, prompt: int, lengths: Sequence[int], *, shared: bool, head_everywhere: bool = False
) -> float:
    """Of decoder and head for one prompt with answers of these lengths; ``shared``: the prompt is computed once."""
    answers = sum(lengths)
    prompts = prompt if shared else prompt * len(lengths)
    scored = prompts + answers if head_everywhere else answers
    before = prompt**2 / 2 if shared else len(lengths) * prompt**2 / 2
    seen = before + sum(length * (prompt + length / 2) for length in lengths)
    return 2 * (model.body * (prompts + answers) + model.head * scored) + 4 * model.width * seen


def rows_flops(model: Architecture, work: Work, *, head_everywhere: bool = False) -> float:
    """Forward FLOPs where every answer brings its own prompt and picture."""
    lengths = [work.length] * work.answers
    text = forward_flops(model, work.image + work.question, lengths, shared=False, head_everywhere=head_everywhere)
    return text + work.answers * 2 * model.vision * work.image


def tree_flops(model: Architecture, work: Work) -> float:
    """Forward FLOPs where prompt and picture are computed once."""
    text = forward_flops(model, work.image + work.question, [work.length] * work.answers, shared=True)
    return text + 2 * model.vision * work.image


def limits(model: Architecture, work: Work) -> tuple[float, float]:
    """How many times the FLOPs of ``tree`` take: no sharing with the head everywhere, and ``rows``."""
    tree = tree_flops(model, work)
    return rows_flops(model, work, head_everywhere=True) / tree, rows_flops(model, work) / tree


def table() -> str:
    """What no sharing and what ``rows`` take against ``tree``, in Markdown."""
    lengths = (60, 120, 240)
    lines = ["| model | image tokens | answers | " + " | ".join(f"{length} tokens" for length in lengths) + " |"]
    lines.append("|---" * (3 + len(lengths)) + "|")
    for name, model, image in (
        ("LLaVA-1.5-7B", LLAVA, 576),
        ("Qwen2.5-VL-7B", QWEN, 1000),
        ("Qwen2.5-VL-7B", QWEN, 4000),
    ):
        for answers in (2, 8, 16):
            found = [limits(model, Work(image=image, answers=answers, length=length)) for length in lengths]
            cells = " | ".join(f"{plain:.1f}x {rows:.1f}x" for plain, rows in found)
            lines.append(f"| {name} | {image:,} | {answers} | {cells} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    print("no sharing / tree, rows / tree")
    print(table(), end="")


if __name__ == "__main__":
    main()

"""The page docs/families.md, made from the declarations.

>>> python -m sightline.models.families_page > docs/families.md  # doctest: +SKIP
"""

from __future__ import annotations

import sightline.models  # noqa: F401  (before transformers)
from sightline.models.families import FAMILIES, REFUSED
from sightline.models.family import Family

_INTRO = """# Model families

This page is made from the declarations in `sightline/models/families/` \
(`python -m sightline.models.families_page`), and a test keeps it so.

A family is what its models do differently, in one small file. `rows` is the model's own forward in transformers. \
For every family below, tests hold it to what transformers does by itself on inputs of the processor: prompts and \
pixels (equal), log-probabilities (1e-5), and greedy answers (the same tokens). `packed` and `tree` are held to \
`rows`: log-probabilities (1e-5) and the gradients of language, projector and vision (1e-5 of their norm), in full \
fine-tuning and with LoRA, with text-only, one-picture and many-picture rows in one batch. Saved and loaded models \
give the same numbers. All this is done on tiny random models on a CPU in float32 (gradients of Gemma 4: float64); \
nothing here was measured on published weights.

| models | `model_type` | a picture becomes | `model.pictures` | layouts | computed once in `tree` |
|---|---|---|---|---|---|
"""


def page() -> str:
    """The whole page."""
    rows = [
        f"| {one.title} | {_code(one.model_types)} | {one.pictures} | {_code(tuple(one.options)) or 'none'} "
        f"| {_code(_layouts(one))} | {_shared(one)} |"
        for one in FAMILIES
    ]
    parts = [
        f"| {_code(one.model_types)} | `{one.language}`, LM head | {_code(one.projector)} | {_code(one.vision)} |"
        for one in FAMILIES
    ]
    limits = [f"- {one.title}: `packed` and `tree` are refused: {one.reason}." for one in FAMILIES if one.reason]
    recurrent = [
        f"- {one.title}: `packed` and `tree` need the package `tree-recurrence` (the extra `recurrence`), which makes "
        "its linear-attention layers follow the tree; without it they are refused. Gradients of their decays agree "
        "with `rows` to 1e-3 in float32, and to 1e-6 where transformers' own rule is computed in float64."
        for one in FAMILIES
        if one.recurrent
    ]
    refused = [f"- `{model_type}`: {reason}." for model_type, reason in REFUSED.items()]
    return "\n".join(
        [
            _INTRO + "\n".join(rows),
            "\n## Limits\n",
            *limits,
            *recurrent,
            "- Families in `rows` alone, and those with recurrent layers, are sampled from prompt by prompt: each "
            "prompt is still computed once for all of its answers.",
            "- Qwen3.5 with experts: LoRA and quantisation reach linear layers, and routed experts are none: they stay "
            "frozen under LoRA (`lora.targets: mlp` trains the shared expert), and `model.quantization` is refused.",
            "- LLaVA-OneVision: every picture is laid out in tiles, also where a prompt has several.",
            "- Gemma 3: a processor that pans and scans is refused: only whole pictures are read.",
            "- PaliGemma has no published chat template: set `model.chat_template` to one that writes the pictures "
            "first, then `<bos>`, the text and a line break. History cannot be trained: a prompt sees all of itself.",
            "- PaliGemma 2 caps its attention scores: `model.attention` is `segments` or `dense`.",
            "- Gemma 4 with experts is refused; its audio tower is left frozen.",
            "- SmolVLM's processor needs the package `num2words` (the extra `smolvlm`).",
            "- Videos are not read.",
            "\nRefused with the reason:\n",
            *refused,
            "\n## Parts\n",
            "What `model.parts` and the learning rates of the parts mean, by prefix of the parameters' names; what "
            "matches projector is not vision.\n",
            "| `model_type` | language | projector | vision |\n|---|---|---|---|",
            *parts,
            "",
        ]
    )


def _layouts(family: Family) -> tuple[str, ...]:
    return tuple(name for name in ("rows", "packed", "tree") if name in family.layouts)


def _shared(family: Family) -> str:
    if "tree" not in family.layouts:
        return "nothing"
    return "pictures, equal prompts" if family.prefix_rule == "full" else "pictures, equal beginnings of prompts"


def _code(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name.rstrip('.')}`" for name in names)


if __name__ == "__main__":
    print(page(), end="")

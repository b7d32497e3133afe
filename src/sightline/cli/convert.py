"""``sightline convert`` and ``sightline assemble``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from sightline.cli.console import say
from sightline.cli.json_result import Document
from sightline.files import check_free

Out = Annotated[Path, typer.Option("--out", "-o", help="Folder to write.", show_default=False)]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is at --out.")]


def convert(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="Folder in the layout of LLaVA's own code.", show_default=False)
    ],
    out: Out,
    vision_tower: Annotated[
        str, typer.Option(help="Folder or hub name of the CLIP tower that its config.json names.", show_default=False)
    ],
    chat_template: Annotated[
        Path | None, typer.Option(help="Jinja chat template.", show_default="of Vicuna, or of Mistral")
    ] = None,
    overwrite: Overwrite = False,
) -> Document:
    """Convert a LLaVA 1.5 or 1.6 from the layout of its own code to that of transformers.

    For folders with `mm_projector` weights and a vision tower named by its path (model_type llava, llava_llama or
    llava_mistral). A token `<image>` is added where the tokenizer has none. Entries, values and tensors that are not
    known are refused by name.

    Example: `sightline convert llava-v1.5-7b --vision-tower clip-vit-large-patch14-336 -o models/llava-1.5-7b`
    """
    from sightline.models.convert import convert as write
    from sightline.models.load import hide_loading_bars

    check_free(out, overwrite=overwrite)
    hide_loading_bars()
    template = None if chat_template is None else chat_template.read_text(encoding="utf-8")
    write(source, out, tower=vision_tower, template=template)
    say(f"Model: {out}")
    return {"model": out}


def assemble(
    language: Annotated[str, typer.Option(help="Folder or hub name of a causal language model.", show_default=False)],
    vision: Annotated[str, typer.Option(help="Folder or hub name of a CLIP or SigLIP tower.", show_default=False)],
    out: Out,
    projector: Annotated[
        Literal["linear", "mlp2x", "resampler"], typer.Option(help="What maps features of pictures to tokens.")
    ] = "mlp2x",
    vision_layer: Annotated[int, typer.Option(help="Layer of the tower that is read; -1 is the last.")] = -2,
    seed: Annotated[int, typer.Option(help="Of the projector's weights.")] = 0,
    overwrite: Overwrite = False,
) -> Document:
    """Assemble a vision-language model from a language model, a vision tower and a new projector.

    Writes a LLaVA folder as transformers reads it, with an image token, a processor and a chat template made from the
    language model's own. It has to learn to see: train the projector first (recipes/sft_projector.yaml), then the rest.

    Example: `sightline assemble --language models/vicuna-7b --vision models/clip-336 -o models/new`
    """
    from sightline.models.from_parts import assemble as write
    from sightline.models.load import hide_loading_bars

    check_free(out, overwrite=overwrite)
    hide_loading_bars()
    write(language, vision, out, projector=projector, layer=vision_layer, seed=seed)
    say(f"Model: {out}. Its projector is untrained: start with recipes/sft_projector.yaml model.path={out}")
    return {"model": out}

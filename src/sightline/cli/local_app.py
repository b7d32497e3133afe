"""``sightline app``: chat, data, labels, runs and results in a browser."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sightline.cli.console import say
from sightline.cli.json_result import Document, tell
from sightline.cli.model_options import Picture, Quantization, picture_options
from sightline.errors import MissingExtra, RecipeError
from sightline.recipes.load import check_spec

if TYPE_CHECKING:
    from sightline.app.speakers import Speaker
    from sightline.evaluation.named_model import NamedModel

_OF_GRADIO = ("gradio", "fastapi", "uvicorn", "starlette")


def app(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(help="What may be read and written: data, runs, results. Default: the current folder."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Folder or hub name of the model; a run directory; an adapter.", show_default=False),
    ] = None,
    other: Annotated[
        str | None, typer.Option(help="A second model, which answers beside the first.", show_default=False)
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to bind. Beyond this machine it takes a token, in SIGHTLINE_TOKEN.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 7860,
    dtype: Annotated[Literal["float32", "bfloat16"], typer.Option(help="Type of the weights.")] = "float32",
    quantization: Quantization = "none",
    picture: Picture = None,
) -> Document:
    """Open the app in a browser: chat with two models, look at data, label, watch runs, compare results.

    Nothing outside of FOLDERS is read or written, and nothing is asked of the network. Runs that are resumed from the
    app go on when it ends.

    Example: `sightline app runs data eval --model runs/dpo_llava_lora --other models/llava`
    """
    try:
        from sightline.app.serve import serve
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in _OF_GRADIO:
            raise
        raise MissingExtra("gradio", "app") from error
    from sightline.app.folders import Folders
    from sightline.app.spec import AppSpec
    from sightline.evaluation.judges.http import service_token
    from sightline.evaluation.named_model import named_model
    from sightline.models.load import hide_loading_bars

    if other is not None and model is None:
        raise RecipeError("--other is the second of two models, and there is no --model. Name the first one with it.")
    hide_loading_bars()
    spec = check_spec(AppSpec, "app options", host=host, port=port, token=service_token())
    options = {"dtype": dtype, "quantization": quantization, **picture_options(picture)}
    named = [named_model(name, **options) for name in (model, other) if name is not None]
    within = Folders.of(folders or [Path()])
    document: dict[str, Any] = {"serves": "app", "models": [one.title for one in named]}

    def started(url: str) -> None:
        say(f"Open {url}; Ctrl-C ends the app")
        document["url"] = url
        tell(document)

    serve(spec, within, lambda: _speakers(named), on_start=started)
    return document


def _speakers(named: Sequence[NamedModel]) -> list[Speaker]:
    from sightline.app.speakers import Speaker
    from sightline.rollouts.hf import load_engine, not_applied

    speakers = []
    for one in named:
        say(f"Loading {one.title} ...")
        speakers.append(Speaker(name=one.title, engine=load_engine(one.spec, processor_of=one.processor)))
        if told := not_applied(speakers[-1].engine.policy):
            say(told)
    return speakers

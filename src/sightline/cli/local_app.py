"""``sightline app``: chat, data, labels, runs and results in a browser."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sightline.cli.console import say
from sightline.cli.eval import BenchOption, ProtocolOption
from sightline.cli.json_result import Document, tell
from sightline.cli.model_options import Picture, Quantization, picture_options
from sightline.errors import DataError, MissingExtra, RecipeError
from sightline.recipes.load import check_spec

if TYPE_CHECKING:
    from sightline.app.speakers import Speaker
    from sightline.evaluation.known import Annotated as Annotates
    from sightline.evaluation.named_model import NamedModel

FactsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--facts",
        help="Data of chair or amber, as `eval` takes it: words about their pictures are marked. NAME=DIR, or a folder "
        "with a folder for each. Repeatable.",
        show_default=False,
    ),
]
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
    facts: FactsOption = None,
    protocol: ProtocolOption = None,
    option: BenchOption = None,
) -> Document:
    """Open the app in a browser: chat with two models, look at data, label, watch runs, compare results.

    Nothing outside of FOLDERS is read or written, but the models and the data of --facts, and nothing is asked of the
    network. Runs that are resumed from the app go on when it ends.

    Example: `sightline app runs data eval --model runs/dpo_llava_lora --other models/llava --facts chair=data/coco`
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
    known = _known(facts or [], protocol or [], option or [])
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

    serve(spec, within, lambda: _speakers(named), lambda: [read() for read in known], on_start=started)
    return document


def _known(facts: Sequence[str], protocol: Sequence[str], option: Sequence[str]) -> list[Callable[[], Annotates]]:
    """What reads the benchmarks that are named, once the address is ours."""
    from sightline.cli.eval_options import check_owners, options_of, protocol_of
    from sightline.evaluation.benches import load_bench
    from sightline.evaluation.known import KNOWN, check_known
    from sightline.evaluation.run import data_folder

    if not facts and (protocol or option):
        raise RecipeError("--protocol and --option say how --facts are counted, and there are none. Give --facts too.")
    names = [value.partition("=")[0] for value in facts if "=" in value]
    for folder in (value for value in facts if "=" not in value):
        held = [name for name in KNOWN if (Path(folder) / name).is_dir()]
        if not held:
            remedy = f"Write {' or '.join(f'{name}={folder}' for name in KNOWN)}"
            raise DataError(f"holds no folder {' or '.join(KNOWN)}", source=folder, remedy=remedy)
        names += held
    check_owners(names, [*facts, *protocol], option)
    for name in names:
        check_known(name)
    reads: list[Callable[[], Annotates]] = []
    for name in dict.fromkeys(names):
        data = data_folder(load_bench(name), facts, Path(), "--facts")
        chosen, options = protocol_of(load_bench(name), protocol), options_of(name, option)
        reads.append(partial(_read, name, data, chosen, options))
    return reads


def _read(name: str, data: Path, protocol: str | None, options: Mapping[str, Any]) -> Annotates:
    from sightline.evaluation.known import known_pictures

    say(f"Reading what {name} knows of its pictures ...")
    return known_pictures(name, data, protocol, options)


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

"""``sightline serve``: judges, describers, image makers and reward models over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sightline.cli.console import say
from sightline.cli.json_result import Document, tell
from sightline.errors import MissingExtra
from sightline.recipes.load import check_spec

if TYPE_CHECKING:
    from sightline.services.spec import Kind

app = typer.Typer(
    no_args_is_help=True,
    help="Serve a judge, a describer, an image maker or a reward model over HTTP (docs/guides/services.md).",
    rich_markup_mode="markdown",
)

_CHAT = "scenes (the built-in world), or the folder or hub name of a chat model with or without vision."
Host = Annotated[str, typer.Option(help="Address to bind. Beyond this machine it takes a token, in SIGHTLINE_TOKEN.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")]
Root = Annotated[
    Path | None,
    typer.Option(help="Folder below which pictures are read and written by path. Default: they travel as bytes."),
]
Limit = Annotated[
    list[str] | None,
    typer.Option(
        help="name=value: batch, company, queue, seconds, upload, body, held, connections, pictures, picture, pixels. "
        "May be repeated."
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(help="float32, bfloat16 or float16. Default: float32, of a pipeline bfloat16.", show_default=False),
]
Name = Annotated[str | None, typer.Option(help="The model's name to clients. Default: as it is called here.")]
Template = Annotated[Path | None, typer.Option(help="A rubric of your own for /critic.")]


@app.command(name="judge")
def judge(
    model: Annotated[str, typer.Argument(help=_CHAT, show_default=False)],
    host: Host = "127.0.0.1",
    port: Port = 8002,
    root: Root = None,
    dtype: Dtype = None,
    name: Name = None,
    template: Template = None,
    limit: Limit = None,
) -> Document:
    """Serve a judge: `/v1/chat/completions` as OpenAI's, and OViP's `/critic`.

    Every judge of Sightline can ask it: `--judge http://127.0.0.1:8002/v1 --judge-option model=NAME`.

    Example: `sightline serve judge models/qwen --name qwen --port 8002 --limit batch=16`

    Example: `sightline serve judge scenes --port 8002`
    """
    return _serve("judge", model, limit, host=host, port=port, root=root, dtype=dtype, name=name, template=template)


@app.command(name="describe")
def describe(
    model: Annotated[str, typer.Argument(help=_CHAT, show_default=False)],
    host: Host = "127.0.0.1",
    port: Port = 8002,
    root: Root = None,
    dtype: Dtype = None,
    name: Name = None,
    template: Template = None,
    limit: Limit = None,
) -> Document:
    """Serve a describer of negative pictures: OViP's `/describe`, beside all that `serve judge` does.

    Example: `sightline serve describe models/qwen --port 8002`
    """
    return _serve("describe", model, limit, host=host, port=port, root=root, dtype=dtype, name=name, template=template)


@app.command(name="image")
def image(
    model: Annotated[
        str,
        typer.Argument(help="scenes, or the folder or hub name of a pipeline of diffusers.", show_default=False),
    ],
    host: Host = "127.0.0.1",
    port: Port = 8001,
    root: Root = None,
    dtype: Dtype = None,
    makes: Annotated[str, typer.Option(help="text_to_image, edit or inpaint.")] = "text_to_image",
    limit: Limit = None,
) -> Document:
    """Serve an image maker: OViP's `/generate`.

    With `--root` pictures are written below it, the picture first and then its line in data.jsonl; without it the reply
    holds the bytes.

    Example: `sightline serve image models/flux --root shared/online --port 8001 --limit seconds=600`
    """
    return _serve("image", model, limit, host=host, port=port, root=root, dtype=dtype, makes=makes)


@app.command(name="reward")
def reward(
    model: Annotated[
        str, typer.Argument(help="scenes, or the directory of a run with reward_model.", show_default=False)
    ],
    host: Host = "127.0.0.1",
    port: Port = 8003,
    root: Root = None,
    limit: Limit = None,
) -> Document:
    """Serve rewards: `/score`, what the reward term `kind: service` asks.

    Example: `sightline serve reward runs/fact_rm --root shared/pictures --port 8003`
    """
    return _serve("reward", model, limit, host=host, port=port, root=root)


def _serve(kind: Kind, model: str, limit: list[str] | None, **options: Any) -> Document:
    try:
        from sightline.services.serve import serve
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("fastapi", "uvicorn", "starlette"):
            raise
        raise MissingExtra("fastapi or uvicorn", "serve") from error
    from sightline.evaluation.judges.http import service_token
    from sightline.services.bounds import read_bounds
    from sightline.services.spec import ServeSpec

    values = {"what": kind, "model": model, "bounds": read_bounds(limit or ()), "token": service_token(), **options}
    spec = check_spec(ServeSpec, "serve options", **values)
    say(f"Loading {model} ...")
    document: dict[str, Any] = {"serves": kind, "model": model, "name": spec.name or model}

    def started(url: str) -> None:
        say(f"Serving {kind} {spec.name or model} at {url}; Ctrl-C stops it")
        document["url"] = url
        tell(document)

    serve(spec, on_start=started)
    return document

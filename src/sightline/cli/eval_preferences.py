"""``sightline eval preferences`` and ``sightline eval reward``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from sightline.cli.console import say
from sightline.cli.json_result import Document
from sightline.cli.model_options import Picture, Quantization, QuantizationAsTrained, picture_options

Data = Annotated[str, typer.Option(help="Rows with chosen and rejected answers, or a Group file.", show_default=False)]
Adapter = Annotated[
    str | None, typer.Option(help="Adapter for the model, or the run that saved it.", show_default=False)
]
Against = Annotated[
    str | None,
    typer.Option(help="Another model, adapter or run; or the --out of an earlier evaluation.", show_default=False),
]
Reference = Annotated[
    str | None,
    typer.Option(
        help="Model that implicit rewards are relative to; none. Default: what the adapter or run started from.",
        show_default=False,
    ),
]
Looking = Annotated[int, typer.Option(min=0, help="Rows that are scored under other pictures as well; 0: none.")]
Generate = Annotated[int, typer.Option(min=0, help="Let the models answer so many of the worst and of the best cases.")]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="Folder; figures go below it. Default: eval/NAME.", show_default=False),
]
ImageDir = Annotated[str | None, typer.Option(help="Folder that relative image paths start from.", show_default=False)]
Limit = Annotated[int | None, typer.Option(min=1, help="First rows only.", show_default=False)]
OnBadRow = Annotated[Literal["error", "skip"], typer.Option(help="skip: leave bad rows out, and count them.")]
BatchTokens = Annotated[int, typer.Option(min=1, help="Most tokens of one forward pass. Changes no figure.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Start anew if scores are there.")]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1, ... Default: the GPU if there is one.", show_default=False)
]


def preferences(
    model: Annotated[
        str, typer.Option(help="Folder or hub name of a model, an adapter, or output_dir of a run.", show_default=False)
    ],
    data: Data,
    adapter: Adapter = None,
    against: Against = None,
    reference: Reference = None,
    out: Out = None,
    beta: Annotated[float, typer.Option(min=1e-9, help="Multiplies implicit rewards.")] = 0.1,
    looking: Looking = 200,
    generate: Generate = 0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of such an answer.")] = 256,
    image_dir: ImageDir = None,
    limit: Limit = None,
    on_bad_row: OnBadRow = "error",
    batch_tokens: BatchTokens = 8192,
    dtype: Annotated[Literal["float32", "bfloat16"], typer.Option(help="Type of the weights.")] = "float32",
    layout: Annotated[
        Literal["tree", "packed", "rows"], typer.Option(help="tree: picture and question once for both answers.")
    ] = "tree",
    quantization: Quantization = "none",
    picture: Picture = None,
    device: Device = None,
    overwrite: Overwrite = False,
) -> Document:
    """Does a model prefer the answers that people prefer, by how much, and because of the picture?

    Every answer is scored once and kept: a stopped command goes on where it was. Writes scores.jsonl, results.json
    and report.html with the worst and best cases into the folder `preferences` of --out.

    Example: `sightline eval preferences --model runs/orpo --data rlaif_v.jsonl --against models/llava --generate 8`
    """
    from sightline.api.preferences_run import Asked, evaluate_preferences, sides_of
    from sightline.cli.preferences_shown import show

    options = {"dtype": dtype, "layout": layout, "quantization": quantization, **picture_options(picture)}
    sides = sides_of(model, adapter, options, reference=reference, against=against)
    asked = Asked(
        out=out,
        data=data,
        image_dir=image_dir,
        limit=limit,
        on_bad_row=on_bad_row,
        batch_tokens=batch_tokens,
        overwrite=overwrite,
        tell=say,
    )
    done = evaluate_preferences(
        asked, sides, beta=beta, looking=looking, generate=generate, max_tokens=max_tokens, device=device
    )
    return show(done)


def reward(
    model: Annotated[
        str,
        typer.Option(help="output_dir of a reward_model run, or package.module:Name of a reward.", show_default=False),
    ],
    data: Data,
    against: Annotated[
        str | None,
        typer.Option(help="Another reward model, or the --out of an earlier evaluation.", show_default=False),
    ] = None,
    out: Out = None,
    missing_facts: Annotated[
        Literal["error", "leave_out"] | None,
        typer.Option(help="Where facts that it reads are missing.", show_default="as trained"),
    ] = None,
    quantization: QuantizationAsTrained = None,
    image_dir: ImageDir = None,
    limit: Limit = None,
    on_bad_row: OnBadRow = "error",
    batch_tokens: BatchTokens = 8192,
    overwrite: Overwrite = False,
) -> Document:
    """How often does a reward model prefer what people prefer, how sure may it be, and what is its choice worth?

    Rows with several answers and a reward or label on each give a best-of-n curve. Scores are kept, so that a stopped
    command goes on where it was. Writes scores.jsonl, results.json and report.html into the folder `reward` of --out.

    Example: `sightline eval reward --model runs/reward_model --data held_out.jsonl`
    """
    from sightline.api.preferences_run import Asked, evaluate_reward
    from sightline.cli.preferences_shown import show

    asked = Asked(
        out=out,
        data=data,
        image_dir=image_dir,
        limit=limit,
        on_bad_row=on_bad_row,
        batch_tokens=batch_tokens,
        overwrite=overwrite,
        tell=say,
    )
    return show(evaluate_reward(asked, model, against, {"missing_facts": missing_facts, "quantization": quantization}))

"""``sightline merge`` and ``sightline export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sightline.cli.console import print_error, say
from sightline.cli.json_result import Document, Ended, error_document
from sightline.errors import VerificationError

if TYPE_CHECKING:
    from sightline.train.export import Trained

Out = Annotated[Path, typer.Option("--out", "-o", help="Folder to write.", show_default=False)]
Dtype = Annotated[
    Literal["float32", "bfloat16"] | None,
    typer.Option(help="Type of the written weights.", show_default="as in training; of a bare adapter float32"),
]
Step = Annotated[
    int | None,
    typer.Option(min=1, help="Checkpoint of a run, by its optimizer steps.", show_default="the newest"),
]
Quantised = Annotated[
    bool, typer.Option("--into-quantised", help="Merge into quantised weights, which rounds what was trained.")
]
Push = Annotated[
    str | None,
    typer.Option(
        metavar="OWNER/NAME",
        help="Upload it to the Hugging Face hub as well; a repository that is made is private.",
        show_default=False,
    ),
]
Quantize = Annotated[
    Literal["gptq", "awq", "nf4", "int8"] | None,
    typer.Option(help="Write the decoder in 4 bits, or in 8 (int8), and compare before and after.", show_default=False),
]
Calibration = Annotated[
    int | None,
    typer.Option(
        min=1, help="Most rows of the run that gptq and awq learn from, with their pictures.", show_default="128"
    ),
]
Bench = Annotated[
    str | None,
    typer.Option(
        metavar="NAME=DIR",
        help="Benchmark that the quantised model is compared on; one that needs no judge.",
        show_default="32 drawn scenes",
    ),
]
Only = Annotated[str | None, typer.Option(help="Categories of --bench, separated by commas.", show_default="all of it")]
Tolerance = Annotated[
    float | None,
    typer.Option(
        min=0,
        help="How far log-probabilities of answers may move on average, in nats a token.",
        show_default="0.3, of int8 0.1",
    ),
]
QuantizerPython = Annotated[
    Path | None,
    typer.Option(help="Interpreter of an environment with LLM Compressor, for gptq and awq.", show_default=False),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is at --out.")]


def merge(
    source: Annotated[
        Path, typer.Argument(metavar="RUN_OR_ADAPTER", help="A run directory, or an adapter.", show_default=False)
    ],
    out: Out,
    step: Step = None,
    dtype: Dtype = None,
    into_quantised: Quantised = False,
    push: Push = None,
    overwrite: Overwrite = False,
) -> Document:
    """Merge an adapter into its model: one folder that transformers loads.

    The folder is read again in a fresh process with plain transformers. It is kept only if it gives the
    log-probabilities of the trained model on rows with pictures, from the same tensors; otherwise nothing is left at
    --out and the exit code is 1. Writes a model card (README.md). A QLoRA run is merged into the weights in full
    precision that its model has on disk, and it is said how far that is from what was trained.

    Example: `sightline merge runs/dpo_llava_lora -o models/aligned`
    """
    from sightline.train.export import open_trained

    _hide()
    trained = open_trained(source, step=step, dtype=dtype)
    written = _write(trained, out, merged=True, into_quantised=into_quantised, overwrite=overwrite)
    return {**written, **_push(out, push)}


def export(
    source: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.", show_default=False)],
    out: Out,
    step: Step = None,
    dtype: Dtype = None,
    push: Push = None,
    quantize: Quantize = None,
    calibration: Calibration = None,
    bench: Bench = None,
    only: Only = None,
    tolerance: Tolerance = None,
    quantizer_python: QuantizerPython = None,
    overwrite: Overwrite = False,
) -> Document:
    """Write what a run trained, at any of its checkpoints: a model, or an adapter as it is.

    Verified as `sightline merge` does; an adapter with plain transformers and PEFT. Writes a model card (README.md).

    With --quantize it is one model, an adapter merged, its decoder in few bits; vision tower and projector are left
    alone. Log-probabilities of answers, what the picture does to them, and a benchmark are printed before and after.
    The folder is kept only if they are near each other; otherwise the exit code is 1.

    Example: `sightline export runs/sft_llava --step 500 -o models/sft-500`

    Example: `sightline export runs/dpo --quantize nf4 -o models/dpo-nf4 --bench pope=eval_data/pope`
    """
    from sightline.cli.export_quantised import asked_for, write_quantised
    from sightline.models.locate import check_run
    from sightline.train.export import open_trained

    check_run(source)
    _hide()
    asked = {"calibration": calibration, "bench": bench, "only": only, "tolerance": tolerance}
    spec = asked_for(quantize, {**asked, "quantizer_python": quantizer_python})
    if spec is not None:
        written = write_quantised(source, out, spec, step=step, dtype=dtype, overwrite=overwrite)
    else:
        trained = open_trained(source, step=step, dtype=dtype)
        written = _write(trained, out, merged=False, into_quantised=False, overwrite=overwrite)
    return {**written, **_push(out, push)}


def _write(trained: Trained, out: Path, *, merged: bool, into_quantised: bool, overwrite: bool) -> Document:
    from sightline.train.export import export as write

    try:
        verified = write(trained, out, merged=merged, into_quantised=into_quantised, overwrite=overwrite)
    except VerificationError as error:
        print_error(error)
        raise Ended(error_document(error), code=1) from None
    of = "" if trained.step is None else f" of step {trained.step}"
    say(f"Model{of}: {out}")
    say(f"Verified: {verified.sentence()}.")
    return {"model": out, "step": trained.step, "verified": verified}


def _push(out: Path, repo: str | None) -> Document:
    if repo is None:
        return {}
    from sightline.models.hub import push

    address = push(out, repo)
    say(f"Uploaded: {address}")
    return {"uploaded": address}


def _hide() -> None:
    from sightline.models.load import hide_loading_bars

    hide_loading_bars()

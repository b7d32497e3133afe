"""Model folders that others read: ``merge``, ``export``, ``convert``, ``assemble``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal, overload

from sightline.api.given import check_path, path_of
from sightline.api.quantised import QuantisedModel
from sightline.api.run import Run
from sightline.files import check_free
from sightline.models.compress import Kind
from sightline.models.convert import convert as write_converted
from sightline.models.export import Verified
from sightline.models.from_parts import assemble as write_assembled
from sightline.models.hub import push as push_to_hub
from sightline.models.load import hide_loading_bars
from sightline.models.locate import check_run
from sightline.train.export import Dtype, open_trained
from sightline.train.export import export as write_trained
from sightline.train.quantise import quantise
from sightline.train.quantised import Quantizing

_log = logging.getLogger(__name__)


def merge(
    source: Run | str | Path,
    out: str | Path,
    *,
    step: int | None = None,
    dtype: Dtype | None = None,
    into_quantised: bool = False,
    push: str | None = None,
    overwrite: bool = False,
) -> Verified:
    """Merges an adapter into its model: one folder that transformers loads, kept only if a fresh process with plain
    transformers gets the trained model's numbers from it.

    Args:
        source: a run, or the folder of an adapter.
        out: folder to write.
        step: checkpoint of the run; None: the newest.
        dtype: of the written weights; None: as in training, of a bare adapter float32.
        into_quantised: merge into quantised weights, which rounds what was trained.
        push: ``OWNER/NAME`` on the Hugging Face hub, to which it is uploaded as well; a repository that is made is
            private.
        overwrite: replace what is at ``out``.

    Returns:
        What the comparison found: ``mean`` and ``most``, differences of a token's log-probability in nats.

    Raises:
        VerificationError: what was written is another model; nothing is left at ``out``.
        CheckpointError: ``out`` is there already, or there is no such checkpoint.
        RecipeError: neither a run nor an adapter.
        UnsupportedError: nothing to merge, or quantised weights.
        SightlineError: the hub did not take it; the folder stays.
    """
    folder = path_of(out, "out")
    hide_loading_bars()
    trained = open_trained(_path(source), step=step, dtype=dtype)
    found = write_trained(trained, folder, merged=True, into_quantised=into_quantised, overwrite=overwrite)
    _push(folder, push)
    return found


@overload
def export(
    run: Run | str | Path,
    out: str | Path,
    *,
    step: int | None = None,
    dtype: Dtype | None = None,
    quantize: None = None,
    push: str | None = None,
    overwrite: bool = False,
) -> Verified: ...


@overload
def export(
    run: Run | str | Path,
    out: str | Path,
    *,
    step: int | None = None,
    dtype: Dtype | None = None,
    quantize: Kind | Quantizing,
    push: str | None = None,
    overwrite: bool = False,
) -> QuantisedModel: ...


def export(
    run: Run | str | Path,
    out: str | Path,
    *,
    step: int | None = None,
    dtype: Dtype | None = None,
    quantize: Kind | Quantizing | None = None,
    push: str | None = None,
    overwrite: bool = False,
) -> Verified | QuantisedModel:
    """Writes what a run trained, at any of its checkpoints: a model, or an adapter as it is. Verified as
    :func:`merge` does. With ``quantize`` it is one model, an adapter merged, its decoder in few bits, which is kept
    only if it is near the trained one.

    Args:
        run: the run.
        out: folder to write.
        step: checkpoint of the run; None: the newest.
        dtype: of the written weights; None: as in training.
        quantize: ``gptq``, ``awq``, ``nf4`` (4 bits) or ``int8``; or ``Quantizing``, which says more: rows to learn
            from, a benchmark to compare on, how far the model may move. None: the weights as they are.
        push: as of :func:`merge`.
        overwrite: replace what is at ``out``.

    Returns:
        What the comparison found; with ``quantize`` every figure before and after.

    Raises:
        VerificationError, CheckpointError, RecipeError, UnsupportedError, SightlineError: as of :func:`merge`. Also of
            ``quantize``: no quantiser, no rows to learn from, or a model that cannot be quantised.

    >>> export("runs/dpo", "models/dpo-nf4", quantize="nf4")  # doctest: +SKIP
    >>> export("runs/dpo", "models/nf4", quantize=Quantizing(kind="nf4", bench="pope=pope/"))  # doctest: +SKIP
    """
    check_run(_path(run))
    folder = path_of(out, "out")
    hide_loading_bars()
    found: Verified | QuantisedModel
    if quantize is None:
        trained = open_trained(_path(run), step=step, dtype=dtype)
        found = write_trained(trained, folder, merged=False, overwrite=overwrite)
    else:
        asked = quantize if isinstance(quantize, Quantizing) else Quantizing(kind=quantize)
        made = quantise(_path(run), folder, asked.spec(), step=step, dtype=dtype, overwrite=overwrite)
        found = QuantisedModel.of(made, folder)
    _push(folder, push)
    return found


def convert(
    source: str | Path,
    out: str | Path,
    *,
    vision_tower: str | Path,
    chat_template: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Converts a LLaVA 1.5 or 1.6 from the layout of its own code to that of transformers; returns ``out``.

    Args:
        source: folder with ``mm_projector`` weights and a vision tower named by its path.
        out: folder to write.
        vision_tower: folder or hub name of that CLIP tower.
        chat_template: a Jinja template; None: that of Vicuna, or of Mistral.
        overwrite: replace what is at ``out``.

    Raises:
        CheckpointError: ``out`` is there already.
        RecipeError: tensors that are missing or do not fit.
        UnsupportedError: an entry, a value or a tensor that is not known.
    """
    check_path(vision_tower, "vision_tower")
    check_free(path_of(out, "out"), overwrite=overwrite)
    hide_loading_bars()
    write_converted(path_of(source, "source"), Path(out), tower=str(vision_tower), template=chat_template)
    return Path(out)


def assemble(
    language: str | Path,
    vision: str | Path,
    out: str | Path,
    *,
    projector: Literal["linear", "mlp2x"] = "mlp2x",
    vision_layer: int = -2,
    seed: int = 0,
    overwrite: bool = False,
) -> Path:
    """Assembles a LLaVA from a language model, a vision tower and a new projector; returns ``out``. The projector is
    untrained: train it first (recipes/sft_projector.yaml).

    Args:
        language: folder or hub name of a causal language model.
        vision: folder or hub name of a CLIP or SigLIP tower.
        out: folder to write.
        projector: one matrix, or two with a GELU between.
        vision_layer: layer of the tower that is read; -1 is the last.
        seed: of the projector's weights.
        overwrite: replace what is at ``out``.

    Raises:
        CheckpointError: ``out`` is there already.
        UnsupportedError, RecipeError: parts that cannot be put together, or not read.
    """
    check_path(language, "language")
    check_path(vision, "vision")
    check_free(path_of(out, "out"), overwrite=overwrite)
    hide_loading_bars()
    write_assembled(str(language), str(vision), Path(out), projector=projector, layer=vision_layer, seed=seed)
    return Path(out)


def _push(folder: Path, repo: str | None) -> None:
    if repo is not None:
        _log.info("Uploaded: %s", push_to_hub(folder, repo))


def _path(run: Run | str | Path) -> Path:
    return run.path if isinstance(run, Run) else path_of(run, "run")

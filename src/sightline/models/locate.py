"""What may stand where a model is named: a run directory, the folder of an adapter, a model folder or a hub name.

One place tells them apart, for every command and for ``model.path`` of recipes.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from sightline.errors import RecipeError
from sightline.recipes.schema import ModelSpec

ADAPTER = "adapter_config.json"
"""What makes a folder that of a PEFT adapter."""
RECIPE = "recipe.yaml"
"""What makes a folder a run directory."""
_PROCESSOR = ("processor_config.json", "preprocessor_config.json")


def located(spec: ModelSpec, *, trainable: bool = False) -> ModelSpec:
    """The spec with a model folder (or hub name) as ``path`` and an adapter folder, or None, as ``adapter``.

    Args:
        spec: ``path`` and ``adapter`` may be run directories; ``path`` may be an adapter, which names its model itself.
        trainable: whether it will be trained: then an adapter is named as such, since ``parts`` depend on it.

    Raises:
        RecipeError: a run that has not written its model, an adapter that does not say what it belongs to or whose
            model is not there, or two adapters.
    """
    adapter = str(model_folder(spec.adapter)) if spec.adapter is not None and is_run(spec.adapter) else spec.adapter
    folder = model_folder(spec.path)
    if not is_adapter(folder):
        path = spec.path if folder == Path(spec.path) else str(folder)
        return spec if (path, adapter) == (spec.path, spec.adapter) else replace(spec, path=path, adapter=adapter)
    base = base_of(folder)
    if adapter is not None:
        raise RecipeError(
            f"{spec.path} is an adapter for {base}, and {adapter} is another: a model has one. Name one of the two, or "
            f"merge the first: sightline merge {spec.path} -o MERGED, and name MERGED as the model"
        )
    if trainable:
        raise RecipeError(
            f"model.path {spec.path} is an adapter for {base}, where a model was expected. Set model.path to {base} "
            f"and model.adapter to {folder}, to train it on; or merge it first: sightline merge {spec.path} -o MERGED"
        )
    return replace(spec, path=base, adapter=str(folder), parts=None, lora=None)


def is_run(path: str | Path) -> bool:
    """Whether a folder is a run directory, and not a model that has a recipe beside it."""
    folder = Path(path)
    return (folder / RECIPE).is_file() and not (folder / "config.json").is_file() and not is_adapter(folder)


def check_run(path: str | Path) -> None:
    """
    Raises:
        RecipeError: no run directory.
    """
    if not is_run(path):
        raise RecipeError(
            f"{path} is no run directory (no recipe.yaml in it). Name the output_dir of a training run; an adapter "
            "alone becomes a model with sightline merge"
        )


def is_adapter(path: str | Path) -> bool:
    """Whether a folder holds a PEFT adapter."""
    return (Path(path) / ADAPTER).is_file()


def model_folder(path: str | Path) -> Path:
    """The folder that holds a model or an adapter: ``path``, or ``model`` in a run directory.

    Raises:
        RecipeError: a run that has not written its model, or one of its checkpoints.
    """
    folder = Path(path)
    if (folder / "weights.safetensors").is_file() and (folder / "manifest.json").is_file():
        raise RecipeError(
            f"{path} is a checkpoint, from which a run goes on, where a model was expected. Write it as a model: "
            f"sightline export {folder.parent.parent} --step {folder.name.rpartition('-')[2].lstrip('0') or 0} -o OUT"
        )
    if not is_run(folder):
        return folder
    if (folder / "model" / "config.json").is_file() or is_adapter(folder / "model"):
        return folder / "model"
    steps = [int(step.name.rpartition("-")[2]) for step in sorted((folder / "checkpoints").glob("step-*[0-9]"))]
    remedy = "Run its recipe to the end"
    if steps:
        remedy += f", or write a checkpoint as a model: sightline export {path} --step {steps[-1]} -o OUT"
    raise RecipeError(
        f"{path} is a run directory without a model, because the run has not ended (checkpoints of steps: "
        f"{', '.join(map(str, steps)) or 'none'}). {remedy}"
    )


def base_of(adapter: Path) -> str:
    """The model that an adapter was made for, as its config names it.

    Raises:
        RecipeError: it names none, or a local folder that is not there.
    """
    try:
        base = json.loads((adapter / ADAPTER).read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (ValueError, AttributeError) as error:
        raise RecipeError(f"{adapter / ADAPTER} cannot be read ({error}). Take the file that PEFT wrote") from error
    remedy = f"Name the model, and {adapter} as its adapter (--adapter)"
    if not base:
        raise RecipeError(f"{adapter / ADAPTER} names no base_model_name_or_path. {remedy}")
    if not Path(base).is_dir() and (Path(base).is_absolute() or base.startswith(".") or base.count("/") > 1):
        raise RecipeError(f"{adapter} is an adapter for {base}, and there is no such folder. {remedy}")
    return str(base)


def processor_folder(spec: ModelSpec) -> str:
    """Where the processor is read: an adapter's own, whose sizes and template it was trained with, or the model's."""
    own = spec.adapter is not None and any((Path(spec.adapter) / name).is_file() for name in _PROCESSOR)
    return str(spec.adapter) if own else spec.path

"""What a name on the command line stands for: a model folder, a hub name, an adapter, or the directory of a run."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from sightline.errors import RecipeError
from sightline.evaluation.weights import fingerprint_files
from sightline.recipes.load import check_spec, load_recipe
from sightline.recipes.schema import ModelSpec

_ADAPTER: Final = "adapter_config.json"
_SCORE_HEAD: Final = "score_head.safetensors"
_PROCESSORS: Final = ("processor_config.json", "preprocessor_config.json")


@dataclass(frozen=True, kw_only=True)
class NamedModel:
    """A model to be asked."""

    spec: ModelSpec
    processor: str
    """Folder of its processor: a run saves the one that it trained with beside an adapter."""

    @property
    def title(self) -> str:
        """For people."""
        return self.spec.path if self.spec.adapter is None else f"{self.spec.path} with {self.spec.adapter}"

    def settings(self) -> dict[str, Any]:
        """What changes its numbers: another training into the same folder is another model."""
        adapter = self.spec.adapter
        return {
            "model": self.spec.path,
            "adapter": adapter,
            "processor": self.processor,
            "dtype": self.spec.dtype,
            "weights": fingerprint_files(self.spec.path),
            "adapter_weights": adapter and fingerprint_files(adapter),
        }


def named_model(name: str, adapter: str | None = None, **options: Any) -> NamedModel:
    """
    Args:
        name: folder or hub name of a model; folder of a PEFT adapter, which names its base; or the ``output_dir`` of a
            run, which stands for the model that it saved.
        adapter: an adapter for the model, or the run that saved one.
        options: further fields of ``ModelSpec``.

    Raises:
        RecipeError: two adapters, an adapter that is none or names no base, or a reward model.
    """
    folder = _saved(name)
    if _is_adapter(folder):
        if adapter is not None:
            raise RecipeError(f"{name} is an adapter, and --adapter {adapter} is another one. Name its base as --model")
        return _adapted(_base_of(folder), folder, options)
    if adapter is None:
        _refuse_reward_model(folder)
        return NamedModel(spec=_spec(folder, None, options), processor=folder)
    own = _saved(adapter)
    if Path(own).is_dir() and not _is_adapter(own):
        raise RecipeError(f"--adapter {adapter} holds no {_ADAPTER}. Give the folder of a PEFT adapter, or its run")
    return _adapted(folder, own, options)


def reference_of(name: str, model: NamedModel) -> NamedModel | None:
    """What a model was trained from, shown pictures as it is: the model that the recipe of its run names, or the base
    of its adapter; None where neither is known."""
    recipe = Path(name) / "recipe.yaml"
    if recipe.is_file():
        start = load_recipe(recipe).model
        spec = replace(model.spec, path=start.path, adapter=start.adapter)
    elif model.spec.adapter is not None:
        spec = replace(model.spec, adapter=None)
    else:
        return None
    return NamedModel(spec=spec, processor=model.processor)


def _saved(name: str) -> str:
    """The folder that a run saved its model in, where ``name`` is a run; otherwise ``name``."""
    folder = Path(name)
    is_run = (folder / "recipe.yaml").is_file() and not (folder / "config.json").is_file()
    if not is_run:
        return name
    if not (folder / "model").is_dir():
        raise RecipeError(f"{name} is a run without a saved model. Finish it with `sightline train`, or name a model")
    return str(folder / "model")


def _is_adapter(folder: str) -> bool:
    return (Path(folder) / _ADAPTER).is_file()


def _adapted(base: str, adapter: str, options: dict[str, Any]) -> NamedModel:
    _refuse_reward_model(adapter)
    own = any((Path(adapter) / name).is_file() for name in _PROCESSORS)
    return NamedModel(spec=_spec(base, adapter, options), processor=adapter if own else base)


def _base_of(adapter: str) -> str:
    base = json.loads((Path(adapter) / _ADAPTER).read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not base:
        raise RecipeError(f"{adapter}/{_ADAPTER} names no base model. Name it as --model, and this one as --adapter")
    return str(base)


def _refuse_reward_model(folder: str) -> None:
    if (Path(folder) / _SCORE_HEAD).is_file():
        raise RecipeError(
            f"{folder} is a reward model: it gives scores, and its log-probabilities say nothing. "
            "Use `sightline eval reward`"
        )


def _spec(path: str, adapter: str | None, options: dict[str, Any]) -> ModelSpec:
    return check_spec(ModelSpec, "model options", path=path, adapter=adapter, **options)

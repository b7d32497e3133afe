"""What the name of a model stands for: a model folder, a hub name, an adapter, or the directory of a run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from sightline.errors import RecipeError
from sightline.evaluation.weights import asked_beyond, fingerprint_files
from sightline.models.locate import ADAPTER, RECIPE, is_adapter, located, processor_folder
from sightline.recipes.load import check_spec, load_recipe
from sightline.recipes.schema import ModelSpec

_SCORE_HEAD: Final = "score_head.safetensors"


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
            **asked_beyond(self.spec),
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
    spec = located(check_spec(ModelSpec, "model options", path=name, adapter=adapter, **options))
    if spec.adapter is not None and Path(spec.adapter).is_dir() and not is_adapter(spec.adapter):
        raise RecipeError(f"adapter {adapter} holds no {ADAPTER}. Give the folder of a PEFT adapter, or its run")
    _refuse_reward_model(spec.adapter or spec.path)
    return NamedModel(spec=spec, processor=processor_folder(spec))


def reference_of(name: str, model: NamedModel) -> NamedModel | None:
    """What a model was trained from, shown pictures as it is: the model that the recipe of its run names, or the base
    of its adapter; None where neither is known."""
    recipe = Path(name) / RECIPE
    if recipe.is_file():
        start = load_recipe(recipe).model
        spec = replace(model.spec, path=start.path, adapter=start.adapter)
    elif model.spec.adapter is not None:
        spec = replace(model.spec, adapter=None)
    else:
        return None
    return NamedModel(spec=spec, processor=model.processor)


def _refuse_reward_model(folder: str) -> None:
    if (Path(folder) / _SCORE_HEAD).is_file():
        raise RecipeError(
            f"{folder} is a reward model: it gives scores, and its log-probabilities say nothing. "
            "Use `sightline eval reward`, or score answers with it"
        )

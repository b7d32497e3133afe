"""The model card of a written model: a README.md as the Hugging Face hub reads it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from sightline import __version__
from sightline.models.export import Verified
from sightline.recipes.schema import Recipe
from sightline.train.metrics import read_metrics
from sightline.train.run_folder import RunDirectory

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_FILES = (".json", ".jsonl", ".parquet", ".csv", ".tsv")
_LEFT_OUT = ("step", "seconds", "tokens_per_second", "learning_rate", "grad_norm")
"""And ``time/``: how fast the machine was says nothing of the model."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """What is known of a model that was written."""

    recipe: Recipe | None
    """None: an adapter from elsewhere was merged."""
    run: Path | None
    step: int | None
    base: str
    """The model that training started from."""
    adapter: bool
    """An adapter was written, not a whole model."""

    def text(self, verified: Verified, rows: str, *, name: str) -> str:
        """The card.

        Args:
            verified: what the comparison with the trained model found.
            rows: whose rows it was made on.
            name: of the model.
        """
        sections = [
            f"# {name}",
            self._what(),
            "## Recipe",
            self._recipe(),
            "## Data",
            "\n".join(self._data()),
            "## Figures",
            "\n".join(self._figures()),
            f"Checked when it was written ({rows}): {verified.sentence()}.",
            "## Limits",
            "\n".join(self._limits()),
        ]
        head = yaml.safe_dump(self._metadata(), sort_keys=False, allow_unicode=True)
        return f"---\n{head}---\n\n" + "\n\n".join(sections) + "\n"

    def _metadata(self) -> dict[str, Any]:
        method = [] if self.recipe is None else [str(self.recipe.algorithm["name"]).lower()]
        found: dict[str, Any] = {
            "library_name": "peft" if self.adapter else "transformers",
            "pipeline_tag": "image-text-to-text",
            "tags": ["sightline", "vision-language", *method, *(["lora"] if self.adapter else [])],
        }
        if _on_hub(self.base):
            found["base_model"] = self.base
        names = [source.path for source in self._sources() if _on_hub(source.path)]
        return found | ({"datasets": names} if names else {})

    def _what(self) -> str:
        kind = "A PEFT adapter for" if self.adapter else "A vision-language model, trained from"
        if self.recipe is None:
            return f"{kind} `{_short(self.base)}`; an adapter of unknown training is merged into it."
        steps = "" if self.step is None else f", {self.step} optimizer steps"
        method = self.recipe.algorithm["name"]
        return f"{kind} `{_short(self.base)}` with `{method}`{steps}, by Sightline {__version__}."

    def _recipe(self) -> str:
        if self.recipe is None:
            return "Not known."
        text = yaml.safe_dump(_shortened(json.loads(json.dumps(asdict(self.recipe)))), sort_keys=False, width=100)
        return f"Folders are shortened to their last two parts.\n\n```yaml\n{text}```"

    def _sources(self) -> list[Any]:
        if self.recipe is None:
            return []
        online = [] if self.recipe.online is None else [self.recipe.online.prompts]
        mixed = () if self.recipe.mix is None else self.recipe.mix.data.train
        return [*(self.recipe.data.train if self.recipe.data is not None else ()), *online, *mixed]

    def _data(self) -> Iterator[str]:
        sources = self._sources()
        if not sources:
            yield "Not known."
        for source in sources:
            limit = "" if source.limit is None else f", its first {source.limit} rows"
            yield f"- `{_short(source.path)}`, split `{source.split}`{limit}"
        file = None if self.run is None else RunDirectory(path=self.run).environment
        if file is not None and file.is_file():
            rows = json.loads(file.read_text(encoding="utf-8")).get("rows", {})
            yield from (f"- Rows of {part}: {account}" for part, account in rows.items())

    def _figures(self) -> Iterator[str]:
        file = None if self.run is None else RunDirectory(path=self.run).metrics
        records = [] if file is None or not file.is_file() else read_metrics(file)
        last: dict[str, Any] = {}
        for record in records:
            if self.step is None or record["step"] <= self.step:
                last |= record
        told = {n: v for n, v in last.items() if n not in _LEFT_OUT and not n.startswith("time/")}
        shown = {n: v for n, v in told.items() if type(v) in (int, float)}
        if not shown:
            yield "None are known."
            return
        yield f"Last logged by the training run, up to step {last['step']}:\n\n| figure | value |\n|---|---|"
        yield from (f"| `{name}` | {value:.4g} |" for name, value in sorted(shown.items()))
        yield ""

    def _limits(self) -> Iterator[str]:
        yield "- It may say what is not in the picture, and be wrong about what is. It was not tested for safety."
        yield "- Figures above are those of its own training run, on its own data."
        if self.adapter and self.recipe is not None and (most := self.recipe.model.pictures.max_tiles) is not None:
            yield (
                f"- Pictures are cut into at most {most} tiles. Where the config of its base has "
                "`image_grid_pinpoints`, set it to those of the processor here before the base is loaded."
            )
        evaluation = None if self.recipe is None else self.recipe.evaluation
        names = ", ".join(bench.bench for bench in (evaluation.benches if evaluation is not None else ()))
        yield f"- Benchmarks while it was trained: {names or 'none'}. Nothing is known of others."
        yield "- Licences of the model it comes from and of its data hold for it as well; they were not looked up."


def _on_hub(name: str) -> bool:
    file = Path(name)
    return _HUB_NAME.fullmatch(name) is not None and not file.exists() and file.suffix not in _FILES


def _short(path: str) -> str:
    """A folder of somebody's machine tells others nothing but its end."""
    return "/".join(Path(path).parts[-2:]) if Path(path).is_absolute() else path


def _shortened(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _shortened(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_shortened(inner) for inner in value]
    return _short(value) if isinstance(value, str) and value.startswith("/") else value

"""A run directory, to look at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sightline.api.groups import Groups, read_groups
from sightline.display import curve, table
from sightline.errors import RecipeError
from sightline.models.locate import model_folder
from sightline.recipes.load import load_recipe
from sightline.recipes.schema import Recipe
from sightline.train.metrics import figures_of, read_metrics
from sightline.train.run_folder import RunDirectory

_NOT_FIGURES = ("step", "epoch", "seconds", "num_tokens", "tokens_per_second")
_MOST_SHOWN = 12
"""Figures of a run in a notebook."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A training run in its folder. What it tells is read when it is asked for."""

    path: Path
    """Its ``output_dir``."""
    stopped: str | None = None
    """Why a callback ended it before its last step; None: none did, or that is not known here."""

    @property
    def recipe(self) -> Recipe:
        """The resolved recipe."""
        return load_recipe(RunDirectory(path=self.path).recipe)

    @property
    def model_dir(self) -> Path:
        """The trained model, or its adapter: what ``sightline.load`` takes, as it takes the run.

        Raises:
            RecipeError: the run has not written its model yet.
        """
        return model_folder(self.path)

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """All records that were logged, the oldest first: ``step``, ``epoch``, ``loss`` and more."""
        file = RunDirectory(path=self.path).metrics
        return read_metrics(file) if file.is_file() else []

    @property
    def steps(self) -> int:
        """The last optimizer step that was logged."""
        records = self.metrics
        return records[-1]["step"] if records else 0

    @property
    def samples(self) -> Groups:
        """The answers that an online run sampled, with their rewards; none of other runs."""
        file = RunDirectory(path=self.path).samples
        return read_groups(file) if file.is_file() else Groups()

    def __repr__(self) -> str:
        records = self.metrics
        told = figures_of(records[-1]) if records else "nothing logged yet"
        ended = "" if self.stopped is None else f", stopped: {self.stopped}"
        return f"Run({str(self.path)!r}: {self._what()}, step {self.steps}, {told or 'no loss'}{ended})"

    def _repr_html_(self) -> str:
        records = self.metrics
        last = records[-1] if records else {}
        rows = [(name, f"{value:.4g}") for name, value in last.items() if name not in _NOT_FIGURES]
        points = [(record["step"], record["loss"]) for record in records if "loss" in record]
        notes = [f"Folder: {self.path}", *([f"Stopped: {self.stopped}"] if self.stopped else [])]
        if len(rows) > _MOST_SHOWN:
            notes.append(f"{len(rows) - _MOST_SHOWN} more figures stand in metrics and in the report.")
        title = f"{self._what()}, step {self.steps}"
        return curve("loss", points) + table(("last logged", ""), rows[:_MOST_SHOWN], title=title, notes=notes)

    def _what(self) -> str:
        try:
            recipe = self.recipe
        except RecipeError:  # its folder was removed: what it is called may still be asked
            return "no recipe that can be read"
        return f"{recipe.algorithm['name']} of {recipe.model.path}"

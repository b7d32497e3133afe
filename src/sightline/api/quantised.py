"""A model in few bits, with what that cost."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sightline.display import table
from sightline.report.quantised import quantised_rows, quantised_table
from sightline.report.table import SIGNS, Row, measured, number, plain_text
from sightline.train.quantise import FIGURES
from sightline.train.quantised import Quantised


@dataclass(frozen=True, kw_only=True)
class QuantisedModel:
    """A folder that was quantised and kept, held against the model that it was made from."""

    path: Path
    """The folder."""
    found: Quantised
    """All that was measured: ``found.moved.mean`` and ``found.moved.kept`` decide whether it is kept."""
    rows: tuple[Row, ...]
    """Each figure ``before`` and ``after`` with its paired ``difference`` and what that means (``verdict``)."""

    @classmethod
    def of(cls, found: Quantised, path: Path) -> QuantisedModel:
        """What was kept at ``path``."""
        rows = quantised_rows(found.moved.figures, found.bench, found.result)
        return cls(path=path, found=found, rows=tuple(rows))

    @property
    def figures(self) -> dict[str, Any]:
        """All of it as plain JSON: ``quantised.json`` beside the model."""
        figures: dict[str, Any] = json.loads((self.path / FIGURES).read_text(encoding="utf-8"))
        return figures

    def sentence(self) -> str:
        """What was done and how far it moved the model, for people."""
        return self.found.sentence()

    @property
    def title(self) -> str:
        """Where it lies and how it is held."""
        low, result = self.found.spec.kind, self.found.result
        return f"{self.path}: {low}, before and after ({result.bench}, {len(result.graded)} answers)"

    def __repr__(self) -> str:
        return f"{self.title}\n{plain_text(quantised_table(self.rows))}\n{self.sentence()}."

    def _repr_html_(self) -> str:
        cells = [
            (row.name, number(row.before.value, row.unit), number(row.after.value, row.unit),
             f"{SIGNS[row.verdict]} {measured(row.difference, row.unit, signed=True)}")
            for row in self.rows
            if row.after is not None and row.difference is not None
        ]  # fmt: skip
        notes = [f"{self.sentence()}.", "Brackets: bootstrap 95 % interval of the difference."]
        return table(("figure", "before", "after", "difference"), cells, title=self.title, notes=notes)

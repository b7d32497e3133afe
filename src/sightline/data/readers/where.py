"""Which rows of a source are taken: those of a subset that a column names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from sightline.data.readers.rows import Row, RowError
from sightline.errors import RecipeError
from sightline.recipes.load import nearest


def taken(rows: Iterator[Row], where: Mapping[str, Sequence[str]], path: str) -> Iterator[Row]:
    """The rows whose columns have one of the values given, compared as texts. Rows that cannot be read stay: they are
    bad rows, whatever subset they are of.

    Raises:
        RecipeError: The first row lacks such a column.
    """
    first = True
    for row in rows:
        try:
            record = row.record()
        except RowError:
            yield row
            continue
        if first and (lacking := [name for name in where if name not in record]):
            raise RecipeError(f"{path}: where: found no column '{lacking[0]}'. {nearest(lacking[0], list(record))}")
        first = False
        if all(name in record and str(record[name]) in values for name, values in where.items()):
            yield replace(row, content=record)

"""Errors go from process to process (workers, ranks) with their words and their parts."""

import copy
import pickle

import pytest

from sightline.data.readers.rows import RowError
from sightline.errors import CheckpointError, DataError, EngineError, MissingExtra, RecipeError, ServiceError
from sightline.models.hub import HubError

ERRORS = [
    DataError("no picture", source="rows.jsonl:3", remedy="Put it there"),
    ServiceError("no answer", remedy="Start it"),
    RowError("broken image", "cut off", source="rows.jsonl:4", remedy="Restore it"),
    MissingExtra("ray", "ray"),
    EngineError("nobody answers"),
    HubError("no such model"),
    RecipeError("wrong"),
    CheckpointError("gone"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("through", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy])
def test_an_error_is_the_same_in_another_process(error, through):
    there = through(error)
    assert type(there) is type(error) and str(there) == str(error) != ""
    assert (there.args, vars(there)) == (error.args, vars(error))

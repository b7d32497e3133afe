"""What a run is built of."""

import pytest
import train_runs

from sightline.recipes.schema import DatasetSpec, DataSpec, OnlineSpec, VisualSpec
from sightline.train.rows import _reading_writes

PLAIN = DataSpec(path="rows.jsonl", format="groups")


@pytest.mark.parametrize(
    ("train", "options", "writes"),
    [
        ([PLAIN], {}, False),
        ([PLAIN], {"eval": (PLAIN,)}, False),
        ([PLAIN], {"on_bad_row": "skip"}, True),  # the list of bad rows
        ([PLAIN], {"eval": (DataSpec(path="rows.jsonl"),)}, True),  # may hold pictures
        ([PLAIN, DataSpec(path="rows.parquet", format="groups")], {}, True),
        ([DataSpec(path="rows.jsonl", format="groups", visual=VisualSpec(relation="mdpo"))], {}, True),  # crops
    ],
)
def test_processes_read_at_once_only_where_reading_writes_nothing(tmp_path, train, options, writes):
    recipe = train_runs.recipe(tmp_path, tmp_path, data=DatasetSpec(train=tuple(train), **options))
    assert _reading_writes(recipe) is writes


@pytest.mark.parametrize(("prompts", "writes"), [(PLAIN, False), (DataSpec(path="org/questions"), True)])
def test_prompts_are_read_at_once_by_the_same_rule(tmp_path, prompts, writes):
    recipe = train_runs.recipe(tmp_path, tmp_path, data=None, online=OnlineSpec(prompts=prompts, reward="scenes"))
    assert _reading_writes(recipe) is writes

"""Rows of the benchmark of large data are rows that Sightline reads, and its meter sees processes below one."""

import json
import os
import subprocess
import sys

from benchmarks.data import descendants, llava, memory, pictures, rlaif

from sightline.data.load import load_groups
from sightline.recipes.schema import DataSpec


def test_rows_are_read_as_what_they_stand_for(tmp_path):
    pictures(tmp_path / "pictures", 5)
    assert len({path.read_bytes() for path in (tmp_path / "pictures").iterdir()}) == 5
    (tmp_path / "llava.json").write_text(json.dumps(list(llava(40, 5))))
    (tmp_path / "rlaif.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rlaif(30, 5)))
    answered, compared = (load_groups(DataSpec(path=str(tmp_path / name))) for name in ("llava.json", "rlaif.jsonl"))
    assert (len(answered), len(compared)) == (40, 30)
    assert sum(not group.prompts[0].images for group in answered) == 2
    assert all(len(group.edges) == 1 and group.prompts[0].images for group in compared)
    assert list(llava(40, 5)) == list(llava(40, 5))


def test_processes_below_one_are_counted():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert process.pid in descendants(os.getpid())
        total, largest = memory(os.getpid())
        assert total > 0 and largest > 0
        process.communicate(b"x")

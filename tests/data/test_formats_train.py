"""Files of every layout as they lie on a disk, from the file to a training step."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from sightline.recipes.load import load_recipe
from sightline.train.loop import train
from sightline.train.metrics import read_metrics

RECIPES = Path(__file__).parents[2] / "recipes"
QUESTION, GOOD, BAD = "What is there?", "A red lamp.", "A red cat."
ASKED = [{"from": "human", "value": f"<image>\n{QUESTION}"}]
TURNS = [{"role": "user", "content": f"<image>{QUESTION}"}, {"role": "assistant", "content": GOOD}]
TEXT = json.dumps({"question": QUESTION, "chosen": GOOD, "rejected": BAD})

Make = Callable[[Path, str], list[str]]
"""(folder, picture) -> writes a file of two rows; returns the overrides that name it."""


def answered(text: str) -> list[dict[str, str]]:
    return [*ASKED, {"from": "gpt", "value": text}]


def json_rows(row: dict[str, Any]) -> Make:
    def write(folder: Path, picture: str) -> list[str]:
        rows = [{**row, "image": picture}] * 2
        (folder / "rows.json").write_text(json.dumps(rows))
        return [f"data.train.0.path={folder / 'rows.json'}"]

    return write


def rlhf_v(folder: Path, picture: str) -> list[str]:
    row = {"ds_name": "RLHF-V", "image": {"bytes": Path(picture).read_bytes(), "path": "1.png"}, "text": TEXT, "idx": 1}
    for name in ("train-0.parquet", "train-1.parquet"):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), folder / name)
    return [f"data.train.0.path={folder / 'train-*.parquet'}"]


def vlfeedback(folder: Path, picture: str) -> list[str]:
    answers = [
        {"response": t, "annotations": {"Helpfulness": {"Rating": r}}} for t, r in ((BAD, "1"), (GOOD, "5"), ("?", "3"))
    ]
    lines = json.dumps({"prompt": QUESTION, "img_path": picture, "completions": answers}) + "\n"
    (folder / "rows.jsonl.gz").write_bytes(gzip.compress(lines.encode() * 2))
    return [f"data.train.0.path={folder / 'rows.jsonl.gz'}"]


def swift_table(folder: Path, picture: str) -> list[str]:
    with (folder / "rows.csv").open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["messages", "rejected_response", "images"])
        out.writerows([[json.dumps(TURNS), BAD, json.dumps([picture])]] * 2)
    return [f"data.train.0.path={folder / 'rows.csv'}"]


def labelled(folder: Path, picture: str) -> list[str]:
    rows = [
        {"messages": [TURNS[0], {"role": "assistant", "content": text}], "images": [picture], "label": text == GOOD}
        for text in (GOOD, BAD)
    ]
    (folder / "rows.json").write_text(json.dumps(rows))
    return [f"data.train.0.path={folder / 'rows.json'}"]


def steps(folder: Path, picture: str) -> list[str]:
    rows = [
        {"prompt": QUESTION, "image": picture, "completions": [word, "lamp."], "labels": [True, word == "A"]}
        for word in ("A", "Two")
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [f"data.train.0.path={folder / 'rows.jsonl'}"]


def entry(folder: Path, picture: str) -> list[str]:
    columns = {"prompt": "ask", "response": "say", "images": "pictures"}
    (folder / "dataset_info.json").write_text(json.dumps({"mine": {"file_name": "rows.json", "columns": columns}}))
    (folder / "rows.json").write_text(json.dumps([{"ask": QUESTION, "say": GOOD, "pictures": [picture]}] * 2))
    return [f"data.train.0.path={folder / 'dataset_info.json'}", "data.train.0.entry=mine"]


def tar(folder: Path, picture: str) -> list[str]:
    row, image = json.dumps({"conversations": answered(GOOD)}).encode(), Path(picture).read_bytes()
    with tarfile.open(folder / "rows.tar", "w") as out:
        for name, data in (("0.json", row), ("0.png", image), ("1.json", row), ("1.png", image)):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            out.addfile(member, io.BytesIO(data))
    return [f"data.train.0.path={folder / 'rows.tar'}"]


def data_address(folder: Path, picture: str) -> list[str]:
    address = f"data:image/png;base64,{base64.b64encode(Path(picture).read_bytes()).decode()}"
    content = [{"type": "image_url", "image_url": {"url": address}}, {"type": "text", "text": QUESTION}]
    (folder / "rows.json").write_text(json.dumps([{"messages": [{"role": "user", "content": content}, TURNS[1]]}] * 2))
    return [f"data.train.0.path={folder / 'rows.json'}"]


PAIR = {"conversations": answered(GOOD), "rejected_conversations": answered(BAD)}
TWO = {"conversations": answered(""), "output_1": {"from": "llava", "value": BAD}, "output_2": GOOD, "preference": 2}
FILES: dict[str, tuple[str, Make]] = {
    "povid": ("dpo_llava_lora", json_rows(PAIR)),
    "rlhf_v": ("dpo_dense", rlhf_v),
    "rlaif_v": ("orpo", json_rows({"question": QUESTION, "chosen": GOOD, "rejected": BAD, "ds_name": "x"})),
    "llava_rlhf": ("reward_model", json_rows(TWO)),
    "vlfeedback": ("dpo_llava_lora", vlfeedback),
    "vision_llm_alignment": ("simpo", json_rows({"conversations": [*ASKED, {"from": "gpt", "value": [GOOD, BAD]}]})),
    "swift": ("cpo", swift_table),
    "label": ("kto", labelled),
    "llama_factory": ("sft_llava", entry),
    "tar": ("sft_llava", tar),
    "data_address": ("sft_llava", data_address),
    "trl_steps": ("kto", steps),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_every_layout_trains(name: str, tiny: dict[str, Path], pictures: list[str], tmp_path: Path) -> None:
    recipe, make = FILES[name]
    common = [f"model.path={tiny['llava']}", "model.dtype=float32", f"output_dir={tmp_path / 'run'}"]
    small = ["train.batch_size=2", "train.max_steps=1", "train.warmup=0"]
    result = train(load_recipe(RECIPES / f"{recipe}.yaml", [*common, *small, *make(tmp_path, pictures[0])]), quiet=True)
    (record,) = read_metrics(result.run_dir / "metrics.jsonl")
    assert record["grad_norm"] > 0

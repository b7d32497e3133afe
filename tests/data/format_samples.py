"""Every format of rows that users bring: a hand-made sample, how it lies on a disk, and the recipe that trains on it.

One entry of ``SAMPLES`` a format. ``test_formats_train`` takes each from its file to a training step and to a Group
file and back; ``fuzz/test_formats`` damages its rows.
"""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from PIL import Image

QUESTION, GOOD, BAD = "What is there?", "A red lamp.", "A red cat."
Row = Any
"""A row as an object; in files of lines also the bytes of one, in tables also its cells."""
Write = Callable[[Path, Sequence[Row]], str]
"""(folder, rows) -> writes them; returns what a recipe names as path."""


def png(index: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (20 + index, 30), (90, 9, 200)).save(out, "PNG")
    return out.getvalue()


def save_pictures(folder: Path) -> None:
    """``0.png`` and ``1.png``, which the samples name."""
    for index in range(2):
        (folder / f"{index}.png").write_bytes(png(index))


def turns(*texts: Any) -> list[dict[str, Any]]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def llava(*values: Any) -> list[dict[str, Any]]:
    return [{"from": ("human", "gpt")[i % 2], "value": value} for i, value in enumerate(values)]


# --- files ----------------------------------------------------------------------------------------


def encoded(row: Row) -> bytes:
    return row if isinstance(row, bytes) else json.dumps(row).encode()


def lines(folder: Path, rows: Sequence[Row], name: str = "rows.jsonl") -> str:
    (folder / name).write_bytes(b"\n".join(map(encoded, rows)))
    return str(folder / name)


def gzipped(folder: Path, rows: Sequence[Row]) -> str:
    (folder / "rows.jsonl.gz").write_bytes(gzip.compress(b"\n".join(map(encoded, rows)), compresslevel=1))
    return str(folder / "rows.jsonl.gz")


def zstandard(folder: Path, rows: Sequence[Row]) -> str:
    out = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(out, "zstd") as stream:
        stream.write(b"\n".join(map(encoded, rows)))
    (folder / "rows.jsonl.zst").write_bytes(out.getvalue().to_pybytes())
    return str(folder / "rows.jsonl.zst")


def shards(folder: Path, rows: Sequence[Row]) -> list[Path]:
    """Two files in a copy of a repository of the hub, which has other files as well."""
    (folder / "copy" / "data").mkdir(parents=True, exist_ok=True)
    (folder / "copy" / "README.md").write_text("# Rows")
    half = (len(rows) + 1) // 2
    parts = (rows[:half], rows[half:])
    files = [folder / "copy" / "data" / f"train-0000{index}-of-00002.jsonl" for index in range(2)]
    for file, part in zip(files, parts, strict=True):
        file.write_bytes(b"\n".join(map(encoded, part)))
    return files


def snapshot(folder: Path, rows: Sequence[Row]) -> str:
    shards(folder, rows)
    return str(folder / "copy")


def matched(folder: Path, rows: Sequence[Row]) -> str:
    shards(folder, rows)
    return str(folder / "copy" / "**" / "train-*.jsonl")


def cells(row: Row) -> list[str]:
    return row if isinstance(row, list) else [v if isinstance(v, str) else json.dumps(v) for v in row.values()]


def table(delimiter: str, name: str) -> Write:
    def write(folder: Path, rows: Sequence[Row]) -> str:
        with (folder / name).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, delimiter=delimiter).writerows([[*rows[0]], *map(cells, rows)])
        return str(folder / name)

    return write


def webdataset(folder: Path, rows: Sequence[Row]) -> str:
    """A row and its picture under one name; bytes stand for a damaged row, a pair for one and a damaged picture."""
    with tarfile.open(folder / "rows.tar", "w") as out:
        for number, row in enumerate(rows):
            row, picture = row if isinstance(row, tuple) else (row, png(0))
            for ending, data in (("json", encoded(row)), ("png", picture)):
                member = tarfile.TarInfo(f"{number:05}.{ending}")
                member.size = len(data)
                out.addfile(member, io.BytesIO(data))
    return str(folder / "rows.tar")


def parquet(folder: Path, rows: Sequence[Row]) -> str:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), folder / "rows.parquet")
    return str(folder / "rows.parquet")


def entry(**described: Any) -> Write:
    def write(folder: Path, rows: Sequence[Row]) -> str:
        lines(folder, rows)
        described["file_name"] = "rows.jsonl"
        (folder / "dataset_info.json").write_text(json.dumps({"mine": described}))
        return str(folder / "dataset_info.json")

    return write


# --- formats --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A format."""

    recipe: str
    """Of ``recipes/``, that trains on it."""
    rows: tuple[dict[str, Any], ...]
    write: Write = lines
    spec: dict[str, Any] = field(default_factory=dict)
    """Further fields of the source."""


def sample(recipe: str, *rows: dict[str, Any], write: Write = lines, **spec: Any) -> Sample:
    return Sample(recipe=recipe, rows=rows, write=write, spec=spec)


PAIR = {"chosen": GOOD, "rejected": BAD}
RLAIF_V = {"ds_name": "RLAIF-V", "question": QUESTION, **PAIR, "origin_dataset": "COCO", "origin_split": "{}", "idx": 3}
PARTS = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}]
FORMATTED = [{"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": QUESTION}]}]
PAIRED = {
    name: [{"role": "assistant", "content": [{"type": "text", "text": text}]}]
    for name, text in (("chosen", GOOD), ("rejected", BAD))
}
ASKED = f"<image>\n{QUESTION}"
TEXT = json.dumps({"question": QUESTION, **PAIR})
TWO = {"output_1": {"from": "llava", "value": BAD}, "output_2": {"from": "llava", "value": GOOD}, "preference": 2}
RATED = [
    {"response": text, "annotations": {"Helpfulness": {"Rating": rating, "Rationale": "so"}, "Ethics": {"Rating": 3}}}
    for text, rating in ((BAD, "1"), (GOOD, "5"), ("Two lamps.", 3), ("?", "N/A"))
]
TEMPLATED = f"A chat between a person and an assistant. USER: <image>\n{QUESTION} ASSISTANT: "
OPENAI = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
ADDRESS = f"data:image/png;base64,{base64.b64encode(png(0)).decode()}"
POINTED = [{"type": "image_url", "image_url": {"url": ADDRESS}}, {"type": "text", "text": QUESTION}]
SWIFT = {"messages": turns(f"<image>{QUESTION}", GOOD), "rejected_response": BAD, "images": ["0.png"]}

SAMPLES: dict[str, Sample] = {
    # TRL: its six types, as texts and as conversations, and vision rows
    "trl language modelling": sample("sft_llava", {"messages": turns(QUESTION, GOOD, "Lit?", "Yes.")}),
    "trl prompt and completion": sample("sft_llava", {"prompt": QUESTION, "completion": GOOD}),
    "trl preference": sample("dpo_llava_lora", {"prompt": QUESTION, **PAIR}),
    "trl preference, implicit prompt": sample(
        "dpo_llava_lora", {"chosen": turns(QUESTION, GOOD), "rejected": turns(QUESTION, BAD)}
    ),
    "trl unpaired preference": sample(
        "kto",
        {"prompt": QUESTION, "completion": GOOD, "label": True},
        {"prompt": QUESTION, "completion": BAD, "label": False},
    ),
    "trl stepwise supervision": sample(
        "kto",
        {"prompt": QUESTION, "completions": [GOOD, "Lit."], "labels": [True, True]},
        {"prompt": QUESTION, "completions": [GOOD, BAD], "labels": [True, False]},
    ),
    "trl vision": sample("sft_llava", {"prompt": PARTS, "completion": turns("", GOOD)[1:], "images": ["0.png"]}),
    "trl vision preference": sample("cpo", {"prompt": PARTS, **PAIRED, "image": "0.png"}),
    # LLaVA, ShareGPT
    "llava": sample("sft_llava", {"id": "7", "image": "0.png", "conversations": llava(ASKED, GOOD, "Lit?", "Yes.")}),
    "llava, chosen and rejected": sample(
        "dpo_llava_lora",
        {"image": "0.png", "conversations": llava(ASKED), **{k: {"from": "gpt", "value": v} for k, v in PAIR.items()}},
    ),
    "messages, chosen and rejected": sample(
        "simpo",
        {"messages": turns(QUESTION), "images": ["0.png"], "chosen": turns("", GOOD)[1], "rejected": turns("", BAD)[1]},
    ),
    "messages, label": sample(
        "kto",
        {"messages": turns(f"<image>{QUESTION}", GOOD), "images": ["0.png"], "label": True},
        {"messages": turns(f"<image>{QUESTION}", BAD), "images": ["0.png"], "label": False},
    ),
    # ms-swift, LLaMA-Factory
    "swift, rejected_response": sample("cpo", SWIFT),
    "swift, rejected_images": sample(
        "dpo_llava_lora",
        {
            "messages": SWIFT["messages"],
            "rejected_messages": SWIFT["messages"],
            "images": ["0.png"],
            "rejected_images": ["1.png"],
        },
    ),
    "llama-factory, alpaca": sample(
        "sft_llava",
        {"ask": QUESTION, "more": "", "say": GOOD, "pictures": ["0.png"]},
        write=entry(columns={"prompt": "ask", "query": "more", "response": "say", "images": "pictures"}),
        entry="mine",
    ),
    "llama-factory, sharegpt with tags": sample(
        "dpo_llava_lora",
        {
            "talk": turns(f"<image>{QUESTION}"),
            "good": turns("", GOOD)[1],
            "bad": turns("", BAD)[1],
            "pictures": ["0.png"],
        },
        write=entry(
            formatting="sharegpt",
            ranking=True,
            columns={"messages": "talk", "chosen": "good", "rejected": "bad", "images": "pictures"},
            tags=OPENAI,
        ),
        entry="mine",
    ),
    "llama-factory, kto_tag": sample(
        "kto",
        {"conversations": llava(QUESTION, GOOD), "fine": True},
        {"conversations": llava(QUESTION, BAD), "fine": False},
        write=entry(formatting="sharegpt", columns={"kto_tag": "fine"}),
        entry="mine",
    ),
    # preferences about pictures, as their authors publish them
    "rlaif-v, hub": sample(
        "orpo",
        {**RLAIF_V, "image": {"bytes": png(0), "path": "x.jpg"}, "image_path": "x.jpg"},
        write=parquet,
        where={"origin_dataset": ["COCO"]},
    ),
    "rlaif-v, formatted": sample("orpo", {"images": ["0.png"], "prompt": FORMATTED, **PAIRED}),
    "rlhf-v, corrected segments": sample(
        "papers/rlhf_v",
        {"ds_name": "RLHF-V", "image": {"bytes": png(0), "path": "1.png"}, "text": TEXT, "idx": 1},
        write=parquet,
    ),
    "rlhf-v, lines": sample("papers/rlhf_v", {"ds_name": "RLHF-V", "image": "0.png", "text": TEXT, "idx": 1}),
    "llava-human-preference-10k": sample(
        "reward_model",
        {
            "id": "7",
            "image": "0.png",
            "conversations": llava(ASKED, "A lamp.", "Lit?", ""),
            **TWO,
        },
    ),
    "llava-rlhf, with hallucination": sample(
        "reward_model",
        {"image": "0.png", "conversations": llava(ASKED, ""), **TWO, "hallucination": True},
    ),
    "vlfeedback": sample("dpo_llava_lora", {"prompt": QUESTION, "img_path": "0.png", "completions": RATED}),
    "vlfeedback, columns of answers": sample(
        "dpo_llava_lora",
        {"prompt": QUESTION, "image": "0.png", "completions": {k: [r[k] for r in RATED] for k in RATED[0]}},
    ),
    "vision-feedback-mix, scores": sample(
        "dpo_llava_lora", {"prompt": QUESTION, **PAIR, "image": "0.png", "score_chosen": 4.5, "score_rejected": 2.0}
    ),
    "vision-llm-alignment, ranked": sample(
        "simpo", {"image": "0.png", "conversations": llava(ASKED, [GOOD, BAD, "No."])}
    ),
    "vision-llm-alignment, comma-joined pictures": sample(
        "sft_llava", {"image": "0.png,1.png", "conversations": llava(ASKED, GOOD)}
    ),
    "vision-llm-alignment, null": sample(
        "simpo", {"id": "7", "image": None, "conversations": llava(QUESTION, [GOOD, BAD])}
    ),
    "povid": sample(
        "dpo_llava_lora",
        {"image": "0.png", "conversations": llava(ASKED, GOOD), "rejected_conversations": llava(ASKED, BAD)},
    ),
    "csr": sample(
        "dpo_llava_lora",
        {"image": "0.png", "conversations": llava(TEMPLATED, GOOD), "rejected_conversations": llava(TEMPLATED, BAD)},
    ),
    "mdpo": sample("papers/mdpo", {"img_path": "0.png", "prompt": TEMPLATED, **PAIR}),
    "sentinel": sample(
        "papers/sentinel",
        {"image_path": "0.png", "question": QUESTION, "context": "There is a table.", "y_win": GOOD, "y_lose": BAD},
    ),
    # files
    "csv": sample("cpo", SWIFT, write=table(",", "rows.csv")),
    "tsv": sample("cpo", SWIFT, write=table("\t", "rows.tsv")),
    "gz": sample("dpo_llava_lora", {"prompt": QUESTION, **PAIR, "image": "0.png"}, write=gzipped),
    "zst": sample("dpo_llava_lora", {"prompt": QUESTION, **PAIR, "image": "0.png"}, write=zstandard),
    "glob": sample("dpo_llava_lora", {"prompt": QUESTION, **PAIR, "image": "0.png"}, write=matched, image_dir="."),
    "snapshot": sample("dpo_llava_lora", {"prompt": QUESTION, **PAIR, "image": "0.png"}, write=snapshot, image_dir="."),
    "webdataset": sample("sft_llava", {"conversations": llava(ASKED, GOOD)}, write=webdataset),
    # pictures as texts
    "data address": sample("sft_llava", {"messages": [{"role": "user", "content": POINTED}, turns("", GOOD)[1]]}),
    "base64": sample("orpo", {"prompt": QUESTION, **PAIR, "image": base64.b64encode(png(1)).decode()}),
    "file address": sample("orpo", {"prompt": QUESTION, **PAIR, "image": "file://{folder}/0.png"}),
}
"""By format. ``{folder}`` in a row is where the pictures lie; ``image_dir: .`` as well."""
REPEATED = 2
"""Each row of a sample lies so often in the file that is trained on."""


def placed(value: Any, folder: Path) -> Any:
    """A row with the folder of its pictures in it."""
    if isinstance(value, dict):
        return {key: placed(inner, folder) for key, inner in value.items()}
    if isinstance(value, list):
        return [placed(inner, folder) for inner in value]
    return value.replace("{folder}", str(folder)) if isinstance(value, str) else value


def source(made: Sample, folder: Path, rows: Sequence[Row]) -> dict[str, Any]:
    """Writes rows as a format has them; the fields of the source that reads them."""
    spec = dict(made.spec)
    if "image_dir" in spec:
        spec["image_dir"] = str(folder)
    return {"path": made.write(folder, rows), **spec}

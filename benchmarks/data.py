"""Starts on many rows: 665,000 as LLaVA writes them (SFT) and 83,000 as RLAIF-V does (DPO), generated.

    python -m benchmarks.data                            # both, cold and warm (2 GB of disk)
    python -m benchmarks.data --scale 0.02               # to see that it runs
    python -m benchmarks.data --json out.json            # also write every figure

A start is a process of its own that loads a tiny LLaVA of 576 image tokens, reads the rows and takes one optimizer
step: cold with an empty cache, and warm with what the cold start left. Rows are like those of llava_v1_5_mix665k.json:
one JSON list, 1 to 10 rounds, ids that come again, every seventeenth a long conversation without picture; 40,000 small
pictures that all rows share. Memory is of the process and its workers together, a page that they share counted once
(PSS), sampled twice a second; CPU is of all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

LLAVA_ROWS, RLAIF_ROWS, PICTURES = 665_000, 83_000, 40_000
BARS = {"cold": 180.0, "warm": 15.0}
"""Seconds to the first step, for all rows."""
MOST_MB = 1500.0


def pictures(folder: Path, count: int) -> None:
    """Small JPEG files, no two of the same bytes."""
    from PIL import Image

    folder.mkdir(parents=True)
    for number in range(count):
        colour = (number % 256, number // 256 % 256, 77)
        Image.new("RGB", (32 + number % 13, 24 + number % 7), colour).save(
            folder / f"{number:06d}.jpg", comment=str(number)
        )


def llava(count: int, distinct: int) -> Iterator[dict[str, Any]]:
    """Rows as in LLaVA's mixture."""
    draw = random.Random(0)
    for number in range(count):
        picture, text_only = draw.randrange(distinct), number % 17 == 16
        rounds = draw.choice((3, 4)) if text_only else draw.choice((1, 1, 1, 2, 4, 6, 8, 10))
        words = (40, 140) if text_only else (12, 90 if rounds == 1 else 10)
        turns = []
        for place in range(rounds):
            mark = "<image>\n" if place == 0 and not text_only else ""
            turns.append({"from": "human", "value": mark + say(draw, words[0])})
            turns.append({"from": "gpt", "value": say(draw, words[1])})
        row = {"id": f"{picture:012d}", "image": f"pictures/{picture:06d}.jpg", "conversations": turns}
        if text_only:
            row = {"id": f"identity_{number}", "conversations": turns}
        yield row


def rlaif(count: int, distinct: int) -> Iterator[dict[str, Any]]:
    """Rows as in RLAIF-V, with the paths of their pictures."""
    draw = random.Random(1)
    for number in range(count):
        yield {
            "ds_name": "generated",
            "image": f"pictures/{draw.randrange(distinct):06d}.jpg",
            "question": say(draw, 12),
            "chosen": say(draw, 100),
            "rejected": say(draw, 100),
            "origin_dataset": "COCO",
            "idx": number,
        }


@cache
def lexicon() -> list[str]:
    """The words that the tokenizer of the model was made of."""
    from benchmarks import shapes

    return shapes.lexicon()


def say(draw: random.Random, words: int) -> str:
    """About so many words; one text in fifty is not all ASCII."""
    text = " ".join(draw.choices(lexicon(), k=max(1, round(words * draw.uniform(0.5, 1.5)))))
    return text + " café" * (draw.random() < 0.02)


def generate(folder: Path, scale: float) -> dict[str, Path]:
    """Writes model, pictures and rows; the file of rows of each task."""
    from benchmarks.shapes import Shape, build

    tiny = Shape(vocabulary=8192, hidden=64, layers=2, intermediate=128, vision_hidden=64, vision_layers=2)
    build(folder / "model", tiny)
    distinct = max(8, round(PICTURES * scale))
    pictures(folder / "pictures", distinct)
    files = {"llava": folder / "llava.json", "rlaif": folder / "rlaif.jsonl"}
    with files["llava"].open("w") as out:
        for number, row in enumerate(llava(round(LLAVA_ROWS * scale), distinct)):
            out.write(("[" if number == 0 else ",\n") + json.dumps(row))
        out.write("]\n")
    with files["rlaif"].open("w") as out:
        out.writelines(json.dumps(row) + "\n" for row in rlaif(round(RLAIF_ROWS * scale), distinct))
    return files


def first_step(folder: Path, task: str, rows: Path, run: Path) -> None:
    """In a process of its own: opens a run and takes its first step; prints what it took."""
    import torch

    from sightline.recipes.schema import DatasetSpec, DataSpec, LoraSpec, ModelSpec, PartsSpec, Recipe, TrainSpec
    from sightline.train.loop import train_step
    from sightline.train.session import open_session

    torch.set_num_threads(1)
    recipe = Recipe(
        name=task,
        output_dir=str(run),
        model=ModelSpec(
            path=str(folder / "model"), parts=PartsSpec(language="lora", projector="frozen"), lora=LoraSpec()
        ),
        algorithm={"name": "sft"} if task == "llava" else {"name": "dpo"},
        data=DatasetSpec(train=(DataSpec(path=str(rows)),), cache_dir=str(folder / "cache")),
        train=TrainSpec(batch_size=2, workers=0),
    )
    with open_session(recipe) as session:
        opened = time.monotonic()
        train_step(session)
        done = time.monotonic()
    print(
        json.dumps(
            {"step": done - opened, "groups": session.source.state()["groups"], "rows": session.source.state()["rows"]}
        )
    )


def descendants(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for parent in found:
        try:
            found += map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split())
        except OSError:  # it has ended
            continue
    return found


def memory(pid: int) -> tuple[float, float]:
    """MB of a process and all below it, shared pages once; and of the process itself, resident."""
    total = own = 0.0
    for one in descendants(pid):
        try:
            lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        kb = {line.split(":")[0]: float(line.split()[1]) for line in lines[1:]}
        total += kb["Pss"] / 1024
        own = max(own, kb["Rss"] / 1024)
    return total, own


def measure(folder: Path, task: str, rows: Path, name: str) -> dict[str, Any]:
    """One start."""
    run = folder / "runs" / f"{task}-{name}"
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    command = [sys.executable, "-m", "benchmarks.data", "--first-step", task, str(folder), str(rows), str(run)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peaks, ended = [0.0, 0.0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.5):
            peaks[:] = map(max, peaks, memory(process.pid))

    watching = threading.Thread(target=watch)
    watching.start()
    out, _ = process.communicate()
    wall = time.monotonic() - began
    ended.set()
    watching.join()
    if process.returncode:
        raise SystemExit(f"{task}, {name}: the start failed")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    told = json.loads(out.splitlines()[-1])
    return {"wall": wall, "cpu": cpu, "memory": peaks[0], "largest": peaks[1], **told}


def show(results: dict[str, dict[str, Any]]) -> None:
    print("| rows | start | s | CPU s | MB, all processes | MB, largest process |")
    print("|---|---|---|---|---|---|")
    for name, row in results.items():
        task, _, start = name.partition(" ")
        figures = (row["wall"], row["cpu"], row["memory"], row["largest"])
        print(f"| {row['groups']:,} {task} | {start} | " + " | ".join(f"{figure:.0f}" for figure in figures) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the rows and pictures")
    parser.add_argument("--folder", type=Path, help="where to generate, or what was generated; default: temporary")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    parser.add_argument("--first-step", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.first_step:
        task, folder, rows, run = arguments.first_step
        first_step(Path(folder), task, Path(rows), Path(run))
        return
    folder = arguments.folder or Path(tempfile.mkdtemp())
    files = {"llava": folder / "llava.json", "rlaif": folder / "rlaif.jsonl"}
    if not files["rlaif"].exists():
        files = generate(folder, arguments.scale)
    for left in ("cache", "runs"):
        shutil.rmtree(folder / left, ignore_errors=True)
    load = [round(one, 2) for one in os.getloadavg()]
    starts = [(task, start) for task in files for start in BARS]
    results = {f"{task} {start}": measure(folder, task, files[task], start) for task, start in starts}
    show(results)
    for start, most in BARS.items():
        some = [row for name, row in results.items() if name.endswith(start)]
        wall, cpu = (sum(row[figure] for row in some) for figure in ("wall", "cpu"))
        most_mb = max(row["memory"] for row in some)
        print(f"{start}: {wall:.0f} s of {most:.0f}, CPU {cpu:.0f} s; memory {most_mb:.0f} MB of {MOST_MB:.0f}")
    for task in files:
        assert results[f"{task} cold"]["rows"] == results[f"{task} warm"]["rows"]
    if arguments.json:
        machine = {"cores": len(os.sched_getaffinity(0)), "load_before": load, "load_after": list(os.getloadavg())}
        report = {"scale": arguments.scale, "machine": machine, "starts": results}
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    if arguments.folder is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()

"""Figures of sentences: those that follow from a file of results, and those that nobody measured."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from website import tables

Made = Mapping[str, Callable[[], tuple[float, ...]]]


def _league(kind: str, what: str, part: str = "values") -> dict[str, float]:
    rows = tables.read("league")[kind]["standings"]
    return {row["name"]: 100 * row[part][what]["value"] for row in rows if row[part]}


def _more_cover(better: str, than: str) -> float:
    cover = _league("loops", "cover")
    return cover[better] - cover[than]


def _changes(kind: str, what: str, *names: str) -> tuple[float, ...]:
    """By how much Hal or Cover fell under some methods."""
    changes = _league(kind, what, "changes")
    return tuple(-changes[name] for name in names or changes)


def _base(kind: str, what: str) -> tuple[float, float]:
    found = tables.read("league")[kind]["standings"][0]["values"][what]
    return 100 * found["low"], 100 * found["high"]


def _least_and_most(fell: Iterable[float]) -> tuple[float, float]:
    kept = [value for value in fell if value > 0.05]
    return min(kept), max(kept)


def _improving() -> Iterator[float]:
    """By how much Cover fell under each method that improves."""
    return (-100 * one.changes["cover"].value for one in tables.standings("offline")[1:] if one.verdict == "improves")


def _accuracy(kind: str, *names: str) -> tuple[float, ...]:
    accuracy = _league(kind, "accuracy")
    return tuple(accuracy["base"] - accuracy[name] for name in names or accuracy)


def _of_three(kind: str, what: str, name: str) -> tuple[float, float]:
    """Of three seeds, of which mean, least and greatest are known: the middle one and the least."""
    found = next(row for row in tables.read("league")[kind]["standings"] if row["name"] == name)["values"][what]
    return 100 * (3 * found["value"] - found["low"] - found["high"]), 100 * found["low"]


def _step(file: str, contender: str, figure: str) -> float:
    found: Any = tables.read(file)["stages"]["steps"][f"llava {contender}"]
    return float(found["peak_mb"] / 1024 if figure == "gb" else found[figure])


def _pair() -> dict[str, Any]:
    found: dict[str, Any] = tables.read("gpu_h100_pair")["stages"]["steps"]
    return found


def _against_least() -> tuple[float, ...]:
    """Pairs of an H100: TRL's least to ours, medians with the same lengths again, these times of ours and TRL's."""
    ours, theirs = _pair()["llava pair tree+compile"], _pair()["llava pair trl"]
    again, median = ours["repeated"][0], statistics.median(theirs["repeated"])
    return theirs["least"] / ours["least"], median / again, again, min(theirs["repeated"]), max(theirs["repeated"])


def _mfu() -> tuple[float, ...]:
    """Of a product measured on the device, these products, and of the datasheet; pairs and groups."""
    files = ("gpu_h100_pair", "gpu_h100_group")
    reached = [next(iter(tables.read(file)["stages"]["steps"].values()))["tflops"] for file in files]
    machines = [tables.read(file)["stages"]["machine"]["machine"] for file in files]
    products = [machine["matmul_tflops"] for machine in machines]
    shares = (100 * one / product for one, product in zip(reached, products, strict=True))
    sheet = machines[0]["datasheet_tflops"]
    return (*shares, *products, sheet, *(100 * one / sheet for one in reached))


def _new_lengths() -> tuple[float, ...]:
    return tuple(
        100 * (_step(file, name, "new_to_repeated") - 1)
        for file, name in (
            ("gpu_h100_group", "group tree+compile"),
            ("gpu_h100", "pair tree"),
            ("gpu_h100", "pair tree+compile"),
            ("gpu_h100_pair", "pair tree+compile"),
        )
    )


def _starts(what: str, kind: str) -> float:
    return float(sum(found[what] for name, found in tables.read("data")["starts"].items() if name.endswith(kind)))


def _most_memory() -> float:
    return float(max(found["memory"] for found in tables.read("data")["starts"].values())) / 1000


def _alone(other: str) -> float:
    seconds = tables.read("sentence_search")["seconds"]
    return float(seconds[other] / seconds["alone"])


def _plain(file: str) -> float:
    """How much more CPU time the group takes in a loop that shares nothing."""
    line = next(line for line in tables.step(file).splitlines() if " plain | " in line)
    return float(line.split(" | ")[-2].split("x")[0])


def _refilled() -> float:
    seconds = tables.read("rollouts_refill")["refill_8"]
    return float(100 * (seconds["refilled"]["seconds"] / seconds["batches"]["seconds"] - 1))


def _answers_16() -> tuple[float, ...]:
    table = tables.step("step_small_16")
    rows = [re.split(r" *\| *", line) for line in table.splitlines() if "x " in line]
    return (*(float(row[-3].split("x")[0]) for row in rows), *(float(row[-2]) for row in rows))


def ratios() -> set[str]:
    """All ratios that the tables of speed show."""
    made = tables.step("step_small", "step_deep", "step_deep_group", "step_deep_group_trl") + tables.gpu_steps()
    return set(re.findall(r"\d+\.\d+", made))


MADE: dict[str, Made] = {
    "README.md": {
        "lower Hal by more than 47 points": lambda: (math.floor(min(_changes("online", "hal"))),),
    },
    "docs/data.md": {"0.49 s ([performance]": lambda: (_step("gpu_h100", "pair tree", "seconds"),)},
    "docs/league.md": {
        "`simpo` by 9.2 points": lambda: _changes("offline", "cover", "simpo"),
        "it is 0.1 to 0.9 points lower": lambda: _least_and_most(_improving()),
        "loses 1.3 points over all seeds": lambda: _changes("offline", "cover", "cpo_simpo"),
        "lose 3 points of yes/no accuracy, `svco_noref` 2": lambda: _accuracy("offline", "kto", "svco_noref"),
        "(Hal 50 to 62 %, yes/no 89 to 96 %)": lambda: (*_base("offline", "hal"), *_base("offline", "accuracy")),
        "by 0.3 (`ppo`) to 1.6 points": lambda: _least_and_most(_accuracy("online")),
        "and 13 points more Cover: offline": lambda: (_more_cover("self_rewarding", "dpo_offline"),),
        "8 points above it in Cover": lambda: (_more_cover("csr_release", "csr_offline"),),
        "10 points more Cover without a fact": lambda: (_more_cover("rlaif_v", "dpo_offline"),),
        "13 points more Cover and more Hal": lambda: (_more_cover("ovip", "dpo_offline"),),
        "by 37 points, less than another drawing (52), noise (45), a piece (44)": lambda: _changes(
            "ovip_negatives", "hal", "ovip", "ovip_other", "ovip_noise", "ovip_crop"
        ),
        "lower Hal by 51 points and keep Cover": lambda: _changes("ovip_negatives", "hal", "ovip, image_weight 0.2"),
        "Hal falls by 44 points, with a fifth by 43, and Cover by 1.3 in both": lambda: (
            *_changes("ovip_negatives", "hal", "ovip, symmetric", "ovip, symmetric, image_weight 0.2"),
            *_changes("ovip_negatives", "cover", "ovip, symmetric"),
        ),
        "fell to 64 and 32 % on": lambda: _of_three("ovip_negatives", "cover", "ovip, failed: drop"),
    },
    "docs/performance.md": {
        "Against plain the group is 5.4x": lambda: (_plain("step_small"),),
        "(`small`) and 4.3x (`deep`)": lambda: (_plain("step_deep_group"),),
        "3.1x `rows`, 5.2x plain, memory 0.30 and 0.98": _answers_16,
        "0.492 (0.484) s and 32.8 GB": lambda: tuple(
            _step("gpu_h100", "pair tree", figure) for figure in ("seconds", "least", "gb")
        ),
        "compiled 0.372 s": lambda: (_step("gpu_h100", "pair tree+compile", "seconds"),),
        "after 88 and 99 s of compiling": lambda: tuple(
            tables.read(file)["stages"]["steps"]["llava pair tree+compile"]["warm_up"][0]
            for file in ("gpu_h100", "gpu_h100_pair")
        ),
        "it is 2.5x, and 2.7x with the same lengths again (0.355 s against 0.939 to 1.037 s)": _against_least,
        "groups 2 %, plain pairs 4 %, compiled pairs 9 to 10 %": _new_lengths,
        "(48 and 52 % of 763 and 736 TFLOP/s), not against the datasheet's 989 (37 and 39 %)": _mfu,
        "reached: 160 s": lambda: (_starts("wall", "cold"),),
        "reached: 11 s": lambda: (_starts("wall", "warm"),),
        "reached: 1.0 GB": lambda: (_most_memory(),),
        "it is 2.5x against `nodes` and 5.8x": lambda: (_alone("nodes"), _alone("rows")),
        "refilling costs 14 % more": lambda: (_refilled(),),
    },
    "docs/training.md": {
        "took 0.37 s instead of 0.49": lambda: tuple(
            _step("gpu_h100", f"pair tree{form}", "seconds") for form in ("+compile", "")
        ),
    },
}
"""What a page says, to the figures that follow for it from files of results, in the order of the sentence."""

GIVEN: dict[str, tuple[str, ...]] = {
    "docs/algorithms/simpo.md": ("a ratio of 5 nats per token",),
    "docs/algorithms/visual_preferences.md": ("95 % bootstrap interval", "lies within 10 % around 0"),
    "docs/command_line.md": ("the first after 10 seconds, then every 30 seconds", "at most every 10 minutes"),
    "docs/data.md": ("less than 8 MB together", "Intervals (95 %)", "38 % of the datasheet's figure"),
    "docs/evaluation.md": ("(120 s)", "Its 95 % interval"),
    "docs/guides/csr.md": ("published 100 times CLIP's cosine",),
    "docs/guides/fact_rlhf.md": ("65 to 70% in the paper's setting", "one GPU of 24 GB"),
    "docs/guides/ovip.md": (
        "0.5 s for a judgement, 4 s for a picture",
        "larger: 2 times max(1.5, deviation)",
        "1 s and 3 s between tries",
    ),
    "docs/guides/quantised_export.md": (
        "100 %: the model looks as it did, 0 %: not at all | at least 50 %",
        "its 95 % interval",
        "at least 80 % of the picture's effect",
        "to 0.05 nats under",
    ),
    "docs/guides/rlaif_v.md": ("cut after 300 words",),
    "docs/guides/services.md": ("left alone for 1 s", "up to 30 s"),
    "docs/guides/vllm.md": ("up to 30 seconds",),
    "docs/league.md": ("bootstrap 95 % interval", "down by no more than 2 points", "keep within 2 points"),
    "docs/models.md": ("0.0001 nats | 0.002 nats", "0.05 nats | 0.5 nats"),
    "docs/performance.md": (
        "answers of 90 words (137", "allow 3.6x in the decoder", "will not be 4x faster", "H100 80GB",
        "4x TRL |", "4.5x TRL |", "8x TRL's GRPO |", "4.5x `rows` |", "4.5x is not reached", "4.5x over `rows`",
        "2.5x TRL at", "4x TRL's GRPO |", "cost at most 5 %", "MFU of 45 %", "The goal, 3x,", "The goal, 4x ",
        "give `steps` 300 s", "for 50 to 100 s first", "under 15 s |", "under 3 minutes |", "under 1.5 GB |",
        "needs 0.5 s for an answer", "needs 4 s for a picture (4 at once), 1 s to sample the 16 answers",
        "1 s for a training step",
    ),
    "docs/rewards.md": ("0.5 s and then twice as long each time up to 30 s", "(600 s)", "1 s and then", "up to 60 s"),
    "docs/start.md": ("takes 4 GB for the weights",),
    "docs/training.md": (
        "about 4 or 7 GB", "5 to 6 of the T4's 16 GB, and a step of 8 pairs 9 to 22 seconds",
        "112 GB for 7 billion, 14 GB on each",
    ),
}  # fmt: skip
"""What nobody measured: settings, limits, goals, arithmetic, what others published."""

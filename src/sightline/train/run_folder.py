"""The run directory: what is in it, and whether a run may go on in it.

``recipe.yaml`` (resolved), ``environment.json``, ``process.json``, ``first_row.txt``, ``first_rows.json``,
``metrics.jsonl``, ``checkpoints/``, ``reference/``, ``rows/`` (given in memory), ``samples.jsonl`` (online),
``pairs.jsonl``, ``text_pairs.jsonl`` and ``dropped_pairs.jsonl`` (with negatives made online), ``negatives/``,
``trackers/``,
``bad_rows.jsonl``, ``model/`` (at the end), ``resumed.log`` (of runs that were resumed from the app).
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import platform
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sightline.errors import CheckpointError
from sightline.files import leftovers, replace_file, restore_folder
from sightline.recipes.load import dump_recipe, load_recipe
from sightline.recipes.moved import from_run
from sightline.recipes.schema import Recipe
from sightline.recipes.source import dotted
from sightline.rewards.settings import FREE_OPTIONS, FREE_TERMS
from sightline.train.checkpoint import drop_older, latest

_OURS = (
    "recipe.yaml",
    "environment.json",
    "first_row.txt",
    "first_rows.json",
    "metrics.jsonl",
    "samples.jsonl",
    "pairs.jsonl",
    "text_pairs.jsonl",
    "dropped_pairs.jsonl",
    "bad_rows.jsonl",
    "looking.json",
    "process.json",
    "resumed.log",
    "report.html",
)
_OUR_FOLDERS = (
    "checkpoints",
    "reference",
    "trackers",
    "images",
    "negatives",
    "evaluation",
    "rollout_adapters",
    "model",
    "best",
)
_LOOP = "loop.yaml"
"""In the folder of a loop (``sightline.loops``)."""
_MODEL_FACTS = "trained.json"
_PACKAGES = ("torch", "torchvision", "transformers", "tokenizers", "peft", "accelerate", "datasets", "safetensors")
_FREE = frozenset(
    ("workers", "log_every", "eval_every", "save_every", "keep_checkpoints", "trackers", "distribution")
) | {"micro_batch_tokens", "looking.every", "looking.groups", "looking.patience"}
"""Fields of ``train`` that change no number beyond rounding: they may differ when a run goes on."""
_FREE_NEGATIVES = (
    *("failed", "describe.cache", "paint.cache", "paint.offload"),
    *(f"paint.{name}" for name in ("urls", "timeout", "tries", "pause", "workers")),
    *(f"{who}.options.{name}" for who in ("describe", "gate") for name in FREE_OPTIONS),
)
"""Fields of ``online.negatives`` that change no number."""


@dataclass(frozen=True, kw_only=True)
class RunDirectory:
    """A folder that holds one run."""

    path: Path

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"

    @property
    def first_row(self) -> Path:
        """The first row as the model sees it."""
        return self.path / "first_row.txt"

    @property
    def first_rows(self) -> Path:
        """The first rows as the model sees them, for the page."""
        return self.path / "first_rows.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def samples(self) -> Path:
        return self.path / "samples.jsonl"

    @property
    def reference(self) -> Path:
        return self.path / "reference"

    @property
    def looking(self) -> Path:
        """Margins of the "does it look?" meter before training."""
        return self.path / "looking.json"

    @property
    def process(self) -> Path:
        """Which process works, or worked, on it."""
        return self.path / "process.json"

    @property
    def resumed(self) -> Path:
        """What the run said after it was resumed from the app."""
        return self.path / "resumed.log"

    @property
    def negatives(self) -> Path:
        """Made pictures: negatives of visual preferences, and white ones."""
        return self.path / "negatives"

    @property
    def rollout_adapters(self) -> Path:
        """Adapters that rollout servers read; the last two are kept."""
        return self.path / "rollout_adapters"

    @property
    def trackers(self) -> Path:
        return self.path / "trackers"

    @property
    def rows(self) -> Path:
        """Rows that were given in memory, with their pictures: the recipe names the files."""
        return self.path / "rows"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def best(self) -> Path:
        return self.path / "best"

    @property
    def evaluation(self) -> Path:
        return self.path / "evaluation"


def loop_around(run: Path) -> Path | None:
    """The folder of the loop that a run is the training of a round of: they move together."""
    root = run.absolute().parent.parent
    return root if (root / _LOOP).is_file() else None


def open_run(recipe: Recipe, *, resume: bool | None, overwrite: bool) -> Path | None:
    """Decides whether a run starts or goes on, and tidies up what a kill left. Main process only.

    Args:
        recipe: the run that is wanted.
        resume: None: go on where the directory holds the same run; True: go on or fail; False: start or fail.
        overwrite: remove the run that is there. Only files that Sightline writes are removed.

    Returns:
        The checkpoint to go on from; None: from the beginning.

    Raises:
        CheckpointError: the directory holds another run, or none to go on with.
    """
    run = RunDirectory(path=Path(recipe.output_dir))
    if run.path.exists() and not run.path.is_dir():
        raise CheckpointError(f"output_dir {run.path} is a file. Give the name of a folder; it is made if need be.")
    if (run.path / _LOOP).exists():
        raise CheckpointError(f"output_dir {run.path} holds a loop, where a training run was expected. Choose another.")
    if overwrite and resume:
        raise CheckpointError(
            f"found overwrite and resume for {run.path}: start anew, or go on. Leave one of them out."
        )
    if overwrite:
        _remove(run, recipe)
    _clear_after_kill(run)
    if not run.recipe.exists():
        if resume:
            raise CheckpointError(f"{run.path} holds no run to resume. Leave out resume, or correct output_dir.")
        return None
    if resume is False:
        raise CheckpointError(
            f"{run.path} already holds a run. Choose another output_dir, "
            "or pass --overwrite (in Python overwrite=True)."
        )
    if changes := changed_fields(load_recipe(run.recipe), recipe):
        raise CheckpointError(
            f"{run.path} holds a run with other settings ({'; '.join(changes)}). "
            "Set them back, choose another output_dir, or pass --overwrite (in Python overwrite=True)."
        )
    found = latest(run.path)
    if resume and found is None:
        raise CheckpointError(f"{run.path} holds no whole checkpoint to resume from. Leave out resume to start again.")
    if found is not None:
        drop_older(found, recipe.train.keep_checkpoints)
    return found


def changed_fields(before: Recipe, now: Recipe) -> list[str]:
    """Settings that differ and would change the numbers of a run that goes on.

    ``name``, ``output_dir``, ``evaluation``, what only concerns speed and logging, where services and servers of
    ``online.engine`` are, how they are reached and checked and how long they are waited for, ``online.failed_rewards``,
    and ``data.on_bad_row`` may differ: a picture may be found damaged on the way. The length (``train.epochs``,
    ``train.max_steps``) may differ where the
    learning rate does not depend on it: ``constant``, with a warm-up counted in steps. Paths in the folder of the run
    are the same wherever it lies.
    """
    old, new = dotted(dataclasses.asdict(before)), dotted(dataclasses.asdict(now))
    free = _free(now, {**old, **new})
    if now.train.schedule == "constant" and (now.train.warmup == 0 or now.train.warmup >= 1):
        free |= {"train.epochs", "train.max_steps"}
    names = [name for name in [*old, *(n for n in new if n not in old)] if name not in free]
    return [
        f"{n}: {old.get(n)} there, {new.get(n)} here"
        for n in names
        if old.get(n) != new.get(n) and from_run(old.get(n), before.output_dir) != from_run(new.get(n), now.output_dir)
    ]


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """Dotted settings of a run that change its numbers: all but those that :func:`changed_fields` passes over."""
    values = dotted(dataclasses.asdict(recipe))
    free = _free(recipe, values)
    return {name: value for name, value in values.items() if name not in free}


def _free(recipe: Recipe, names: Iterable[str]) -> set[str]:
    """Of the dotted ``names`` those that change no number beyond rounding, whatever the length of the run."""
    free = {"name", "output_dir", "data.on_bad_row", "data.cache_dir", "online.failed_rewards"}
    free |= {f"train.{name}" for name in _FREE}
    terms = {} if recipe.online is None or isinstance(recipe.online.reward, str) else recipe.online.reward
    for name, term in terms.items():
        free |= {f"online.reward.{name}.{field}" for field in FREE_TERMS.get(term.kind, ())}
    free |= {f"online.negatives.{name}" for name in _FREE_NEGATIVES}
    free |= {name for name in names if name.partition(".")[0] == "evaluation"}
    free |= {name for name in names if name.startswith("online.stages.")} - {"online.stages.chunk"}
    return free | ({name for name in names if name.startswith("online.engine.")} - {"online.engine.name"})


def write_run(run: RunDirectory, recipe: Recipe, facts: dict[str, Any]) -> None:
    """Writes the resolved recipe and what it ran on. Main process only."""
    run.path.mkdir(parents=True, exist_ok=True)
    replace_file(run.environment, json.dumps(environment() | facts, indent=2) + "\n")
    replace_file(run.recipe, dump_recipe(recipe))


def mark_model(folder: Path, step: int) -> None:
    """Notes beside a model that is being saved after how many optimizer steps it was, and its files."""
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()}
    (folder / _MODEL_FACTS).write_text(json.dumps({"step": step, "files": sizes}, indent=1) + "\n", encoding="utf-8")


def model_step(folder: Path) -> int | None:
    """The optimizer steps of a saved model; None where there is none, or not all of it.

    Weights must be as long as they were saved; texts beside them may have been edited.
    """
    try:
        facts = json.loads((folder / _MODEL_FACTS).read_text(encoding="utf-8"))
        found = {name: (folder / name).stat().st_size for name in facts["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    cut = [name for name, size in facts["files"].items() if name.endswith(".safetensors") and found[name] != size]
    return None if cut else facts["step"]


def environment() -> dict[str, Any]:
    """Versions and git revision of what runs."""
    installed = {name: importlib.metadata.version(name) for name in ("sightline", *_PACKAGES)}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": installed,
        "git": _revision(Path(__file__).parent),
    }


def _revision(folder: Path) -> str | None:
    """Commit of the checkout, marked where it was changed; None outside of one."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _clear_after_kill(run: RunDirectory) -> None:
    """What was being replaced has its name again, and what was written aside is gone."""
    for folder in (run.model, run.best):
        restore_folder(folder)
    made = run.negatives.glob("*.png.*.tmp")
    for aside in [*(path for name in _OURS for path in run.path.glob(f"{name}.*.tmp")), *made]:
        aside.unlink()


def _reads(recipe: Recipe, folder: Path) -> bool:
    """Whether rows of a recipe lie in a folder."""
    data, online = recipe.data, recipe.online
    specs = [*(data.train if data else ()), *(data.eval if data else ()), *([online.prompts] if online else ())]
    return any(folder.resolve() in Path(spec.path).resolve().parents for spec in specs)


def _remove(run: RunDirectory, recipe: Recipe) -> None:
    """Checkpoints go first and the recipe last: killed in between, what is left is a part of the same run. Rows that
    the new run reads stay."""
    for name in (*_OUR_FOLDERS, *([] if _reads(recipe, run.rows) else [run.rows.name])):
        for folder in (run.path / name, *leftovers(run.path / name)):
            shutil.rmtree(folder, ignore_errors=True)
    for name in reversed(_OURS):
        (run.path / name).unlink(missing_ok=True)

"""``sightline select``: which rows of a large set to train on for the sake of a small one."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sightline.cli.console import say
from sightline.cli.json_result import Document
from sightline.cli.model_options import QuantizationAsTrained
from sightline.cli.stage import check_apart
from sightline.errors import CheckpointError
from sightline.files import read_settings, replace_file
from sightline.progress import Progress
from sightline.recipes.schema import DataSpec, ModelSpec, ReadsSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from sightline.train.gradients import GradientFeatures
    from sightline.types import Group

Images = Literal["keep", "drop", "caption"]
Method = Annotated[
    Literal["transport", "cost", "nearest", "random"],
    typer.Option(help="Calibrated potential; mean transported cost; cost of the nearest target; at random."),
]
ImageDir = Annotated[str | None, typer.Option(help="Folder that relative image paths start from.", show_default=False)]


def select(
    source: Annotated[str, typer.Argument(help="Rows with comparisons to select from.", show_default=False)],
    target: Annotated[str, typer.Option(help="Rows that the selection is for.", show_default=False)],
    reward: Annotated[str, typer.Option(help="Run directory of a reward model, briefly trained.", show_default=False)],
    keep: Annotated[int, typer.Option(min=1, help="How many rows to keep.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="Group file to write.", show_default=False)],
    method: Method = "transport",
    features: Annotated[
        Literal["all", "head"], typer.Option(help="Gradient of all trained parameters, or of the score head alone.")
    ] = "all",
    source_images: Annotated[
        Images | None, typer.Option(help="How pictures of the source are read.", show_default="as trained")
    ] = None,
    target_images: Annotated[
        Images | None, typer.Option(help="How pictures of the target are read.", show_default="as trained")
    ] = None,
    image_dir: ImageDir = None,
    dimension: Annotated[int, typer.Option(min=1, help="Most entries of a feature vector.")] = 2048,
    regularisation: Annotated[float, typer.Option(help="Of the transport, as a fraction of the mean cost.")] = 0.05,
    seed: Annotated[int, typer.Option(help="Of the projection, of target chunks and of random.")] = 0,
    quantization: QuantizationAsTrained = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Compute the features anew.")] = False,
) -> Document:
    """Select the rows of a source set that bring it closest to a target set.

    Features are gradients of the pairwise loss of a reward model; the score is that of optimal
    transport. Writes the kept rows, all scores (OUT.scores.jsonl) and how they were made
    (OUT.settings.json). Features are kept in OUT.features: a stopped command goes on where it was, and
    another --keep or --method costs no gradient.

    Example: `sightline select texts.jsonl --target pictures.jsonl --reward runs/warm_up --keep 5000 -o kept.jsonl`
    """
    from sightline.data.schema import write_groups
    from sightline.data.select import check_selection, lowest, selection_scores, write_scores
    from sightline.rewards.model import fingerprint, reward_model_spec

    check_apart(out, source, target)
    rows = [_rows(path, image_dir, out.parent / "images") for path in (source, target)]
    check_selection(len(rows[0]), len(rows[1]), regularisation, keep)
    made: dict[str, Any] = {"source": source, "target": target, "rows": [len(part) for part in rows], "reward": reward}
    made |= {"weights": fingerprint(reward), "features": features, "dimension": dimension, "seed": seed}
    made |= {"source_images": source_images, "target_images": target_images}
    made |= {} if quantization is None else {"quantization": quantization}
    folder = out.with_name(f"{out.name}.features")
    _check_features(folder, made, overwrite)
    spec = reward_model_spec(reward, quantization)
    read, feature = _features(spec, head_only=features == "head", dimension=dimension, seed=seed)
    vectors = [
        _vectors(folder / f"{name}.f32", _read(part, read, images), None if method == "random" else feature)
        for name, part, images in zip(("source", "target"), rows, (source_images, target_images), strict=True)
    ]
    scores = selection_scores(vectors[0], vectors[1], method, regularisation=regularisation, seed=seed)
    kept = lowest(scores, keep)
    write_groups(out, [rows[0][index] for index in kept])
    write_scores(out.with_name(f"{out.name}.scores.jsonl"), rows[0], scores, kept)
    settings = made | {"method": method, "regularisation": regularisation, "keep": keep, "reads": asdict(read)}
    replace_file(out.with_name(f"{out.name}.settings.json"), json.dumps(settings, indent=2) + "\n")
    say(f"{len(kept)} of {len(rows[0])} rows kept: {out}")
    return {"groups": out, "kept": len(kept), "read": len(rows[0])}


def _rows(path: str, image_dir: str | None, cache_dir: Path) -> list[Group]:
    """The rows of a file; pictures that they hold in memory are written to ``cache_dir``."""
    from sightline.data.load import Account, load_groups

    account = Account(cache_dir=cache_dir)
    groups = load_groups(DataSpec(path=path, image_dir=image_dir), account)
    for note in account.report.notes:
        say(note)
    return groups


def _features(spec: ModelSpec, *, head_only: bool, dimension: int, seed: int) -> tuple[ReadsSpec, GradientFeatures]:
    """How the reward model reads, and what gives the vector of a group."""
    import torch

    from sightline.algorithms.reward_model import RewardModel
    from sightline.models.load import load_policy
    from sightline.train.gradients import GradientFeatures

    policy = load_policy(spec, heads=frozenset({"reward"})).to("cuda" if torch.cuda.is_available() else "cpu")
    assert policy.score_head is not None
    feature = GradientFeatures(
        policy, RewardModel(), layout=spec.layout, head_only=head_only, dimension=dimension, seed=seed
    )
    return policy.score_head.settings.reads, feature


def _read(groups: Sequence[Group], reads: ReadsSpec, images: Images | None) -> list[Group]:
    from sightline.data.augment import Reader

    read = Reader(reads if images is None else replace(reads, images=images))
    return [read(group) for group in groups]


def _vectors(path: Path, groups: Sequence[Group], feature: GradientFeatures | None) -> Tensor:
    """[n,d]; d = 0 without a feature, for who draws at random."""
    import torch

    from sightline.train.gradients import kept_features

    if feature is None:
        return torch.empty(len(groups), 0)
    with Progress(f"gradients of the {path.stem}", len(groups)) as bar:
        return kept_features(path, groups, feature, feature.dimension, bar.update)


def _check_features(folder: Path, made: dict[str, Any], overwrite: bool) -> None:
    """Whether features that are there are those of this command."""
    settings = folder / "settings.json"
    if overwrite:
        for path in (settings, folder / "source.f32", folder / "target.f32"):
            path.unlink(missing_ok=True)
    if settings.exists():
        there = read_settings(settings)
        changes = "; ".join(
            f"{key}: {there.get(key)} there, {made[key]} here" for key in made if there.get(key) != made[key]
        )
        if changes:
            remedy = "Choose another --out, or pass --overwrite."
            raise CheckpointError(f"{folder} holds features made with other settings ({changes}). {remedy}")
    replace_file(settings, json.dumps(made, indent=2) + "\n")

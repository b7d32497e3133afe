"""From ``online.negatives`` of a recipe to what makes the pictures."""

from __future__ import annotations

from pathlib import Path

from sightline.evaluation.judge import load_judge
from sightline.evaluation.rubric import load_rubric
from sightline.negatives.describe import Describer
from sightline.negatives.drawn import DrawnScenes
from sightline.negatives.gate import load_gate
from sightline.negatives.generated import Generated, Painting
from sightline.negatives.image_service import ImageService
from sightline.negatives.painting import Gallery, Painter
from sightline.negatives.pairs import Maker
from sightline.recipes.negatives import DescribeSpec, GeneratedSpec, PaintSpec


def build_generated(spec: GeneratedSpec, *, folder: Path, seed: int) -> Generated:
    """What a recipe asks for; a pipeline or a model that it names is loaded here.

    Args:
        spec: of the recipe.
        folder: where pictures and replies are kept, unless the recipe says otherwise.
        seed: of the run.

    Raises:
        MissingExtra: diffusers is not installed.
        RecipeError, CheckpointError, DataError: pipeline, judge or template cannot be used.
    """
    maker: Maker = DrawnScenes(folder=folder) if spec.kind == "scenes" else _painting(spec, folder)
    return Generated(spec=spec, maker=maker, seed=seed)


def _painting(spec: GeneratedSpec, folder: Path) -> Painting:
    assert spec.describe is not None and spec.paint is not None, "refused before (GeneratedSpec)"
    pictures = folder if spec.paint.cache is None else Path(spec.paint.cache)
    return Painting(
        spec=spec,
        describer=_describer(spec.describe, spec.kind, folder),
        gallery=Gallery(painter=_painter(spec.paint, spec.kind, pictures), folder=pictures),
        gate=None if spec.gate is None else load_gate(spec.gate, folder / "verdicts"),
    )


def _describer(spec: DescribeSpec, kind: str, folder: Path) -> Describer:
    cache = folder / "descriptions" if spec.cache is None else Path(spec.cache)
    name = "negative_edit" if kind == "edit" else "negative_describe"
    judge = load_judge(spec.judge, spec.options, cache=cache)
    return Describer(spec=spec, judge=judge, rubric=load_rubric(name, spec.template))


def _painter(spec: PaintSpec, kind: str, folder: Path) -> Painter:
    if spec.path is None:
        return ImageService(spec=spec, kind=kind, folder=folder / "service")
    from sightline.negatives.diffusion import diffusion

    return diffusion(spec, kind)

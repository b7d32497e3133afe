"""``sightline check engine``: whether what samples the answers is what is trained."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sightline.cli.console import out, say
from sightline.cli.json_result import Document, Ended, error_document
from sightline.cli.train import Overrides, RecipeFile
from sightline.errors import RecipeError, VerificationError
from sightline.recipes.engine import EngineSpec
from sightline.recipes.engine_conflicts import url_faults
from sightline.recipes.load import load_recipe
from sightline.recipes.schema import DataSpec, Recipe, SamplingSpec

if TYPE_CHECKING:
    from sightline.rollouts.check import EngineCheck
    from sightline.rollouts.engine import CheckedEngine

PATIENCE = 10.0
"""Most seconds that a person waits for a server with ``--url``."""

app = typer.Typer(
    no_args_is_help=True,
    help="Check that what samples the answers is what is trained (for rows: `sightline data check`).",
    rich_markup_mode="markdown",
)


@app.command(name="engine")
def engine(
    recipe: RecipeFile,
    overrides: Overrides = None,
    url: Annotated[
        list[str] | None,
        typer.Option(help="A vLLM server as it is, in place of the recipe's engine. May be repeated."),
    ] = None,
) -> Document:
    """Sample 8 answers with the engine of a recipe and score them again in the trainer.

    Prints whether both read the prompts in the same tokens, pictures in the same places, and how far their
    log-probabilities are apart. Exit code 1 where that is more than `online.engine.max_kl` (0.015 nats per token).
    An online run does this by itself before its first step.

    With `--url` nothing is sent to the server: it must serve the model of the recipe as training finds it.

    Example: `sightline check engine recipes/dpo_online_scenes.yaml --url http://127.0.0.1:8000`
    """
    resolved = load_recipe(recipe, overrides or ())
    online = resolved.online
    spec = EngineSpec() if online is None else online.engine
    if url:
        for _, fault in url_faults(url):
            raise RecipeError(f"--url: {fault}")
        patience = min(spec.patience, PATIENCE)
        spec = dataclasses.replace(spec, name="vllm", urls=tuple(url), patience=patience)
    found = _check(resolved, spec, served=bool(url))
    document = {"agrees": True, "max_kl": spec.max_kl, "found": found}
    for line in found.lines():
        out.print(line, markup=False, highlight=False, soft_wrap=True)
    try:
        found.refuse(spec.max_kl)
    except VerificationError as error:
        say(str(error).partition("\n")[0])
        say(str(error).rpartition("\n")[2])
        raise Ended({**document, "agrees": False, **error_document(error)}, code=1) from None
    return document


def _prompts(recipe: Recipe) -> DataSpec:
    """Those of an online run; of another the rows of its first source."""
    if recipe.online is not None:
        return recipe.online.prompts
    assert recipe.data is not None
    rows = recipe.data.train[0]
    return DataSpec(path=rows.path, image_dir=rows.image_dir, limit=rows.limit)


def _check(recipe: Recipe, spec: EngineSpec, *, served: bool) -> EngineCheck:
    import torch

    from sightline.data.load import Account, load_prompts
    from sightline.data.render import Renderer
    from sightline.models.limits import Limits
    from sightline.models.load import hide_loading_bars, load_policy
    from sightline.rollouts.check import check_engine
    from sightline.rollouts.vllm import VLLMEngine
    from sightline.rollouts.vllm_sync import Alone, NoSync
    from sightline.train.engine import build_engine, score_batch
    from sightline.train.run_folder import RunDirectory
    from sightline.train.worker import in_precision, placed

    hide_loading_bars()
    run = RunDirectory(path=Path(recipe.output_dir))
    prompts = load_prompts(_prompts(recipe), Account(cache_dir=run.path / "images"))
    if not prompts:
        raise RecipeError(f"{recipe.name}: found no prompts, expected one at least. Correct online.prompts.")
    policy = placed(load_policy(recipe.model), recipe, "cuda" if torch.cuda.is_available() else "cpu")
    renderer = Renderer(policy.processor, policy.family, limits=Limits.of(policy.config))
    if served:
        asked: CheckedEngine = VLLMEngine(policy, renderer, spec, NoSync())
    else:
        asked = build_engine(spec, recipe, policy, renderer, folder=run.rollout_adapters, ranks=Alone())
    asked.update(0)
    with in_precision(recipe, policy):
        return check_engine(
            asked,
            renderer,
            prompts,
            SamplingSpec() if recipe.online is None else recipe.online.sampling,
            name=", ".join(spec.urls) or spec.name,
            score=lambda groups: score_batch(policy, groups, recipe.model.layout),
        )

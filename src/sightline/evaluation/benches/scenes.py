"""The benchmark ``scenes``: held-out drawings, one caption and some yes/no questions about each."""

from __future__ import annotations

from pathlib import Path

from sightline.recipes.schema import SamplingSpec
from sightline.rollouts.engine import Progress, RolloutEngine
from sightline.scenes.world import Scenes
from sightline.types import Group


def held_out_prompts(world: Scenes, scenes: int, directory: str | Path, *, questions: int = 4) -> list[Group]:
    """One caption prompt and up to ``questions`` presence questions for each of ``scenes`` held-out drawings.

    Args:
        world: Draws them; the same seed draws the same.
        scenes: How many drawings.
        directory: Where the pictures are written.
        questions: Most presence questions about each.
    """
    captions = world.prompts("held_out", scenes, directory, kind="caption")
    presence = world.prompts("held_out", scenes, directory, kind="presence", per_scene=questions)
    return [*captions, *(presence if questions else ())]


def answer_greedily(
    engine: RolloutEngine,
    prompts: list[Group],
    *,
    max_new_tokens: int = 64,
    batch_size: int = 32,
    on_progress: Progress | None = None,
) -> list[Group]:
    """One answer to each prompt by greedy decoding: no randomness enters the figures."""
    greedy = SamplingSpec(n=1, temperature=0.0, max_new_tokens=max_new_tokens, batch_size=batch_size)
    return engine.generate(prompts, greedy, seed=0, on_progress=on_progress)

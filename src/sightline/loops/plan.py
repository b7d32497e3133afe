"""What a loop will do, and what it has done, in lines for people."""

from __future__ import annotations

from collections.abc import Sequence

from sightline.loops.state import State
from sightline.recipes.loop import LoopRecipe


def plan_lines(loop: LoopRecipe, state: State, stages: Sequence[str], prompts: int) -> list[str]:
    """The plan before the first stage.

    Args:
        loop: the recipe.
        state: what is done.
        stages: names of those of a round.
        prompts: how many there are.
    """
    asked = prompts if loop.prompts_per_round is None else loop.prompts_per_round
    of = "" if asked == prompts else f" of {prompts:,}"
    lines = [
        f"{loop.name}: {loop.rounds} rounds of {' > '.join(stages)}, from {loop.model.path}, in {loop.output_dir}",
        f"each round: {asked:,}{of} prompts, {loop.method.name}, then {loop.algorithm['name']}",
    ]
    if loop.exam is not None:
        names = ", ".join(bench.bench for bench in loop.exam.benches)
        stop = loop.stop.patience
        until = (
            "" if stop is None else f"; ends after {stop} rounds without a gain of more than {loop.stop.least_gain:g}"
        )
        lines.append(f"exam: {names}; the best round is that of the best {loop.exam.best}{until}")
    done = [name for name, entry in state.entries.items() if entry.status == "done"]
    if done:
        lines.append(f"{len(done)} stages are there already, the last {done[-1]}; what changed is done again")
    return lines

"""What an answer about a scene is worth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sightline.errors import DataError
from sightline.scenes.grader import grade_answer, grade_caption
from sightline.scenes.scene import Scene
from sightline.types import Group, Prompt, Response


@dataclass(frozen=True, kw_only=True)
class ScenesReward:
    """Scores answers about scenes against the facts in ``Prompt.facts``.

    A caption earns ``told`` for each object that is there, and loses for each mention of one that is not. A
    question is worth ``right`` or ``-right``; an answer that cannot be read as one is wrong.

    Example:
        >>> ScenesReward(hallucinated=-3.0).told
        1.0
    """

    told: float = 1.0
    """For each object of the scene that a caption tells."""
    hallucinated: float = -2.0
    """For each mention of a shape that is not there."""
    miscoloured: float = -0.5
    """For each object told in a colour that it does not have."""
    repeated: float = -1.0
    """For each mention of a shape beyond as many as are there."""
    unfinished: float = -1.0
    """For an answer that was cut at the limit."""
    right: float = 1.0
    """For a right answer to a question; a wrong one gets its negative."""

    def reward(self, group: Group) -> Group:
        """The group with ``reward`` and its named parts in ``rewards`` on every response.

        A response whose finish reason is ``error`` is no answer: its reward stays None.

        Raises:
            DataError: A prompt was not made by the world: its facts are missing.
        """
        return replace(group, responses=tuple(self._rewarded(group, response) for response in group.responses))

    def _rewarded(self, group: Group, response: Response) -> Response:
        if response.finish_reason == "error":
            return replace(response, reward=None, rewards={})
        parts = self._parts(group.prompts[response.prompt], response.text)
        # the same parts for every answer: means and deviations of a part are over all of them
        parts["unfinished"] = self.unfinished if response.finish_reason == "length" else 0.0
        return replace(response, reward=sum(parts.values()), rewards=parts)

    def _parts(self, prompt: Prompt, text: str) -> dict[str, float]:
        facts = scene_facts(prompt)
        if facts["kind"] != "caption":
            return {"answer": self.right if grade_answer(text, facts) else -self.right}
        grade = grade_caption(text, Scene.from_facts(facts["scene"]), facts["tempting"])
        return {
            "told": self.told * grade.objects,
            "hallucinated": self.hallucinated * len(grade.hallucinated),
            "miscoloured": self.miscoloured * len(grade.miscoloured),
            "repeated": self.repeated * len(grade.repeated),
        }


def scene_facts(prompt: Prompt) -> Mapping[str, Any]:
    """The facts that the world wrote beside a prompt.

    Raises:
        DataError: They are missing.
    """
    missing = [key for key in ("scene", "kind", "truth", "tempting") if key not in prompt.facts]
    if missing:
        raise DataError(
            f"prompt {prompt.id!r} has no {', '.join(missing)} in its facts",
            remedy="Only prompts made by sightline.scenes can be scored against a scene",
        )
    return prompt.facts

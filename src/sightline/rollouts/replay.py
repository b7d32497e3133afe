"""Answers from disk in the place of sampled ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from sightline.errors import DataError
from sightline.types import Group


class Replay:
    """Groups that an earlier run sampled and scored, found again by prompt and policy version.

    >>> Replay(read_groups("runs/grpo/samples.jsonl"), source="samples.jsonl")  # doctest: +SKIP
    """

    def __init__(self, groups: Iterable[Group], *, source: str) -> None:
        """
        Args:
            groups: in the order in which they were sampled.
            source: their file, for messages.

        Raises:
            DataError: no group at all, or one with an answer without its tokens.
        """
        self._of_version: dict[tuple[str, int], list[Group]] = defaultdict(list)
        self._of_prompt: dict[str, list[Group]] = defaultdict(list)
        self._versions: set[int] = set()
        for group in groups:
            if any(response.tokens is None for response in group.responses):
                raise DataError(
                    f"group {group.id!r} has an answer without tokens, and they are trained as they were sampled",
                    source=group.source or source,
                    remedy="Give the samples.jsonl of a run, or sample the answers (sightline sample)",
                )
            version = _version(group)
            self._of_prompt[group.id].append(group)
            if version is not None:
                self._of_version[group.id, version].append(group)
                self._versions.add(version)
        if not self._of_prompt:
            raise DataError("there are no samples to replay", source=source, remedy="Name a file that holds some")

    def answers(self, prompts: Sequence[Group], *, version: int, attempt: int, epoch: int) -> list[Group | None]:
        """The groups of some prompts with their answers and rewards; None: there are none.

        Args:
            prompts: one prompt each.
            version: of the policy that would sample now.
            attempt: how often this round was sampled before.
            epoch: how often each prompt was trained before.
        """
        found: list[Group | None] = []
        for prompt in prompts:
            known = version in self._versions
            same = self._of_version.get((prompt.id, version), []) if known else self._of_prompt.get(prompt.id, [])
            place = attempt if known else epoch
            one = same[min(place, len(same) - 1)] if same else None
            found.append(None if one is None else replace(prompt, responses=one.responses, edges=()))
        return found


def _version(group: Group) -> int | None:
    return next((response.policy_version for response in group.responses), None)

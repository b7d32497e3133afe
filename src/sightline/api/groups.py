"""Groups in Python: ``read_rows``, ``read_groups``, ``write_groups``, ``score``, ``pairs``."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

from sightline.api.given import check_word, groups_of, path_of, path_to_write
from sightline.data.load import Account, groups_from_records, load_groups, load_prompts
from sightline.data.memory import Rows, records_of
from sightline.data.schema import read_groups as groups_of_file
from sightline.data.schema import write_groups as write_file
from sightline.data.store import default_folder
from sightline.data.validate import Checks
from sightline.errors import DataError, RecipeError
from sightline.recipes.preferences import SelectionSpec
from sightline.recipes.schema import DataSpec
from sightline.relations.scores import only_compared
from sightline.relations.selection import check_pairing, check_scored, relation_of
from sightline.rewards.base import Reward, scored_or_stopped
from sightline.rewards.build import check_prompts, check_unread, named_reward
from sightline.types import Group

_log = logging.getLogger(__name__)
Relation = Literal["best_worst", "ranked", "length_balanced", "ovip"]
_MOST_SHOWN = 8
"""Groups that a notebook shows."""


class Groups(list[Group]):
    """Groups in a list that a notebook shows with their pictures."""

    def __repr__(self) -> str:
        answers, edges = sum(len(group.responses) for group in self), sum(len(group.edges) for group in self)
        first = "".join(f"\n  {group!r}" for group in self[:_MOST_SHOWN])
        rest = f"\n  ... {len(self) - _MOST_SHOWN} more" if len(self) > _MOST_SHOWN else ""
        return f"{len(self)} groups, {answers} answers, {edges} comparisons{':' if self else ''}{first}{rest}"

    def _repr_html_(self) -> str:
        rest = f"<p>... {len(self) - _MOST_SHOWN} more groups</p>" if len(self) > _MOST_SHOWN else ""
        return "<hr>".join(group._repr_html_() for group in self[:_MOST_SHOWN]) + rest


def pictures_folder() -> Path:
    """Where pictures that were given in memory are kept, by their content, when no run has a folder for them:
    ``pictures`` in the cache folder (``SIGHTLINE_CACHE``, or ``~/.cache/sightline``)."""
    return default_folder() / "pictures"


def read_rows(
    rows: Rows | str | Path,
    *,
    spec: DataSpec | None = None,
    prompts_only: bool = False,
    on_bad_row: Literal["error", "skip"] = "error",
) -> Groups:
    """Rows of any layout as Groups, checked as before a training.

    Args:
        rows: a file, a glob, a folder or a datasets name; or rows in memory (a list of dictionaries or Groups, a
            ``datasets.Dataset``), whose relative paths of pictures start from the working directory. Pictures in
            memory are written to :func:`pictures_folder`.
        spec: how they are read (format, columns, relation, limit); its ``path`` is not. None: as they show themselves.
        prompts_only: leave out answers, which the rows then may lack.
        on_bad_row: ``skip``: leave bad rows out.

    Raises:
        DataError: a bad row, with its place and what to do; or no row that can be used.
        RecipeError: the layout of the rows is not recognised.
    """
    given = spec or DataSpec(path="")
    where = str(rows) if isinstance(rows, str | Path) else "rows"
    account = Account(
        checks=Checks(answers=not prompts_only),
        cache_dir=pictures_folder(),
        on_bad_row=on_bad_row,
        prompts_only=prompts_only,
    )
    if isinstance(rows, str | Path):
        load = load_prompts if prompts_only else load_groups
        return Groups(load(replace(given, path=where), account))
    placed = replace(given, path=where, image_dir=given.image_dir or ".")
    return Groups(groups_from_records(records_of(rows, where), placed, account))


def read_groups(path: str | Path) -> Groups:
    """The Groups of a file that Sightline wrote; a last line that is being written is passed over.

    Raises:
        DataError: a line is no Group; names file, line and key.
        RecipeError: ``path`` is no path.
    """
    return Groups(groups_of_file(path_of(path, "path"), growing=True))


def write_groups(path: str | Path, groups: Iterable[Group]) -> int:
    """Writes a Group file as a whole, one line each; returns how many. Pictures stay where they are.

    Raises:
        DataError: they are no Groups, or cannot be written.
        RecipeError: ``path`` is no path, or a folder.
    """
    return write_file(path_to_write(path, "path"), groups_of(groups))


def score(
    groups: Sequence[Group],
    reward: str | Path | Mapping[str, float] | Reward,
    *,
    failed: Literal["stop", "drop"] = "stop",
    missing_facts: Literal["error", "leave_out"] | None = None,
    quantization: Literal["none", "nf4", "int8"] | None = None,
    batch_tokens: int = 8192,
) -> Groups:
    """Gives every answer its reward: ``Response.reward``, and its named parts in ``Response.rewards``.

    Args:
        groups: with answers.
        reward: ``scenes``; the run directory of a reward model; ``package.module:Name``; terms and their weights
            (``{"scenes": 1.0, "repetition": 0.5}``); a YAML file of terms; or an object with ``reward(group)``.
        failed: what becomes of an answer whose reward fails for good: an error, or no reward. Never a reward of 0.
        missing_facts: of a reward model that reads facts: what to do where they are missing; None: as trained.
        quantization: how a reward model is held; None: as trained.
        batch_tokens: of a reward model: most tokens of one forward pass. Changes no score.

    Raises:
        DataError: no group has an answer, or one lacks what the reward needs.
        RecipeError, CheckpointError: there is no such reward, or an option that it does not read.
    """
    check_word(failed, "failed", ("stop", "drop"))
    asked = groups_of(groups)
    if not any(group.responses for group in asked):
        remedy = "Sample answers first: load(model).sample(rows)"
        raise DataError(f"none of {len(asked)} groups has an answer", source="groups", remedy=remedy)
    loaded = {"missing_facts": missing_facts, "quantization": quantization}
    if isinstance(reward, Reward):
        check_unread(loaded, None)
        scorer = reward
    else:
        scorer = _named_reward(reward, batch_tokens, loaded)
    check_prompts(scorer, asked)
    return Groups(scored_or_stopped(scorer, asked, failed=failed, drop='pass failed="drop"'))


def _named_reward(
    reward: str | Path | Mapping[str, float], batch_tokens: int, loaded: Mapping[str, str | None]
) -> Reward:
    if isinstance(reward, Mapping):
        reward = ",".join(f"{name}={weight!r}" for name, weight in reward.items())
    if not isinstance(reward, str | Path):
        raise RecipeError(
            f"the reward is a {type(reward).__name__} without a method reward(group). Give it one that returns the "
            "group with rewards, or name a reward."
        )
    return named_reward(str(reward), loaded, batch_tokens=batch_tokens)


def pairs(
    groups: Sequence[Group],
    *,
    relation: Relation = "best_worst",
    best: bool = False,
    min_gap: float = 0.0,
    selection: SelectionSpec | None = None,
    keep_all: bool = False,
) -> Groups:
    """Says which of the scored answers are preferred over which; groups without a pair are left out. Or keeps the best
    answer of each.

    Args:
        groups: every answer with a reward, or with the reason why it has none.
        relation: best over worst; every higher over every lower reward; as often a longer over a shorter answer as
            the other way round; OViP's rule.
        best: no pairs: the best answer of each group alone, to train by SFT (best of n).
        min_gap: least difference of reward for a pair, with ``best`` between best and worst; not of ``ovip``.
        selection: of ``ovip``; None: its published values, for scores from 0 to 10.
        keep_all: keep answers that are in no pair.

    Raises:
        DataError: an answer without a reward, or no pair at all.
        RecipeError: options that contradict each other, or that nothing would read.
    """
    of_ovip = [] if selection is None else ["selection"]
    check_pairing(relation, best=best, min_gap=min_gap, keep_all=keep_all, of_ovip=of_ovip)
    check_word(relation, "relation", get_args(Relation))
    scored = groups_of(groups)
    if failed := check_scored(scored, "groups"):
        _log.warning("%s answers got no reward and are left out (first: %s)", len(failed), failed[0])
    compare = relation_of("best" if best else relation, min_gap, selection)
    related = [compare(group) for group in scored]
    kept = [group for group in related if (group.responses if best else group.edges)]
    if not kept:
        remedy = "Lower min_gap, or sample more answers" if min_gap else "Sample more answers"
        if relation == "ovip":
            remedy = "Bring selection to the scale of the rewards, or sample more answers"
        found = f"no {'answer' if best else 'pair'} among {len(related)} groups"
        raise DataError(found, source="groups", remedy=remedy)
    return Groups(group if keep_all or best else only_compared(group) for group in kept)

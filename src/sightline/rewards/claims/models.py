"""Who writes claims and questions, and who labels them: the model of the round, another one, or a server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sightline.evaluation.judge import JudgeClient, load_judge
from sightline.evaluation.judges.local import check_words, forget_local_judges, own_judge
from sightline.recipes.rlaif_v import SELF
from sightline.recipes.schema import ModelSpec


@contextmanager
def asked(
    model: str, options: Mapping[str, Any], *, own: ModelSpec | None = None, cache: Path | None = None
) -> Iterator[JudgeClient]:
    """A model to ask, loaded at its first request; on leaving its memory is given back.

    Args:
        model: ``self``, or what ``load_judge`` takes.
        options: of ``load_judge``.
        own: what ``self`` stands for.
        cache: folder that keeps the replies of a server.

    Raises:
        DataError: there is no such judge, or one of its options is wrong.
        RecipeError: there is no such model.
    """
    if model == SELF:
        assert own is not None
        yield JudgeClient(own_judge(own))
        return
    try:
        yield load_judge(model, options, cache=cache if is_remote(model) else None)
    finally:
        forget_local_judges()


def check_asked(model: str, options: Mapping[str, Any], *, words: Sequence[str] = ()) -> None:
    """Looks, before it is loaded, whether a model can be asked; of ``self`` nothing is known yet.

    Args:
        model: as of :func:`asked`.
        options: of ``load_judge``.
        words: whose probabilities a local model is to tell, with a picture.

    Raises:
        DataError: there is no such judge, one of its options is wrong, or a record is missing.
        RecipeError: there is no such model, or it cannot tell them.
    """
    if model == SELF:
        return
    load_judge(model, options)
    kind, _, path = model.partition(":")
    if words and kind == "local":
        check_words(path, words)


def is_remote(model: str) -> bool:
    """Whether it is asked over the network."""
    return model.startswith(("openai", "http:", "https:"))


def files_of(model: str) -> list[Path]:
    """What is read of this machine where another model than ``self`` is asked: its folder, or a record."""
    kind, _, rest = model.partition(":")
    return [Path(rest)] if kind in ("local", "replay") else []

"""The few exceptions of Sightline; each is also one of the standard library's.

A message to a user has three parts: what was found, what was expected, what to change.
"""

from __future__ import annotations

from typing import Any


def shortened(text: str, most: int) -> str:
    """A text of at most ``most`` characters: what is too much goes out of its middle."""
    if len(text) <= most:
        return text
    half = (most - 5) // 2
    return f"{text[:half]} ... {text[-half:]}"


class SightlineError(Exception):
    """Base of every error that Sightline raises on purpose. Goes from process to process as it is: pickle alone would
    call its class with the finished message."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (type(self), self.args, vars(self))


def _again(kind: type[SightlineError], arguments: tuple[Any, ...], fields: dict[str, Any]) -> SightlineError:
    error = kind.__new__(kind, *arguments)
    vars(error).update(fields)
    return error


_FOUND, _REMEDY = 900, 500
"""Most characters of what was found and of what to do: rows hold whole pictures as text, and a message stays on one
screen."""


class DataError(SightlineError, ValueError):
    """A row of user data is wrong. Names the file, the row and the remedy."""

    def __init__(self, found: str, *, source: str = "", remedy: str = "") -> None:
        found, source, remedy = shortened(found, _FOUND), shortened(source, _REMEDY), shortened(remedy, _REMEDY)
        self.found, self.source, self.remedy = found, source, remedy
        text = f"{source}: {found}" if source else found
        super().__init__(f"{text}. {remedy}" if remedy else text)


class NothingToLearn(DataError):
    """Answers were sampled and scored, and none of them is preferred over another one."""

    def __init__(self, found: str, *, why: str, source: str = "", remedy: str = "") -> None:
        super().__init__(f"{found} ({why})", source=source, remedy=remedy)
        self.why = why


class ServiceError(DataError):
    """A service does not answer. Nothing is wrong with the data: the same request may go well later."""


class RecipeError(SightlineError, ValueError):
    """A recipe, an override or a combination of options cannot be honoured."""


class UnsupportedError(SightlineError, TypeError):
    """What was asked for is not possible with this model family, layout or back end."""


class CheckpointError(SightlineError, RuntimeError):
    """A checkpoint or a run directory cannot be used."""


class VerificationError(SightlineError, ArithmeticError):
    """What was written is not the model that was to be written."""


class MissingExtra(SightlineError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed. Run: pip install 'sightline[{extra}]'")


class DivergenceError(SightlineError, ArithmeticError):
    """The loss, a gradient or what a model says became infinite or not a number."""


class EngineError(SightlineError, ConnectionError):
    """A rollout engine refuses what it is asked, or is not there for longer than the run may wait."""

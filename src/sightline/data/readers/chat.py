"""Turns of a conversation, and where its pictures stand, from the ways that rows write them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from sightline.data.readers.rows import Reason, RowError
from sightline.types import Message

PLACEHOLDER = "<image>"
"""Stands for one picture inside a string."""

_LIKE = re.compile(r"<\|?(?:image|img|picture|image_?pad|imagehere)[ _-]?\d*\|?>", re.IGNORECASE)
"""How others write the place of a picture."""

Role = Literal["system", "user", "assistant"]

_ROLES: dict[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}
_PART_KEYS: Mapping[str, tuple[str, ...]] = {
    "text": ("text", "value"),
    "image": ("image", "value", "path", "url"),
    "image_url": ("image_url", "value", "path", "url"),
}
"""Keys that hold what a typed part is, the first that is there."""
_IGNORED_WHEN_EMPTY = ("name", "tool_calls", "tool_call_id", "thinking", "reasoning_content")


@dataclass(frozen=True)
class Picture:
    """The place of a picture in a turn; ``value`` is the picture where the turn itself carries it."""

    value: Any = None


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One message: texts and pictures in reading order."""

    role: Role
    parts: tuple[str | Picture, ...]
    weight: int | None = None
    """0: never train this assistant turn; 1 or None: as the recipe says."""

    @property
    def text(self) -> str:
        """Its texts in one; a picture adds nothing."""
        return "".join(part for part in self.parts if isinstance(part, str))

    @property
    def has_picture(self) -> bool:
        return any(isinstance(part, Picture) for part in self.parts)


def parse_turns(raw: Any, column: str) -> list[Turn]:
    """Turns from a list of ``{role, content}`` or ``{from, value}`` messages.

    A string holds ``<image>`` for each picture, or none. A list holds typed parts: ``{"type": "text",
    "text": ...}`` and ``{"type": "image"}`` or ``{"type": "image_url"}``; ``value`` may replace the
    key that is named after the type.

    Raises:
        RowError: Not such a list, an unknown role, or a key that would have to be dropped.
    """
    if not isinstance(raw, Sequence) or isinstance(raw, str | bytes):
        raise RowError("malformed", f"'{column}' is {raw!r:.60}, expected a text or a list of messages")
    return [parse_turn(message, f"{column}[{i}]") for i, message in enumerate(raw)]


def parse_turn(message: Any, where: str) -> Turn:
    """One turn from one message."""
    if not isinstance(message, Mapping):
        raise RowError("malformed", f"'{where}' is a {type(message).__name__}, expected a message")
    keys = ("from", "value") if message.get("from") is not None else ("role", "content")
    for key, value in message.items():
        # tables give every message the keys of all, null where it has none
        if key not in (*keys, "weight") and value is not None and not (key in _IGNORED_WHEN_EMPTY and not value):
            remedy = f"A message has {keys[0]}, {keys[1]} and at most weight; remove the key"
            raise RowError("malformed", f"unknown key '{where}.{key}'", remedy=remedy)
    role = _ROLES.get(str(message.get(keys[0])))
    if role is None:
        remedy = f"Use one of {', '.join(_ROLES)}"
        raise RowError("unknown role", f"'{where}.{keys[0]}' is {message.get(keys[0])!r}", remedy=remedy)
    weight = message.get("weight")
    if weight not in (None, 0, 1):
        raise RowError("malformed", f"'{where}.weight' is {weight!r}, expected 0 or 1")
    return Turn(role=role, parts=_parts(message.get(keys[1]), f"{where}.{keys[1]}"), weight=weight)


def user_turn(text: str) -> Turn:
    """A user turn from a plain string."""
    return Turn(role="user", parts=_split(text))


def place_pictures(
    turns: Sequence[Turn], pictures: Sequence[Any], *, together: bool = False
) -> tuple[list[Turn], list[Any]]:
    """Match the pictures of a row with their places in the conversation.

    Where no turn has a place, all pictures go before the text of the first user turn.

    Args:
        turns: The conversation.
        pictures: Pictures that the row gives beside it.
        together: A single place stands for all pictures of the row (comma-separated ``image``).

    Returns:
        The turns, and the pictures in reading order, one per place.

    Raises:
        RowError: The numbers differ, a picture stands outside the user turns, or places are written otherwise.
    """
    placed = list(turns)
    for i, turn in enumerate(placed):
        if turn.has_picture and turn.role != "user":
            remedy = f"Only user turns hold pictures; write {PLACEHOLDER} there"
            raise RowError("placeholders", f"turn {i + 1} ({turn.role}) holds a picture", remedy=remedy)
    places = [part for turn in placed for part in turn.parts if isinstance(part, Picture)]
    carried = [part.value for part in places if part.value is not None]
    if carried:
        if len(carried) != len(places) or pictures:
            found = f"{len(carried)} of {len(places)} pictures are inside the messages and {len(pictures)} beside them"
            raise RowError("placeholders", found, remedy="Give all pictures in one of the two ways")
        return placed, carried
    if not places and pictures:
        if other := next((like[0] for turn in placed if (like := _LIKE.search(turn.text))), None):
            found = f"{len(pictures)} images, and {other!r} in the text, which looks like the place of one and is none"
            raise RowError("placeholders", found, remedy=f"Write {PLACEHOLDER} there, or remove it")
        first = next((i for i, turn in enumerate(placed) if turn.role == "user"), None)
        if first is not None:
            placed[first] = replace(placed[first], parts=(*(Picture() for _ in pictures), *placed[first].parts))
        return placed, list(pictures)
    if together and len(places) == 1 and len(pictures) > 1:
        return [_repeat_place(turn, len(pictures)) for turn in placed], list(pictures)
    if len(places) != len(pictures):
        raise RowError(
            "placeholders",
            f"{len(places)} image placeholders and {len(pictures)} images",
            remedy=f"Write one {PLACEHOLDER} for each image, or none: then all images go before the first question",
        )
    return placed, list(pictures)


def check_order(turns: Sequence[Turn]) -> None:
    """After any system turns, user and assistant take turns, the user first.

    Raises:
        RowError: They do not, or a user turn is empty.
    """
    talk = list(itertools.dropwhile(lambda turn: turn.role == "system", turns))
    if not talk:
        raise RowError("empty prompt", "the conversation has no user turn", remedy="Add what the model is asked")
    for i, turn in enumerate(talk):
        expected = "assistant" if i % 2 else "user"
        if turn.role != expected:
            raise RowError(
                "malformed",
                f"turn {i + 1} is by {turn.role}, expected {expected}",
                remedy="System turns come first, then user and assistant take turns, the user first",
            )
        if not turn.text.strip() and not turn.has_picture:
            reason: Reason = "empty prompt" if turn.role == "user" else "empty answer"
            raise RowError(reason, f"turn {i + 1} ({turn.role}) is empty", remedy="Fill it or leave the row out")


def messages_of(turns: Sequence[Turn], *, train_history: bool = False) -> tuple[Message, ...]:
    """The turns as messages of a Prompt.

    Args:
        turns: The conversation up to the last user turn.
        train_history: Assistant turns get ``"weight": 1``, but for those that say ``"weight": 0``.
    """
    messages: list[Message] = []
    for turn in turns:
        content = [
            {"type": "image"} if isinstance(part, Picture) else {"type": "text", "text": part} for part in turn.parts
        ]
        message: dict[str, Any] = {"role": turn.role, "content": content}
        if train_history and turn.role == "assistant" and turn.weight != 0:
            message["weight"] = 1
        messages.append(message)
    return tuple(messages)


def _parts(content: Any, where: str) -> tuple[str | Picture, ...]:
    if isinstance(content, str):
        return _split(content)
    if content is None or not isinstance(content, Sequence):
        raise RowError("malformed", f"'{where}' is {content!r:.60}, expected a string or a list of parts")
    parts = (_typed_part(part, f"{where}[{i}]") for i, part in enumerate(content))
    return tuple(part for part in parts if part != "")


def _typed_part(part: Any, where: str) -> str | Picture:
    kind = part.get("type") if isinstance(part, Mapping) else None
    _check_part(part, kind, where)
    if kind == "text":
        text = part.get("text") if part.get("text") is not None else part.get("value")
        if not isinstance(text, str):
            raise RowError("malformed", f"'{where}' is a text part without text: {part!r:.80}")
        return text
    if kind in ("image", "image_url"):
        value = next((part[key] for key in _PART_KEYS[kind] if part.get(key) is not None), None)
        return Picture(value["url"] if kind == "image_url" and isinstance(value, Mapping) and "url" in value else value)
    found = f"'{where}' is {part!r:.80}, expected a part of type text or image"
    raise RowError("malformed", found, remedy="Videos and tools are not read")


def _check_part(part: Any, kind: Any, where: str) -> None:
    """Whether a part says one thing: nothing of it would be passed over.

    Raises:
        RowError: It has another key, or a text or a picture twice.
    """
    known = _PART_KEYS.get(kind, ()) if isinstance(kind, str) else ()
    if not known:
        return
    # tables give every part the keys of all, null or empty where it has none; an index counts pictures or parts
    given = [key for key, value in part.items() if key not in ("type", "index") and value not in (None, "", [], {})]
    if other := [key for key in given if key not in known]:
        found = f"unknown key '{where}.{other[0]}' in a part of type {kind}"
        raise RowError("malformed", found, remedy="Give a text and a picture parts of their own; remove other keys")
    if len(given) > 1:
        raise RowError("malformed", f"'{where}' has {' and '.join(given)}", remedy="Keep one of them")


def _split(text: str) -> tuple[str | Picture, ...]:
    """Text and pictures of a string with placeholders.

    Line breaks between the text and the pictures before or after it are dropped: LLaVA files write
    ``<image>\\n`` and a chat template puts its own. Around a picture amid the text they stay.
    """
    pieces = text.split(PLACEHOLDER)
    filled = [i for i, piece in enumerate(pieces) if piece.strip("\n")]
    first, last = (filled[0], filled[-1]) if filled else (len(pieces), -1)
    parts: list[str | Picture] = []
    for i, piece in enumerate(pieces):
        if i > 0:
            parts.append(Picture())
        if 0 < i <= first:
            piece = piece.lstrip("\n")
        if last <= i < len(pieces) - 1:
            piece = piece.rstrip("\n")
        if piece:
            parts.append(piece)
    return tuple(parts)


def _repeat_place(turn: Turn, times: int) -> Turn:
    parts: list[str | Picture] = []
    for part in turn.parts:
        parts.extend([part] * (times if isinstance(part, Picture) else 1))
    return replace(turn, parts=tuple(parts))

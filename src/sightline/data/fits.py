"""Tells of most rows that they are short enough without tokenizing them, which takes ten times as long as reading them.

A token of a text in ASCII stands for one character at least, so that a text has no more tokens than characters. Where
that says too little, each text is tokenized once, by itself, which leaves room for half as many tokens again. What the
chat template writes around texts is learnt once for each shape of a conversation (its roles, its pictures, what is
trained), from a conversation of marks that the renderer takes; a row of that shape is then written once, and compared
with what is expected. Whatever is not clear is left to :meth:`Renderer.num_tokens`, which also says what is wrong.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from sightline.data.render import Renderer
from sightline.data.template import text_of
from sightline.errors import DataError
from sightline.types import Group, Message, Prompt

_MARK = "sightlinemark"
_KEPT = 4096
"""Shapes that are remembered."""
_GROWTH = {"NFC": 3, "NFD": 3, "NFKC": 11, "NFKD": 11}
"""Most bytes of UTF-8 that a byte becomes (Unicode FAQ on normalisation). ASCII stays as it is."""
_JOINED = 1.5
"""Tokens of texts in a conversation, against those of each by itself: beside a border words may be cut otherwise."""
_PLAIN = frozenset({"Prepend", "Replace", "Lowercase", "Strip", "StripAccents", "Sequence", *_GROWTH})
"""Normalizers that make no longer text of ASCII, but for what is written before it."""


class _Shape(NamedTuple):
    """What a template writes around the texts of a conversation."""

    pieces: tuple[str, ...]
    """One more than there are texts."""
    pictures: int
    special: int
    """Most tokens beside those of the texts and the pictures."""


class Fits:
    """Whether groups are surely within a length. Thread-safe enough: what is learnt twice is the same."""

    def __init__(self, renderer: Renderer, *, new: int = 0) -> None:
        """
        Args:
            renderer: that would count.
            new: tokens that are still to be sampled behind.
        """
        self._most = renderer.limits.context - new
        self._new = new
        self._renderer, self._template = renderer, renderer.encoder.template
        self._shapes: dict[Any, _Shape | None] = {}
        self._growth = _growth(renderer.tokenizer)

    def __call__(self, group: Group, most: int) -> bool:
        """Whether no response of a group makes more than ``most`` tokens with its prompt, and the group is rendered
        without an error. False: it is not known."""
        if self._growth is None or {response.prompt for response in group.responses} != set(range(len(group.prompts))):
            return False
        most = min(most - self._new, self._most)
        try:
            return all(
                response.tokens is None and self._bound(group.prompts[response.prompt], response.text, most) <= most
                for response in group.responses
            )
        except DataError:
            return False

    def _bound(self, prompt: Prompt, answer: str, most: int) -> float:
        """Most tokens of a prompt and its answer; infinite: they are to be counted."""
        key = _key(prompt.messages)
        if key not in self._shapes:
            if len(self._shapes) >= _KEPT:
                self._shapes.clear()
            self._shapes[key] = self._learnt(prompt.messages)
        shape = self._shapes[key]
        if shape is None or shape.pictures != len(prompt.images) or not answer.strip():
            return math.inf
        texts = [*_texts(prompt.messages), answer]
        said = "\0".join([*map(text_of, prompt.messages), answer])
        beside = shape.special + sum(map(self._renderer.image_tokens, prompt.images))
        bound = float(beside + self._count(said))
        if bound > most:
            bound = beside + _JOINED * self._counted(texts)
        if self._template.control_in(said) is not None:
            return math.inf
        whole = self._template.text(_conversation(prompt.messages, answer), generation=False)
        expected = (_joined(shape.pieces, texts), _joined(shape.pieces, [text.strip() for text in texts]))
        return bound if whole in expected else math.inf

    def _learnt(self, messages: Sequence[Message]) -> _Shape | None:
        """What is written around the texts of conversations like this one; None: it is not the same around all."""
        marks = [f"{_MARK}{place}x" for place in range(len(_texts(messages)) + 1)]
        asked = _with_texts(messages, marks)
        encoder, placeholder = self._renderer.encoder, self._renderer.processor.image_token_id
        pictures = sum(part["type"] == "image" for m in messages for part in m["content"] if not isinstance(part, str))
        if encoder.prompt(asked).ids.count(placeholder) != pictures:
            return None
        encoder.answer(asked, marks[-1])
        left = self._template.text(_conversation(asked, marks[-1]), generation=False)
        pieces: list[str] = []
        for mark in marks:
            before, found, left = left.partition(mark)
            if not found:
                return None
            pieces.append(before)
        pieces.append(left)
        if _MARK in "".join(pieces):
            return None
        # every text may begin with one more, where it is tokenized by itself; ends of text and of turns are tokens
        special = self._count("".join(pieces)) + 4 * (len(marks) + 2)
        return _Shape(tuple(pieces), pictures, special)

    def _counted(self, texts: Sequence[str]) -> int:
        """Tokens of texts, each by itself."""
        backend = self._renderer.tokenizer.backend_tokenizer
        return sum(len(found.ids) for found in backend.encode_batch(list(texts), add_special_tokens=False))

    def _count(self, text: str) -> int:
        """Most tokens of a text."""
        return len(text) if text.isascii() else int(self._growth or 1) * len(text.encode())


def _growth(tokenizer: Any) -> int | None:
    """Most tokens that a byte of a text outside ASCII makes; None: the tokenizer is not known to keep the bound."""
    if not tokenizer.is_fast:
        return None
    normalizer = json.loads(tokenizer.backend_tokenizer.to_str())["normalizer"]
    kinds = _kinds(normalizer)
    if not set(kinds) <= _PLAIN or not all(map(_keeps_length, _replacements(normalizer))):
        return None
    return math.prod(_GROWTH.get(kind, 1) for kind in kinds)


def _kinds(normalizer: Any) -> list[str]:
    if normalizer is None:
        return []
    return [normalizer["type"], *(kind for one in normalizer.get("normalizers", ()) for kind in _kinds(one))]


def _replacements(normalizer: Any) -> list[dict[str, Any]]:
    if normalizer is None:
        return []
    own = [normalizer] if normalizer["type"] == "Replace" else []
    return own + [found for one in normalizer.get("normalizers", ()) for found in _replacements(one)]


def _keeps_length(replacement: dict[str, Any]) -> bool:
    """A blank that becomes one other character, as sentencepiece has it."""
    return replacement["pattern"].get("String") == " " and len(replacement["content"]) == 1


def _key(messages: Sequence[Message]) -> Any:
    return tuple(
        (
            message["role"],
            message.get("weight"),
            None if isinstance(message["content"], str) else tuple(part["type"] for part in message["content"]),
        )
        for message in messages
    )


def _texts(messages: Sequence[Message]) -> list[str]:
    """The texts of messages, part by part."""
    found: list[str] = []
    for message in messages:
        content = message["content"]
        found += [content] if isinstance(content, str) else [part["text"] for part in content if "text" in part]
    return found


def _with_texts(messages: Sequence[Message], texts: Sequence[str]) -> list[dict[str, Any]]:
    left, made = iter(texts), []
    for message in messages:
        content: Any = message["content"]
        if isinstance(content, str):
            content = next(left)
        else:
            content = [{**part, "text": next(left)} if "text" in part else part for part in content]
        made.append({**message, "content": content})
    return made


def _conversation(messages: Sequence[Message], answer: str) -> list[dict[str, Any]]:
    """The whole conversation, without what is ours in it."""
    plain = [{key: value for key, value in message.items() if key != "weight"} for message in messages]
    return [*plain, {"role": "assistant", "content": [{"type": "text", "text": answer}]}]


def _joined(pieces: Sequence[str], texts: Sequence[str]) -> str:
    return pieces[0] + "".join(text + piece for text, piece in zip(texts, pieces[1:], strict=True))

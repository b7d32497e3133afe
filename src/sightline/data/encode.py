"""Chat messages to token ids: template and tokenizer, one id per picture."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from sightline.data.readers.rows import RowError, check_characters
from sightline.data.recent import Recent
from sightline.data.template import ChatTemplate
from sightline.types import Message


class Encoded(NamedTuple):
    """Token ids, one per picture, and the spans [start, end) of assistant turns that are trained."""

    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...] = ()


class ChatEncoder:
    """Encodes prompts and answers with a processor's chat template and tokenizer. Thread-safe.

    Prompt and answer are tokenized together and cut where the prompt ends, so that an answer of the
    data has the ids that the model would have sampled. Where the tokenizer merges across that border,
    the answer is tokenized by itself. Whatever is trained is an answer's text and one token that ends it.
    Recent results are kept: rows come again in every epoch.
    """

    def __init__(
        self, processor: Any, *, around: tuple[str, str] = ("", ""), longest: int = sys.maxsize, keep_ids: int = 2**22
    ) -> None:
        """
        Args:
            processor: transformers processor with a tokenizer and a chat template.
            around: text that the processor writes before and after every picture.
            longest: most ids of a prompt, one per picture. Where spans are trained a conversation is written and
                tokenized again for each of them: one that is too long anyway is refused before that.
            keep_ids: most token ids that are remembered.

        Raises:
            RecipeError: the processor has no usable chat template or no end-of-sequence token.
        """
        self.tokenizer, self._longest = processor.tokenizer, longest
        self.template = ChatTemplate(processor, around=around)
        self._recent: Recent[Encoded] = Recent(keep_ids, lambda encoded: len(encoded.ids) + 16)
        self._texts: Recent[str] = Recent(keep_ids, len)

    @property
    def end_id(self) -> int:
        """The token that ends every answer."""
        return int(self.tokenizer.convert_tokens_to_ids(self.template.end))

    def prompt(self, messages: Sequence[Message]) -> Encoded:
        """Ids of a prompt up to where the answer begins, and the spans of assistant turns of weight 1.

        Raises:
            RowError: a control token in a text, a conversation that the template refuses or rewrites, or a longer
                one than ``longest`` where spans of it are trained.
        """
        return self._recent.get(repr(messages), lambda: self._prompt(messages))

    def answer(self, messages: Sequence[Message], text: str) -> tuple[int, ...]:
        """Ids of an answer to ``messages``, the end of its turn included.

        Raises:
            DataError: an empty answer; otherwise as ``prompt``.
        """
        return self._recent.get((repr(messages), text), lambda: self._answer(messages, text)).ids

    def _prompt(self, messages: Sequence[Message]) -> Encoded:
        self.template.check(messages)
        whole = self._text(messages)
        trained = [i for i, m in enumerate(messages) if m["role"] == "assistant" and m.get("weight")]
        if not trained:
            return Encoded(tuple(self._tokenize(whole, first=True)))
        if (count := len(self._tokenize(whole, first=True))) > self._longest:
            raise too_long(count, self._longest)
        befores = [self.template.text(messages[:index], generation=True) for index in trained]
        ids, written, spans = _Ids(self._tokenize), "", []
        for index, before, following in zip(trained, befores, [*befores[1:], whole], strict=True):
            turn = self.template.turn(messages[:index], messages[index], before, following)
            ids.add(before[len(written) :])
            start = len(ids)
            ids.add(turn.answer + turn.end, end=turn.end)
            spans.append((start, len(ids)))
            written = turn.written
        ids.add(whole[len(written) :])
        return Encoded(tuple(ids.all()), tuple(spans))

    def _answer(self, messages: Sequence[Message], text: str) -> Encoded:
        if not text.strip():
            raise RowError("empty answer", "the answer is empty", remedy="Give it a text, or leave the row out")
        history = tuple({key: value for key, value in message.items() if key != "weight"} for message in messages)
        message = {"role": "assistant", "content": [{"type": "text", "text": text}]}
        start = self.prompt(history).ids
        self.template.check([message])
        before = self._text(history)
        turn = self.template.turn(history, message, before)
        ids = _Ids(self._tokenize, before, start)
        ids.add(turn.answer + turn.end)
        return Encoded(tuple(ids.all()[len(start) :]))

    def _text(self, messages: Sequence[Message]) -> str:
        """What the template writes up to where the answer begins: asked for once by the prompt and once by each of its
        answers."""
        return self._texts.get(repr(messages), lambda: self.template.text(messages, generation=True))

    def _tokenize(self, text: str, *, first: bool) -> list[int]:
        bos = self.tokenizer.bos_token
        special = first and not (bos and text.startswith(bos))
        try:
            ids = list(self.tokenizer(text, add_special_tokens=special).input_ids)
        except (TypeError, UnicodeEncodeError):  # what is no row of a file may hold half of a character
            check_characters({"text": text})
            raise
        # some tokenizers close every text with eos: only an answer ends a turn, and its text says so
        if special and ids and ids[-1] == self.tokenizer.eos_token_id and not text.endswith(self.tokenizer.eos_token):
            ids.pop()
        return ids


def too_long(count: int, most: int) -> RowError:
    """The error of a row of more tokens than it may have."""
    return RowError(
        "too long",
        f"prompt, images and response take {count} tokens or more, and may take {most} (data.max_length, or the "
        "model's context: its max_position_embeddings)",
        remedy="Raise data.max_length where it is less than the context, lower model.image_size, or leave the row out; "
        "nothing is cut",
    )


class _Ids:
    """Token ids of a text that grows. What was fixed stays fixed: where the tokenizer would merge what is added with
    what is there, it is tokenized by itself.

    An end of turn cuts the text for the tokenizer, as every control token does: what is behind it is tokenized with
    the end before it and nothing else, so that a conversation of many turns takes no longer than its length.
    """

    def __init__(self, tokenize: Callable[..., list[int]], text: str = "", ids: Sequence[int] = ()) -> None:
        self._tokenize = tokenize
        self._fixed: list[int] = []
        """Up to the last end of turn."""
        self._end = ""
        self._text, self._ids = text, list(ids)
        """Behind it."""

    def __len__(self) -> int:
        return len(self._fixed) + len(self._ids)

    def all(self) -> list[int]:
        return self._fixed + self._ids

    def add(self, text: str, *, end: str = "") -> None:
        """Adds a text, which closes with ``end`` if that is given: a control token."""
        longer = self._text + text
        whole = self._tokenize(self._end + longer, first=not self._fixed)[bool(self._end) :]
        if whole[: len(self._ids)] != self._ids:
            whole = self._ids + self._tokenize(text, first=False)
        self._text, self._ids = longer, whole
        if end:
            self._fixed, self._end, self._text, self._ids = self._fixed + whole, end, "", []

"""Chat messages to token ids: template and tokenizer, one id per picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sightline.data.readers.rows import RowError
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

    def __init__(self, processor: Any, *, keep_ids: int = 2**22) -> None:
        """
        Args:
            processor: transformers processor with a tokenizer and a chat template.
            keep_ids: most token ids that are remembered.

        Raises:
            RecipeError: the processor has no usable chat template or no end-of-sequence token.
        """
        self.tokenizer = processor.tokenizer
        self.template = ChatTemplate(processor)
        self._recent: Recent[Encoded] = Recent(keep_ids, lambda encoded: len(encoded.ids) + 16)

    @property
    def end_id(self) -> int:
        """The token that ends every answer."""
        return int(self.tokenizer.convert_tokens_to_ids(self.template.end))

    def prompt(self, messages: Sequence[Message]) -> Encoded:
        """Ids of a prompt up to where the answer begins, and the spans of assistant turns of weight 1.

        Raises:
            RowError: a control token in a text, or a conversation that the template refuses or rewrites.
        """
        return self._recent.get(repr(messages), lambda: self._prompt(messages))

    def answer(self, messages: Sequence[Message], text: str) -> tuple[int, ...]:
        """Ids of an answer to ``messages``, the end of its turn included.

        Raises:
            DataError: an empty answer; otherwise as ``prompt``.
        """
        return self._recent.get((repr(messages), text), lambda: self._answer(messages, text)).ids

    def _prompt(self, messages: Sequence[Message]) -> Encoded:
        ids: list[int] = []
        text = written = ""  # with an end behind every trained answer, and as the template writes it
        spans = []
        for index, message in enumerate(messages):
            if message["role"] != "assistant" or not message.get("weight"):
                continue
            turn = self.template.turn(messages[:index], message)
            begin = text + _continued(written, turn.before)
            ids = self._continue(ids, text, begin)
            start = len(ids)
            text, written = begin + turn.answer + turn.end, turn.written
            ids = self._continue(ids, begin, text)
            spans.append((start, len(ids)))
        whole = self.template.text(messages, generation=True)
        ids = self._continue(ids, text, text + _continued(written, whole))
        return Encoded(tuple(ids), tuple(spans))

    def _answer(self, messages: Sequence[Message], text: str) -> Encoded:
        if not text.strip():
            raise RowError("empty answer", "the answer is empty", remedy="Give it a text, or leave the row out")
        history = tuple({key: value for key, value in message.items() if key != "weight"} for message in messages)
        turn = self.template.turn(history, {"role": "assistant", "content": [{"type": "text", "text": text}]})
        start = list(self.prompt(history).ids)
        ids = self._continue(start, turn.before, turn.before + turn.answer + turn.end)[len(start) :]
        return Encoded(tuple(ids))

    def _continue(self, ids: list[int], text: str, longer: str) -> list[int]:
        """Ids of ``longer``, which starts with ``text``, beginning with the ids already fixed for ``text``."""
        whole = self._tokenize(longer, first=True)
        if whole[: len(ids)] == ids:
            return whole
        return ids + self._tokenize(longer[len(text) :], first=False)

    def _tokenize(self, text: str, *, first: bool) -> list[int]:
        bos = self.tokenizer.bos_token
        special = first and not (bos and text.startswith(bos))
        ids = list(self.tokenizer(text, add_special_tokens=special).input_ids)
        # some tokenizers close every text with eos: only an answer ends a turn, and its text says so
        if special and ids and ids[-1] == self.tokenizer.eos_token_id and not text.endswith(self.tokenizer.eos_token):
            ids.pop()
        return ids


def _continued(written: str, longer: str) -> str:
    """What a longer conversation has behind the one that it continues.

    Raises:
        RowError: it does not begin with it.
    """
    if not longer.startswith(written):
        raise RowError(
            "malformed",
            "the chat template writes an earlier answer otherwise once the conversation goes on, so that it cannot "
            "be trained where it stands",
            remedy="Set train_on: last for these rows, or model.chat_template to one that leaves earlier turns alone",
        )
    return longer[len(written) :]

"""Chat messages to token ids: template and tokenizer, one id per picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from jinja2 import TemplateError

from sightline.data.recent import Recent
from sightline.errors import DataError, RecipeError
from sightline.types import Message


class Encoded(NamedTuple):
    """Token ids, one per picture, and the spans [start, end) of assistant turns that are trained."""

    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...] = ()


class ChatEncoder:
    """Encodes prompts and answers with a processor's chat template and tokenizer. Thread-safe.

    Prompt and answer are tokenized together and cut where the prompt ends, so that an answer of the
    data has the ids that the model would have sampled. Where the tokenizer merges across that border,
    the answer is tokenized by itself. Recent results are kept: rows come again in every epoch.
    """

    def __init__(self, processor: Any, *, around: tuple[str, str] = ("", ""), keep_ids: int = 2**22) -> None:
        """
        Args:
            processor: transformers processor with a tokenizer and a chat template.
            around: text that the processor writes before and after every picture.
            keep_ids: most token ids that are remembered.

        Raises:
            RecipeError: the processor has no chat template or no end-of-sequence token.
        """
        self.processor, self.tokenizer, self.around = processor, processor.tokenizer, around
        self.template = processor.chat_template or self.tokenizer.chat_template
        if not self.template:
            raise RecipeError("the processor has no chat template. Set model.chat_template to a Jinja file")
        if self.tokenizer.eos_token_id is None:
            raise RecipeError(
                "the tokenizer has no eos_token: an answer could not end. Set one in its tokenizer_config.json"
            )
        self._recent: Recent[Encoded] = Recent(keep_ids, lambda encoded: len(encoded.ids) + 16)

    def prompt(self, messages: Sequence[Message]) -> Encoded:
        """Ids of a prompt up to where the answer begins, and the spans of assistant turns of weight 1."""
        return self._recent.get(repr(messages), lambda: self._prompt(messages))

    def answer(self, messages: Sequence[Message], text: str) -> tuple[int, ...]:
        """Ids of an answer to ``messages``, the end of its turn included.

        Raises:
            DataError: an empty answer, or one that holds an image placeholder.
        """
        return self._recent.get((repr(messages), text), lambda: self._answer(messages, text)).ids

    def _prompt(self, messages: Sequence[Message]) -> Encoded:
        ids: list[int] = []
        text = ""
        spans = []
        for index, message in enumerate(messages):
            if message["role"] != "assistant" or not message.get("weight"):
                continue
            before = self._text(messages[:index], generation=True)
            after = before + self._turn(messages[:index], message, before)
            ids = self._continue(ids, text, before)
            start = len(ids)
            ids = self._continue(ids, before, after)
            spans.append((start, len(ids)))
            text = after
        ids = self._continue(ids, text, self._text(messages, generation=True))
        return Encoded(tuple(ids), tuple(spans))

    def _answer(self, messages: Sequence[Message], text: str) -> Encoded:
        if not text.strip():
            raise DataError("the answer is empty", remedy="Give it a text, or leave the row out")
        before = self._text(messages, generation=True)
        turn = self._turn(messages, {"role": "assistant", "content": [{"type": "text", "text": text}]}, before)
        start = self._tokenize(before, first=True)
        ids = self._continue(start, before, before + turn)[len(start) :]
        if self.processor.image_token_id in ids:
            raise DataError(
                f"the answer contains the image placeholder {self.processor.image_token!r}",
                remedy="Remove it: an answer cannot hold a picture",
            )
        if ids[-1] != self.tokenizer.eos_token_id:
            ids.append(self.tokenizer.eos_token_id)
        return Encoded(tuple(ids))

    def _text(self, messages: Sequence[Message], *, generation: bool) -> str:
        plain = [{key: value for key, value in message.items() if key != "weight"} for message in messages]
        try:
            text = self.processor.apply_chat_template(
                plain, chat_template=self.template, tokenize=False, add_generation_prompt=generation
            )
        except TemplateError as error:  # raise_exception of templates that take no system turn, for one
            raise DataError(
                f"the chat template refuses the conversation ({error})",
                remedy="Change its turns to what the model was trained with, or set model.chat_template",
            ) from error
        mark = self.processor.image_token
        return str(text).replace(mark, mark.join(self.around))

    def _turn(self, history: Sequence[Message], message: Message, before: str) -> str:
        """What the template writes for an assistant message after ``before``, up to its end of turn.

        Raises:
            DataError: the message holds the end of a turn, so that the rest of it would be lost.
        """
        content = message["content"]
        texts = [content] if isinstance(content, str) else [part.get("text", "") for part in content]
        if any(self.tokenizer.eos_token in text for text in texts):
            raise DataError(
                f"an answer contains {self.tokenizer.eos_token!r}, which ends a turn",
                remedy="Remove it: the end of the turn is added to every answer",
            )
        whole = self._text([*history, message], generation=False)
        if not whole.startswith(before):
            raise RecipeError(
                "the chat template writes a conversation that does not start with its own generation prompt, "
                "so an answer cannot be told from its prompt. Set model.chat_template to a Jinja file that does"
            )
        turn = whole[len(before) :]
        eos = self.tokenizer.eos_token
        return turn[: turn.index(eos) + len(eos)] if eos in turn else turn.rstrip()

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

"""A processor's chat template: what it writes of a conversation, and where the answers stand in that.

Templates differ in what they take (lists of parts, or strings), in what they write before and behind an answer, and
in whether they end a turn at all. All of it is found out by asking the template about a word of our own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jinja2 import TemplateError

from sightline.data.readers.rows import RowError
from sightline.errors import DataError, RecipeError
from sightline.models.control import control_tokens
from sightline.types import Message

_PROBE = "sightlineprobe"
_LIST = ("'type'", '"type"')
"""What stands in the text where a template printed a list of parts as it is."""
_FAILURES = (TemplateError, TypeError, ValueError, LookupError, AttributeError)
"""What a template raises on a conversation that it was not written for."""


class Turn(NamedTuple):
    """An answer in its conversation."""

    answer: str
    """What the model writes: the text, behind what the template sets before it (a blank)."""
    end: str
    """The one special token that ends the turn."""
    written: str
    """What a longer conversation begins with: all before the answer, the answer, and the end where the template itself
    writes it."""


class _Frame(NamedTuple):
    """What a template writes around an answer."""

    lead: str
    tail: str


class ChatTemplate:
    """Writes conversations with a processor's chat template. Thread-safe."""

    def __init__(self, processor: Any, *, around: tuple[str, str] = ("", "")) -> None:
        """
        Args:
            processor: transformers processor with a tokenizer and a chat template.
            around: text that the processor writes before and after every picture.

        Raises:
            RecipeError: no chat template, one that leaves out what is said, or no end-of-sequence token.
        """
        self.processor, tokenizer, self.around = processor, processor.tokenizer, around
        found = processor.chat_template or tokenizer.chat_template
        self.source = found.get("default") if isinstance(found, dict) else found
        if not self.source:
            raise RecipeError("the processor has no chat template. Set model.chat_template to a Jinja file")
        if tokenizer.eos_token_id is None:
            raise RecipeError(
                "the tokenizer has no eos_token: an answer could not end. Set one in its tokenizer_config.json"
            )
        self.special = control_tokens(tokenizer, processor.image_token)
        self._strings: frozenset[str] = frozenset()
        for role in ("user", "assistant", "system"):
            if self._takes_strings(role):
                self._strings |= {role}
        self._frame: _Frame | None = None
        """Of most answers; None: the template wants longer conversations, and rows will tell."""
        with contextlib.suppress(DataError):
            asked = [_said("user", "?")]
            self._frame = self._frame_of(asked, self.text(asked, generation=True))

    @property
    def end(self) -> str:
        """The special token that ends an answer: as the template writes it, or else the tokenizer's end of sequence."""
        return str(self.processor.tokenizer.eos_token) if self._frame is None else self._ended(self._frame.tail)[1]

    def text(self, messages: Sequence[Message], *, generation: bool) -> str:
        """What the template writes. Texts are not looked at: ``check`` does.

        Raises:
            RowError: a conversation that the template does not take.
        """
        plain = [self._plain(message) for message in messages]
        try:
            return self._written(plain, generation=generation)
        except _FAILURES as error:  # raise_exception of templates that take no system turn, for one
            raise RowError(
                "malformed",
                f"the chat template refuses the conversation ({error})",
                remedy="Change its turns to what the model was trained with, or set model.chat_template",
            ) from error

    def turn(self, history: Sequence[Message], message: Message, before: str, following: str | None = None) -> Turn:
        """Where an assistant message stands behind ``history``.

        Args:
            history: the conversation before it.
            message: the answer.
            before: what the template writes of ``history``, up to where the answer begins.
            following: what it writes of a conversation that goes on behind the answer, or None: the answer is the last.

        Raises:
            RowError: no answer can be told from its prompt, or the template writes another text than the answer's.
        """
        whole = self.text([*history, message], generation=False) if following is None else following
        said = text_of(message)
        turn = None if self._frame is None else self._found(whole, before, said, self._frame, following is None)
        if turn is not None:
            return turn
        turn = self._found(whole, before, said, self._frame_of(history, before), following is None)
        if turn is not None:
            return turn
        if following is None:
            raise RowError(
                "malformed",
                "the chat template rewrites an answer, so that something else would be trained",
                remedy="Write the answer as the model does, or set model.chat_template to one that keeps answers",
            )
        self.turn(history, message, before)
        raise RowError(
            "malformed",
            "the chat template writes an earlier answer otherwise once the conversation goes on, so that it cannot be "
            "trained where it stands",
            remedy="Set train_on: last for these rows, or model.chat_template to one that leaves earlier turns alone",
        )

    def _found(self, whole: str, before: str, said: str, frame: _Frame, last: bool) -> Turn | None:
        """The answer where ``whole`` has it as the frame says, else None."""
        gap, end, ends = self._ended(frame.tail)
        for text in dict.fromkeys((said, said.strip())):  # templates that cut white space off
            answer = frame.lead + text + gap
            written = before + answer + (end if ends else "")
            if whole == before + frame.lead + text + frame.tail:
                return Turn(answer, end, written)
            if not last and whole.startswith(written if ends else written + frame.tail):
                return Turn(answer, end, written)
        return None

    def _ended(self, tail: str) -> tuple[str, str, bool]:
        """White space before the end of a turn, the end, and whether the template writes it."""
        rest = tail.lstrip()
        end = next((token for token in self.special if rest.startswith(token)), None)
        if end is None:
            return "", str(self.processor.tokenizer.eos_token), False
        return tail[: len(tail) - len(rest)], end, True

    def _frame_of(self, history: Sequence[Message], before: str) -> _Frame:
        whole = self.text([*history, _said("assistant", _PROBE)], generation=False)
        if not whole.startswith(before):
            raise RowError(
                "malformed",
                "the chat template writes a conversation that does not start with its own generation prompt, so an "
                "answer cannot be told from its prompt",
                remedy="Set model.chat_template to a Jinja file that does",
            )
        lead, found, tail = whole[len(before) :].partition(_PROBE)
        if not found:
            raise RowError("malformed", "the chat template leaves answers out", remedy="Set model.chat_template")
        return _Frame(lead, tail)

    def check(self, messages: Sequence[Message]) -> None:
        """
        Raises:
            RowError: a control token stands in a text.
        """
        for message in messages:
            self.check_text(text_of(message), str(message["role"]))

    def control_in(self, text: str) -> str | None:
        """A control token that stands in a text, where the tokenizer would not take it for text."""
        return next((token for token in self.special if token in text), None)

    def check_text(self, text: str, role: str) -> None:
        """
        Raises:
            RowError: a control token stands in a text.
        """
        found = self.control_in(text)
        if found is None:
            return
        if found == self.processor.image_token:
            found, remedy = f"the image placeholder {found!r}", "Remove it, or write a picture as a part of its own"
        else:
            found, remedy = f"{found!r}", "Remove it, or spell it otherwise: the chat template marks turns and pictures"
        name = "an answer" if role == "assistant" else f"a {role} message"
        raise RowError("control token", f"{name} contains {found}, which is no text to the tokenizer", remedy=remedy)

    def _plain(self, message: Message) -> dict[str, Any]:
        """A message as the template takes it: string or parts, and nothing of ours in it."""
        role, content = str(message["role"]), message["content"]
        text_only = isinstance(content, str) or all(part.get("type") == "text" for part in content)
        if role in self._strings and not text_only:
            raise RowError(
                "malformed",
                f"the chat template takes strings from the {role}, and the message holds a picture",
                remedy="Set model.chat_template to one that writes pictures",
            )
        if role in self._strings:
            return {"role": role, "content": text_of(message)}
        if isinstance(content, str) or role == "assistant":
            return {"role": role, "content": [{"type": "text", "text": text_of(message)}]}
        return {"role": role, "content": list(content)}

    def _takes_strings(self, role: str) -> bool:
        """Whether the template takes the content of a role as a string, and not as a list of parts.

        Raises:
            RecipeError: it takes it, and leaves it out.
        """
        asked = [self._plain(_said("user", "?"))] if role == "assistant" else []
        answered = [self._plain(_said("user", "?"))] if role == "system" else []
        told = False
        for content in ([{"type": "text", "text": _PROBE}], _PROBE):
            try:
                text = self._written([*asked, {"role": role, "content": content}, *answered], generation=False)
            except _FAILURES:
                continue
            if _PROBE in text and not any(mark in text for mark in _LIST):
                return content == _PROBE
            told = True
        if told and role != "system":
            raise RecipeError(f"the chat template leaves out what the {role} says. Set model.chat_template to another")
        return False

    def _written(self, messages: list[dict[str, Any]], *, generation: bool) -> str:
        text = self.processor.apply_chat_template(
            messages, chat_template=self.source, tokenize=False, add_generation_prompt=generation
        )
        mark = self.processor.image_token
        return str(text).replace(mark, mark.join(self.around))


def text_of(message: Mapping[str, Any]) -> str:
    """The texts of a message in one."""
    content = message["content"]
    return content if isinstance(content, str) else "".join(part.get("text") or "" for part in content)


def _said(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": text}]}

"""A processor's chat template: what it writes of a conversation, and where the answers stand in that.

Templates differ in what they take (lists of parts, or strings), in what they write before and behind an answer, and
in whether they end a turn at all. All of it is found out by asking the template about a word of our own.
"""

from __future__ import annotations

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

    before: str
    """What the template writes up to where the answer begins."""
    answer: str
    """What the model writes: the text, behind what the template sets before it (a blank)."""
    end: str
    """The one special token that ends the turn."""
    written: str
    """``before``, the answer, and the end where the template itself writes it: what a longer conversation begins
    with."""


class ChatTemplate:
    """Writes conversations with a processor's chat template. Thread-safe."""

    def __init__(self, processor: Any) -> None:
        """
        Args:
            processor: transformers processor with a tokenizer and a chat template.

        Raises:
            RecipeError: no chat template, one that leaves out what is said, or no end-of-sequence token.
        """
        self.processor, tokenizer = processor, processor.tokenizer
        self.source = processor.chat_template or tokenizer.chat_template
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

    @property
    def end(self) -> str:
        """The special token that ends an answer: as the template writes it, or else the tokenizer's end of sequence."""
        try:
            return self.turn([_said("user", "?")], _said("assistant", _PROBE)).end
        except (DataError, RecipeError):  # it wants other conversations than this one: rows will tell
            return str(self.processor.tokenizer.eos_token)

    def text(self, messages: Sequence[Message], *, generation: bool) -> str:
        """What the template writes.

        Raises:
            RowError: a text that holds a control token; a conversation that the template does not take.
        """
        for message in messages:
            self.check_text(text_of(message), str(message["role"]))
        try:
            return self._written([self._plain(message) for message in messages], generation=generation)
        except _FAILURES as error:  # raise_exception of templates that take no system turn, for one
            raise RowError(
                "malformed",
                f"the chat template refuses the conversation ({error})",
                remedy="Change its turns to what the model was trained with, or set model.chat_template",
            ) from error

    def turn(self, history: Sequence[Message], message: Message) -> Turn:
        """Where an assistant message stands behind ``history``.

        Raises:
            RecipeError: no answer can be told from its prompt.
            RowError: the template writes another text than the answer's; or as ``text``.
        """
        before = self.text(history, generation=True)
        lead, found, tail = self._behind(before, [*history, _said("assistant", _PROBE)]).partition(_PROBE)
        if not found:
            raise RecipeError("the chat template leaves answers out. Set model.chat_template to a Jinja file")
        written = self._behind(before, [*history, message])
        said = next((s for s in _ways(text_of(message)) if written == lead + s + tail), None)
        if said is None:
            raise RowError(
                "malformed",
                "the chat template rewrites an answer, so that something else would be trained",
                remedy="Write the answer as the model does, or set model.chat_template to one that keeps answers",
            )
        rest = tail.lstrip()
        end = next((token for token in self.special if rest.startswith(token)), None)
        if end is None:
            answer = lead + said
            return Turn(before, answer, str(self.processor.tokenizer.eos_token), before + answer)
        answer = lead + said + tail[: len(tail) - len(rest)]
        return Turn(before, answer, end, before + answer + end)

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

    def _behind(self, before: str, messages: Sequence[Message]) -> str:
        whole = self.text(messages, generation=False)
        if not whole.startswith(before):
            raise RecipeError(
                "the chat template writes a conversation that does not start with its own generation prompt, "
                "so an answer cannot be told from its prompt. Set model.chat_template to a Jinja file that does"
            )
        return whole[len(before) :]

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
        return str(
            self.processor.apply_chat_template(
                messages, chat_template=self.source, tokenize=False, add_generation_prompt=generation
            )
        )


def text_of(message: Mapping[str, Any]) -> str:
    """The texts of a message in one."""
    content = message["content"]
    return content if isinstance(content, str) else "".join(part.get("text") or "" for part in content)


def _said(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": text}]}


def _ways(text: str) -> tuple[str, str]:
    """A text as it is, and as templates write it that cut white space off."""
    return text, text.strip()

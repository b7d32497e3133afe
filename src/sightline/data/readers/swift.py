"""Rows as ms-swift writes them: ``messages`` beside ``rejected_response``, or ``query`` and ``response``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sightline.data.readers.alpaca import conversation, text
from sightline.data.readers.conversation import Reading, as_list
from sightline.data.readers.rows import RowError
from sightline.data.readers.trl import read_trl
from sightline.types import Edge, Group

_USED = ("messages", "query", "response", "history", "system", "conversation", "rejected_response", "rejected_messages")


def read_swift(row: Mapping[str, Any], reading: Reading) -> Group:
    """A Group from one row.

    The last turn of ``messages``, or ``response``, is the chosen answer where ``rejected_response`` (a text) or
    ``rejected_messages`` (a conversation that begins alike) is there. ``rejected_messages`` with the same answer and
    other ``rejected_images`` make a comparison of pictures.

    Raises:
        RowError: What is wrong with the row.
    """
    for name in ("prompt", "question", "chosen", "rejected", "completion"):
        if row.get(name) is not None:
            raise RowError("malformed", f"column '{name}' has no place in this layout", remedy="Remove or rename it")
    rest = {name: value for name, value in row.items() if name not in _USED}
    messages = _messages(row)
    rejected = _rejected(row, messages)
    if rejected is None:
        return read_trl(rest | {"messages": messages}, reading)
    if messages == rejected and as_list(row.get("rejected_images")):
        return _other_picture(rest | {"prompt": messages[:-1]}, messages[-1], reading)
    return read_trl(rest | {"chosen": messages, "rejected": rejected}, reading)


def _messages(row: Mapping[str, Any]) -> list[Any]:
    given = [name for name in ("messages", "query", "conversation") if row.get(name) is not None]
    if len(given) != 1:
        found = f"found {' and '.join(given) or 'no question'}, expected one of messages, query, conversation"
        raise RowError("malformed", found, remedy="Keep one of them")
    if given == ["query"]:
        asked = conversation(row, text(row, "query"))
        return asked if row.get("response") is None else [*asked, _answer(text(row, "response"))]
    if row.get("response") is not None or row.get("history") is not None:
        raise RowError("malformed", f"'response' and 'history' do not go with '{given[0]}'", remedy="Remove them")
    system = text(row, "system")
    before = [{"role": "system", "content": system}] if system else []
    turns = row[given[0]]
    if not isinstance(turns, list | tuple) or not turns:
        raise RowError("malformed", f"'{given[0]}' is {turns!r:.60}, expected a list of messages")
    if given == ["messages"]:
        return [*before, *turns]
    for i, pair in enumerate(turns):
        if not isinstance(pair, Mapping) or pair.keys() != {"human", "assistant"}:
            raise RowError("malformed", f"'conversation[{i}]' is {pair!r:.60}, expected human and assistant")
        before += [{"role": "user", "content": pair["human"]}, _answer(pair["assistant"])]
    return before


def _rejected(row: Mapping[str, Any], messages: list[Any]) -> list[Any] | None:
    response, whole = row.get("rejected_response"), row.get("rejected_messages")
    if response is not None and whole is not None:
        raise RowError("malformed", "found both 'rejected_response' and 'rejected_messages'", remedy="Keep one")
    if whole is not None:
        if not isinstance(whole, list | tuple) or not whole:
            raise RowError("malformed", f"'rejected_messages' is {whole!r:.60}, expected a list of messages")
        system = text(row, "system")
        return [*([{"role": "system", "content": system}] if system else []), *whole]
    if response is None:
        return None
    if not isinstance(response, str):
        found = f"'rejected_response' is {response!r:.60}, expected a text"
        raise RowError("malformed", found, remedy="Give a conversation as rejected_messages")
    return [*messages[:-1], _answer(response)]


def _other_picture(row: dict[str, Any], answer: Any, reading: Reading) -> Group:
    """The same answer, which is about the picture and not about the rejected one."""
    pair = read_trl(row | {"chosen": [answer], "rejected": [answer]}, replace(reading, relate=False))
    if len(pair.prompts) == 1:
        edges = (Edge(winner=0, loser=1),) if reading.relate else ()  # refused: both sides are the same
        return replace(pair, edges=edges)
    other = replace(pair.responses[1], prompt=1)
    edges = (Edge(winner=0, loser=1, kind="image"),) if reading.relate else ()
    return replace(pair, responses=(pair.responses[0], other), edges=edges)


def _answer(content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content}

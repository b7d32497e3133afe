"""Rows as TRL's dataset types name them: ``prompt``, ``chosen``, ``rejected``, ``completion``, ``messages``.

Each type as plain strings or as conversations, with ``image`` or ``images`` beside it. A plain prompt
becomes one user turn: vision-language models are trained through their chat template.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sightline.data.readers.chat import Turn, parse_turn, parse_turns, user_turn
from sightline.data.readers.conversation import (
    Reading,
    answer_text,
    as_list,
    build_prompt,
    facts_of,
    ranked,
    split_answer,
    with_negative,
    with_system,
)
from sightline.data.readers.rows import RowError, is_finite
from sightline.types import Group, Response

COLUMNS = frozenset({"prompt", "question", "chosen", "rejected", "completion", "messages"})
"""Columns of which at least one makes a row a TRL row; ``question`` is RLAIF-V's name for ``prompt``."""

_USED = COLUMNS | {"id", "image", "images", "label", "system"}
_NEGATIVE = frozenset({"rejected_image", "rejected_images"})
"""The picture that the chosen answer is not about, or a list with one for each picture of the prompt."""
_SCORES = (
    ("chosen_score", "rejected_score"),
    ("score_chosen", "score_rejected"),
    ("chosen_rating", "rejected_rating"),
)
"""Rewards of the two answers of a preference: what a reward model's margin is made of."""
_REFUSED = {
    "chat_template_kwargs": "template options belong into the chat template",
}


def read_trl(row: Mapping[str, Any], reading: Reading) -> Group:
    """A Group from one row: preference, prompt-completion, conversational, prompt-only, unpaired or stepwise.

    Raises:
        RowError: What is wrong with the row.
    """
    _check_columns(row)
    if row.get("chosen") is not None or row.get("rejected") is not None:
        return _preference(row, reading)
    if row.get("messages") is not None:
        return _conversation(row, reading)
    return _completion(_whole(row) if row.get("completions") is not None else row, reading)


def _check_columns(row: Mapping[str, Any]) -> None:
    for name, why in _REFUSED.items():
        if row.get(name):
            raise RowError("malformed", f"column '{name}' cannot be honoured: {why}", remedy="Remove the column")
    if row.get("prompt") is not None and row.get("question") is not None:
        remedy = "Remove one; any other name is kept as a fact for rewards and graders"
        raise RowError("malformed", "found both 'prompt' and 'question'", remedy=remedy)
    if isinstance(row.get("objects"), Mapping) and row["objects"].get("bbox"):
        found = "column 'objects' has boxes for <bbox> and <ref-object> (ms-swift), which are not filled in"
        raise RowError("malformed", found, remedy="Write the boxes into the texts as the model reads them")
    for name in ("prompt", "question", "completion"):
        if row.get("messages") is not None and row.get(name) is not None:
            remedy = "Keep one; any other name is kept as a fact for rewards and graders"
            raise RowError("malformed", f"found 'messages' and '{name}'", remedy=remedy)


def _whole(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A stepwise row as one answer: its steps on lines of their own, right if each of them is."""
    steps, labels = row["completions"], row.get("labels")
    if not isinstance(steps, list | tuple) or not steps or not all(isinstance(step, str) for step in steps):
        found = f"'completions' is {steps!r:.60}, expected a list of texts, the steps of an answer"
        raise RowError("malformed", found, remedy="Answers with ratings are read by format: vlfeedback")
    fits = isinstance(labels, list | tuple) and [type(label) for label in labels] == [bool] * len(steps)
    if not fits:
        found = f"'labels' is {labels!r:.60}, expected true or false for each of {len(steps)} steps"
        raise RowError("malformed", found, remedy="Give each step its label")
    for name in ("completion", "label"):
        if row.get(name) is not None:
            raise RowError("malformed", f"found both 'completions' and '{name}'", remedy="Remove one of the two")
    # the labels stay among the facts
    rest = {name: value for name, value in row.items() if name != "completions"}
    return rest | {"completion": "\n".join(steps), "label": all(row["labels"])}


def _pictures(row: Mapping[str, Any]) -> list[Any]:
    one, several = as_list(row.get("image")), as_list(row.get("images"))
    if one and several:
        raise RowError("malformed", "found both 'image' and 'images'", remedy="Keep one of the two columns")
    return one or several


def _prompt_turns(row: Mapping[str, Any]) -> list[Turn]:
    """Turns of the explicit prompt; none where the prompt is inside the answers."""
    name = next((name for name in ("prompt", "messages") if row.get(name) is not None), "question")
    value = row.get(name)
    if value is None:
        return []
    return [user_turn(value)] if isinstance(value, str) else parse_turns(value, name)


def _answer_turns(row: Mapping[str, Any], name: str) -> list[Turn]:
    value = row.get(name)
    if value is None:
        raise RowError("malformed", f"missing column '{name}'", remedy=f"Found {', '.join(row)}; use rename")
    if isinstance(value, str):
        return [Turn(role="assistant", parts=(value,))]
    return [parse_turn(value, name)] if isinstance(value, Mapping) else parse_turns(value, name)


def _facts(row: Mapping[str, Any], *, label_is_fact: bool = True) -> dict[str, Any]:
    return facts_of(row, _USED - {"label"} if label_is_fact else _USED)


def _conversation(row: Mapping[str, Any], reading: Reading) -> Group:
    turns = parse_turns(row["messages"], "messages")
    if not isinstance(row.get("label"), bool):
        return _supervised(turns, row, reading, _facts(row))
    return _labelled(turns, row, reading)


def _supervised(turns: list[Turn], row: Mapping[str, Any], reading: Reading, facts: dict[str, Any]) -> Group:
    history, answer = split_answer(with_system(turns, row))
    trains = reading.train_history and answer is not None
    prompt = build_prompt(history, _pictures(row), reading, facts, train_history=trains)
    return Group(prompts=(prompt,), responses=() if answer is None else (Response(text=answer),))


def _completion(row: Mapping[str, Any], reading: Reading) -> Group:
    turns = _prompt_turns(row)
    if not turns:
        raise RowError("malformed", "missing column 'prompt'", remedy=f"Found {', '.join(row)}; use rename")
    if row.get("completion") is None:
        return Group(prompts=(build_prompt(with_system(turns, row), _pictures(row), reading, _facts(row)),))
    whole = turns + _answer_turns(row, "completion")
    if row.get("label") is None:
        return _supervised(whole, row, reading, _facts(row))
    label = row["label"]
    if not isinstance(label, bool):
        remedy = "In rows with a completion, label says whether it is desirable; rename another column away"
        raise RowError("malformed", f"'label' is {label!r:.60}, expected true or false", remedy=remedy)
    return _labelled(whole, row, reading)


def _labelled(turns: list[Turn], row: Mapping[str, Any], reading: Reading) -> Group:
    history, answer = split_answer(with_system(turns, row))
    prompt = build_prompt(history, _pictures(row), reading, _facts(row, label_is_fact=False))
    responses = () if answer is None else (Response(text=answer, label=row["label"]),)
    return Group(prompts=(prompt,), responses=responses)


def _preference(row: Mapping[str, Any], reading: Reading) -> Group:
    if row.get("completion") is not None:
        remedy = "Keep the answers that are compared, or the one that is shown"
        raise RowError("malformed", "found 'completion' beside 'chosen' and 'rejected'", remedy=remedy)
    prompt = _prompt_turns(row)
    if row.get("messages") is not None and prompt and prompt[-1].role == "assistant":
        found = "found 'messages' and 'chosen', and the messages end with an answer"
        raise RowError(
            "malformed", found, remedy="Let the messages end with the question, or remove chosen and rejected"
        )
    chosen, rejected = _answer_turns(row, "chosen"), _answer_turns(row, "rejected")
    if not prompt:
        shared = _shared(chosen, rejected)
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
        if not prompt:
            remedy = "Add a 'prompt' column; only conversations can begin with their prompt"
            raise RowError(
                "malformed", "chosen and rejected share no first turn and there is no 'prompt'", remedy=remedy
            )
    prompt = with_system(prompt, row)
    for name, turns in (("chosen", chosen), ("rejected", rejected)):
        if len(turns) != 1:
            found = f"'{name}' has {len(turns)} turns after the shared prompt, expected one answer"
            raise RowError(
                "malformed", found, remedy="Compare single answers: put the turns both share into the prompt"
            )
    answers = [answer_text(chosen[0]), answer_text(rejected[0])]
    facts = facts_of(row, _USED | _NEGATIVE | {name for names in _SCORES for name in names})
    group = ranked(build_prompt(prompt, _pictures(row), reading, facts), answers, reading)
    if (scores := _scores(row)) is not None:
        pairs = zip(group.responses, scores, strict=True)
        group = replace(group, responses=tuple(replace(response, reward=score) for response, score in pairs))
    other = [picture for name in sorted(_NEGATIVE) for picture in as_list(row.get(name))]
    if not other:
        return group
    if len(other) != len(group.prompts[0].images):
        found = f"{len(other)} rejected images beside {len(group.prompts[0].images)} images"
        raise RowError("placeholders", found, remedy="Give a rejected image for each image of the prompt")
    return with_negative(group, build_prompt(prompt, other, reading, facts))


def _scores(row: Mapping[str, Any]) -> list[float] | None:
    """Rewards of chosen and rejected, where the row has both.

    Raises:
        RowError: one alone, two that are given twice, or one that is no finite number.
    """
    given = [(name, row[name]) for names in _SCORES for name in names if row.get(name) is not None]
    if not given:
        return None
    if tuple(name for name, _ in given) not in _SCORES:
        found = f"found the scores {', '.join(name for name, _ in given)}, expected one of chosen and one of rejected"
        raise RowError("malformed", found, remedy="Give chosen_score and rejected_score, or neither")
    for name, score in given:
        if not is_finite(score):
            raise RowError("malformed", f"{name!r} is {score!r:.60}, expected a finite number", remedy="Correct it")
    return [float(score) for _, score in given]


def _shared(chosen: list[Turn], rejected: list[Turn]) -> int:
    """Number of turns that both conversations begin with, the last answers never counted."""
    most = min(len(chosen), len(rejected)) - 1
    return next((i for i in range(most) if chosen[i] != rejected[i]), max(most, 0))

"""What a reward model reads in place of a row: facts, captions for pictures, and a request to judge the answer.

A reward model that is told what is known about a picture can check claims that it cannot see (Sun et al. 2023,
Factually Augmented RLHF, arXiv 2309.14525). Everything here is a function from Group to Group that keeps the order of
responses and edges, so that training and scoring share it. A policy never reads what it returns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from sightline.errors import DataError, RecipeError
from sightline.recipes.schema import ReadsSpec
from sightline.types import Group, Message, Prompt, Response

SLOT: Final = "{facts}"
CRITERIA: Final = """Please judge the quality of your last response. Four things count:

1. Accurate: it says what the picture shows, and nothing that the picture contradicts or does not support.{facts}
2. Helpful: it gives the user exactly what was asked for, on the ground of the picture.
3. Natural: it reads fluently, without repetition or awkward phrases.
4. Concise: it holds what is needed, brief and clear.

A good response has all four."""
"""What ``criteria: default`` stands for: the four criteria of LLaVA-RLHF, in words of our own."""


class Reader:
    """Turns groups into what a reward model reads.

    Responses become plain text again: token ids belong to the tokenizer that sampled them. With ``criteria`` every
    answer moves into a prompt of its own, and its response is ``lead_in``; picture and question stay common to all
    answers, and the layout ``tree`` still computes them once.
    """

    def __init__(self, spec: ReadsSpec | None) -> None:
        """
        Args:
            spec: None: groups are read as they are.

        Raises:
            RecipeError: facts that the criteria have no place for, or criteria without a lead-in.
        """
        self.spec = None if spec is None else resolved(spec)
        if self.spec is None or self.spec.criteria is None:
            return
        if self.spec.facts and SLOT not in self.spec.criteria:
            raise RecipeError(
                f"data.reads.facts is {list(self.spec.facts)}, but data.reads.criteria has no {SLOT}. "
                f"Write {SLOT} where the facts belong, or remove the facts."
            )
        if not self.spec.lead_in.strip():
            raise RecipeError("data.reads.lead_in is empty, and the score is read at its end. Give it a text.")

    def __call__(self, group: Group) -> Group:
        """The group as the reward model reads it: the same responses and edges, in the same order.

        Raises:
            DataError: a fact or caption is missing or no text; or edges compare pictures that are dropped.
        """
        if self.spec is None:
            return group
        try:
            return self._read(group, self.spec)
        except DataError as error:
            raise DataError(error.found, source=error.source or group.source, remedy=error.remedy) from error

    def counting(self, num_tokens: Callable[[Group], int]) -> Callable[[Group], int]:
        """Counts the tokens of groups as they are read."""
        return lambda group: num_tokens(self(group))

    def _read(self, group: Group, spec: ReadsSpec) -> Group:
        if spec.images == "drop" and any(edge.kind == "image" for edge in group.edges):
            raise DataError(
                f"group {group.id!r} compares one answer under two pictures, which images: drop removes",
                remedy="Set data.reads.images to keep or caption, or leave the row out",
            )
        facts = [_facts(prompt, spec) for prompt in group.prompts]
        prompts = tuple(_with_pictures_read(prompt, spec) for prompt in group.prompts)
        answers = tuple(_as_text(response) for response in group.responses)
        if spec.criteria is None:
            told = tuple(_told(prompt, texts) for prompt, texts in zip(prompts, facts, strict=True))
            return replace(group, prompts=told, responses=answers)
        judged, leads = [], []
        for number, answer in enumerate(answers):
            request = spec.criteria.replace(SLOT, _fact_block(facts[answer.prompt]))
            judged.append(_judged(prompts[answer.prompt], answer, request, number))
            leads.append(replace(answer, text=spec.lead_in, prompt=number))
        return replace(group, prompts=tuple(judged), responses=tuple(leads)) if judged else group


def resolved(spec: ReadsSpec) -> ReadsSpec:
    """The same with the text of the criteria spelled out, so that it can be kept."""
    return replace(spec, criteria=CRITERIA) if spec.criteria == "default" else spec


# --- facts --------------------------------------------------------------------------------------


def _facts(prompt: Prompt, spec: ReadsSpec) -> list[str]:
    """The facts that are told about a prompt, in order. The order is the same for all answers and all epochs."""
    texts: list[str] = []
    for key in spec.facts:
        if key in prompt.facts:
            texts += _texts(prompt.facts[key], f"fact {key!r} of prompt {prompt.id!r}")
        elif spec.missing_facts == "error":
            raise DataError(
                f"prompt {prompt.id!r} has no fact {key!r}; it has {', '.join(prompt.facts) or 'none'}",
                remedy="Add it to the facts of the prompt, or set data.reads.missing_facts to leave_out",
            )
    return texts


def _texts(value: Any, name: str) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) and text.strip() for text in texts):
        raise DataError(f"{name} is {value!r:.60}", remedy="Expected a text, or a list of texts")
    return list(texts)


def _fact_block(texts: Sequence[str]) -> str:
    """For the slot of the criteria; empty without facts."""
    if not texts:
        return ""
    listed = "".join(f"\n  - {text}" for text in texts)
    return f" All of it must agree with these descriptions of the picture, taken together:{listed}"


def _told(prompt: Prompt, texts: Sequence[str]) -> Prompt:
    """The prompt with facts at the end of its last message."""
    if not texts:
        return prompt
    block = "\nWhat is known about the picture:" + "".join(f"\n- {text}" for text in texts)
    last = prompt.messages[-1]
    added = {**last, "content": [*_parts(last), {"type": "text", "text": block}]}
    return replace(prompt, messages=(*prompt.messages[:-1], added))


# --- pictures -----------------------------------------------------------------------------------


def _with_pictures_read(prompt: Prompt, spec: ReadsSpec) -> Prompt:
    """The prompt with its pictures kept, dropped or replaced by captions; no turn of its history is trained."""
    plain = tuple({key: value for key, value in message.items() if key != "weight"} for message in prompt.messages)
    if spec.images == "keep" or not prompt.images:
        return replace(prompt, messages=plain)
    texts = iter(_captions(prompt, spec.captions) if spec.images == "caption" else [""] * len(prompt.images))
    messages = tuple({**message, "content": _without_pictures(message, texts)} for message in plain)
    return replace(prompt, messages=messages, images=())


def _without_pictures(message: Message, texts: Any) -> list[Any]:
    parts = []
    for part in _parts(message):
        text = next(texts) if part["type"] == "image" else part["text"]
        if text:
            parts.append({"type": "text", "text": text})
    return parts


def _captions(prompt: Prompt, key: str) -> list[str]:
    """What stands for each picture."""
    value, count = prompt.facts.get(key), len(prompt.images)
    name = f"{key!r} of prompt {prompt.id!r}"
    if value is None or (count > 1 and (not isinstance(value, list | tuple) or len(value) != count)):
        raise DataError(
            f"prompt {prompt.id!r} has {count} picture(s), and its facts hold {value!r:.60} under {key!r}",
            remedy="Give it a caption for each picture: a text for one, a list with one entry each for several",
        )
    each = [value] if count == 1 else list(value)
    numbers = [""] if count == 1 else [f" {number}" for number in range(1, count + 1)]
    return [f"Picture{n}: {' '.join(_texts(own, name))}\n" for n, own in zip(numbers, each, strict=True)]


def _parts(message: Message) -> list[Any]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


# --- answers ------------------------------------------------------------------------------------


def _as_text(response: Response) -> Response:
    return replace(
        response, tokens=None, trained=None, weights=None, rollout_logprobs=None, weight_versions=None, columns={}
    )


def _judged(prompt: Prompt, answer: Response, request: str, number: int) -> Prompt:
    """The conversation with the answer, and the request to judge it."""
    said = {"role": "assistant", "content": [{"type": "text", "text": answer.text}]}
    asked = {"role": "user", "content": [{"type": "text", "text": request}]}
    name = prompt.id if number == 0 else f"{prompt.id}#answer-{number}"
    return replace(prompt, id=name, messages=(*prompt.messages, said, asked))

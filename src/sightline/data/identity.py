"""What makes a Group the one it is, over runs and over where its files lie."""

from __future__ import annotations

import hashlib

from sightline.types import Group


def identity(group: Group) -> bytes:
    """What a group asks, answers, weighs and compares. Of pictures the number counts: files may move."""
    prompts = [(prompt.id, prompt.messages, len(prompt.images)) for prompt in group.prompts]
    answers = [(response.prompt, response.text, response.reward, response.label) for response in group.responses]
    told = repr((prompts, answers, group.edges)).encode()
    ids = [(one.tokens, one.trained, one.weights, one.rollout_logprobs) for one in group.responses]
    if any(value is not None for one in ids for value in one):
        told += repr(ids).encode()
    return told


def question_digest(group: Group) -> bytes:
    """Digest of what the first prompt of a group asks."""
    return hashlib.blake2b(repr(group.prompts[0].messages).encode(), digest_size=16).digest()


def pictures_of(group: Group) -> tuple[str, ...]:
    """The distinct pictures of a group, in their order."""
    return tuple(dict.fromkeys(path for prompt in group.prompts for path in prompt.images))

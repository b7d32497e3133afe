"""What makes a Group the one it is, over runs and over where its files lie."""

from __future__ import annotations

import hashlib
import json

from sightline.data.picture_files import content_digest, stamp
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


def made_from(group: Group, *, answers: bool) -> str:
    """Digest of what a stage reads of a group: prompts, their facts, what their picture files hold, wherever they lie;
    with ``answers`` also these and how they are compared, without their rewards."""
    asked = [[p.id, [dict(m) for m in p.messages], list(map(_held, p.images)), p.facts] for p in group.prompts]
    said = [[r.prompt, r.text, r.tokens, r.trained, r.finish_reason] for r in group.responses if answers]
    compared = [[edge.winner, edge.loser] for edge in group.edges if answers]
    return hashlib.sha256(json.dumps([asked, said, compared], sort_keys=True, default=str).encode()).hexdigest()[:16]


def _held(picture: str) -> str:
    return content_digest(picture, stamp(picture)[0]).hex()

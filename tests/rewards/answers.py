"""Groups of one prompt for the tests of rewards."""

from collections.abc import Sequence

from sightline.types import Group, Prompt, Response


def asked(*texts: str, id: str = "p", images: Sequence[str] = (), source: str = "f.jsonl:3", **facts: object) -> Group:
    """A prompt with these facts and these answers, which ended their turn."""
    message = {"role": "user", "content": [*[{"type": "image"}] * len(images), {"type": "text", "text": "What is it?"}]}
    return Group(
        prompts=(Prompt(id=id, messages=(message,), images=tuple(images), facts=facts),),
        responses=tuple(Response(text=text, finish_reason="stop") for text in texts),
        source=source,
    )


def sampled(tokens: int, *, finish: str = "stop", text: str = "a", **facts: object) -> Group:
    """One answer of so many tokens."""
    response = Response(text=text, tokens=(1,) * tokens, finish_reason=finish)
    return Group(prompts=asked(**facts).prompts, responses=(response,), source="f.jsonl:3")

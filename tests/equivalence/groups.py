"""Groups that reach every corner of the layouts, for the tests of this folder."""

from __future__ import annotations

from sightline.types import Edge, Group, Message, Prompt, Response


def user(*parts: str | None) -> Message:
    """A user message; None stands for a picture."""
    content = [{"type": "image"} if part is None else {"type": "text", "text": part} for part in parts]
    return {"role": "user", "content": content}


def assistant(text: str, **extra: object) -> Message:
    return {"role": "assistant", "content": [{"type": "text", "text": text}], **extra}


def corner_groups(pictures: list[str]) -> list[Group]:
    """A pair; several prompts on one picture; several pictures; the same answer under two pictures;
    text only; trained history with a picture in a later turn."""
    a, b, c = pictures[:3]
    question, detail = user(None, "What is it?"), user(None, "What is it made of, in detail?")
    return [
        Group(
            prompts=(Prompt(id="pair", messages=(question,), images=(a,)),),
            responses=(Response(text="a red circle."), Response(text="a blue star and a moon")),
            edges=(Edge(winner=0, loser=1),),
        ),
        Group(
            prompts=(
                Prompt(id="questions", messages=(question,), images=(b,)),
                Prompt(id="questions-2", messages=(detail,), images=(b,)),
                Prompt(id="questions-3", messages=(user(None, "Is there a moon?"),), images=(b,)),
            ),
            responses=(Response(text="a square"), Response(text="of paper", prompt=1), Response(text="no", prompt=2)),
        ),
        Group(
            prompts=(Prompt(id="two", messages=(user(None, "and", None, "and", None, "?"),), images=(c, a, c)),),
            responses=tuple(Response(text=f"sample {n}") for n in range(3)),
            edges=(Edge(winner=0, loser=1), Edge(winner=1, loser=2, weight=0.5)),
        ),
        Group(
            prompts=(
                Prompt(id="visual", messages=(question,), images=(a,)),
                Prompt(id="visual-other", messages=(question,), images=(b,)),
                Prompt(id="visual-none", messages=(user("What is it?"),)),
            ),
            responses=(
                Response(text="a circle"),
                Response(text="a circle", prompt=1),
                Response(text="a circle", prompt=2),
            ),
            edges=(Edge(winner=0, loser=1, kind="image"), Edge(winner=0, loser=2, kind="image")),
        ),
        Group(
            prompts=(Prompt(id="text", messages=(user("hello there"),)),),
            responses=(Response(text="hi"), Response(text="go away")),
            edges=(Edge(winner=0, loser=1),),
        ),
        Group(
            prompts=(
                Prompt(
                    id="history",
                    messages=(
                        user("hello"),
                        assistant("hi, show me", weight=1),
                        user("this", None),
                        assistant("ok"),
                        user("so?"),
                    ),
                    images=(c,),
                ),
            ),
            responses=(Response(text="a star"),),
        ),
    ]

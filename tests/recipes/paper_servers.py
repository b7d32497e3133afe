"""One server that is every other model of a recipe: judge, describer, writer of claims, labeller; and a painter."""

from __future__ import annotations

import base64
import io
import math
import random
from typing import Any

from fake_judge import body
from PIL import Image

from fake_server import FakeServer

Reply = tuple[int, dict[str, str], dict[str, Any], float]


def every_model(_: int, request: dict[str, Any]) -> Reply:
    """Answers by what is asked, the same to the same words."""
    content = request["messages"][-1]["content"]
    if isinstance(content, list):  # a picture: the labeller is asked
        yes = 0.9 if len(content[-1]["text"]) % 3 else 0.05
        told = body("Yes")
        top = [{"token": "Yes", "logprob": math.log(yes)}, {"token": "No", "logprob": math.log(0.95 - yes)}]
        told["choices"][0]["logprobs"] = {"content": [{"token": "Yes", "top_logprobs": top}]}
        return 200, {}, told, 0
    if "FITTING answer" in content:
        return 200, {}, body(f"A picture of {len(content)} things."), 0
    if "- claim " in content:
        claims = [line for line in content.splitlines() if line.startswith("- claim ")]
        return 200, {}, body("\n".join(f"{line}?" for line in claims)), 0
    if "Answer: " in content:
        words = ascii(content[-8:]).split()
        return 200, {}, body("".join(f"- claim {word}\n" for word in words) or "- none"), 0
    return 200, {}, body(f"Fair enough. Score: {random.Random(content).randrange(11)}"), 0


class Painter(FakeServer):
    """Draws a picture by the seed of the request."""

    def __init__(self) -> None:
        super().__init__("generate")

    def answer(self, number: int, request: dict[str, Any]) -> tuple[int, dict[str, str], dict[str, str]]:
        rng, held = random.Random(request["seed"]), io.BytesIO()
        picture = Image.new("RGB", (24, 24), (rng.randrange(256), 40, 40))
        picture.paste((3, 200, rng.randrange(256)), (0, 0, 12, 24))
        picture.save(held, format="PNG")
        return 200, {}, {"image": base64.b64encode(held.getvalue()).decode()}

"""An OpenAI-compatible server in this process that answers as it is told, well or badly."""

from __future__ import annotations

import json
import time
from collections import Counter

from fake_server import FakeServer


def body(text, *, finish="stop", prompt_tokens=10, completion_tokens=5):
    """A well-formed reply."""
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    return {"choices": [{"message": {"content": text}, "finish_reason": finish}], "usage": usage}


class FakeJudge(FakeServer):
    """``script(number of this request's tries so far, request) -> (status, headers, bytes | dict, seconds)``."""

    def __init__(self, script):
        super().__init__("v1")
        self.script, self.headers, self.tries = script, [], Counter()

    def note(self, handler, request):
        last = json.dumps(request["messages"][-1]["content"])
        self.headers.append(dict(handler.headers))
        self.tries[last] += 1
        return self.tries[last] - 1

    def answer(self, number, request):
        status, headers, content, seconds = self.script(number, request)
        time.sleep(seconds)
        return status, headers, content

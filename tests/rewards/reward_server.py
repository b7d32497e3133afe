"""A reward service in this process that can be killed and started again at its address."""

from __future__ import annotations

from fake_server import FakeServer


class RewardServer(FakeServer):
    """``script(number of requests before, request) -> (status, content)``."""

    def __init__(self, script, port=0):
        super().__init__("score", port)
        self.script = script

    def answer(self, number, request):
        status, content = self.script(number, request)
        return status, {}, content.encode() if isinstance(content, str) else content

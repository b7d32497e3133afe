"""A judge that says what it is told to."""

from sightline.evaluation.bench import JudgeReply


class ScriptedJudge:
    """Replies by request id; a list holds one reply for each attempt, None is a failure."""

    name = "scripted"

    def __init__(self, replies, default=None):
        self.replies, self.default, self.requests = replies, default, []

    def ask(self, requests):
        self.requests += requests
        return [self._reply(request) for request in requests]

    def _reply(self, request):
        said = self.replies.get(request.id, self.default)
        said = said[request.attempt] if isinstance(said, list) else said
        return JudgeReply(text=said, error="" if said is not None else "timed out")

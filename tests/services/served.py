"""Services in this process: asked without a socket (``asked``), or behind a real server in a thread (``Live``)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from dataclasses import replace

from sightline.services.build import build_service
from sightline.services.serve import bound_socket, server_of
from sightline.services.spec import ServeSpec


async def ask(app, path, body=None, *, method=None, headers=(), host=b"127.0.0.1", hang_up=None):
    """(status, headers, body) of one request; ``body`` bytes, or what becomes JSON."""
    content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    told = [(b"host", host), (b"content-type", b"application/json"), *headers]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "query_string": b"",
        "method": method or ("GET" if body is None else "POST"), "path": path, "raw_path": path.encode("utf-8", "replace"),  # noqa: E501
        "headers": told, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80), "root_path": "",
    }  # fmt: skip
    sent, first = [], True

    async def receive():
        nonlocal first
        if first:
            first = False
            return {"type": "http.request", "body": content, "more_body": False}
        await (asyncio.Event().wait() if hang_up is None else asyncio.sleep(hang_up))
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    await app(scope, receive, send)
    if not sent:
        return 0, {}, b""
    heads = {key.decode(): value.decode() for key, value in sent[0]["headers"]}
    return sent[0]["status"], heads, b"".join(one.get("body", b"") for one in sent[1:])


@contextlib.asynccontextmanager
async def running(app):
    async with app.app.router.lifespan_context(app.app):
        yield app


def asked(app, *requests, **options):
    """Replies to requests, ``(path, body)`` each, that come at the same time: (status, JSON)."""

    async def all_of_them():
        async with running(app):
            return await asyncio.gather(*(ask(app, path, body, **options) for path, body in requests))

    return [(status, json.loads(content)) for status, _, content in asyncio.run(all_of_them())]


class Live:
    """A service behind a real server on 127.0.0.1, in a thread."""

    def __init__(self, spec, app=None):
        self.spec, self.app = spec, app

    def __enter__(self):
        self._bound = bound_socket(self.spec.host, self.spec.port)
        self.port = self._bound.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.app = self.app or build_service(self.spec)
        self.server = server_of(self.spec, self.app)
        self._bound.listen(128)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self._bound]}, daemon=True)
        self.thread.start()
        while not self.server.started:
            assert self.thread.is_alive(), "the service did not start"
            time.sleep(0.005)
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        self.server.should_exit = True
        self.thread.join(30)
        assert not self.thread.is_alive()
        self._bound.close()

    def again(self):
        """Another one at the same address."""
        return Live(replace(self.spec, port=self.port))


def spec(what="judge", **options):
    return ServeSpec(**{"what": what, "model": "scenes", "port": 0, **options})

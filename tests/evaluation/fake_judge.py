"""An OpenAI-compatible server in this process that answers as it is told, well or badly."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def body(text, *, finish="stop", prompt_tokens=10, completion_tokens=5):
    """A well-formed reply."""
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    return {"choices": [{"message": {"content": text}, "finish_reason": finish}], "usage": usage}


class FakeJudge:
    """``script(number of this request's tries so far, request) -> (status, headers, bytes | dict, seconds)``."""

    def __init__(self, script):
        self.script, self.requests, self.headers = script, [], []
        self.tries, self.now, self.most = Counter(), 0, 0
        self._lock = threading.Lock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                fake.serve(self)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def serve(self, handler):
        request = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        last = json.dumps(request["messages"][-1]["content"])
        with self._lock:
            self.requests.append(request)
            self.headers.append(dict(handler.headers))
            number = self.tries[last]
            self.tries[last] += 1
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            status, headers, content, seconds = self.script(number, request)
            time.sleep(seconds)
            content = content if isinstance(content, bytes) else json.dumps(content).encode()
            length = headers.pop("Content-Length", len(content))
            handler.send_response(status)
            for name, value in {**headers, "Content-Length": length}.items():
                handler.send_header(name, str(value))
            handler.end_headers()
            handler.wfile.write(content)
        except OSError:
            pass  # the client gave up waiting
        finally:
            with self._lock:
                self.now -= 1

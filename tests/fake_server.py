"""A server in this process that is asked by POST, counts what it is asked, and answers by a script."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FakeServer:
    """Subclasses answer: ``reply(handler, request)``. ``requests`` are kept, and the ``most`` that came at one time."""

    def __init__(self, path, port=0):
        self.requests, self.now, self.most = [], 0, 0
        self._lock = threading.Lock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                fake.serve(self)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_port
        self.url = f"http://127.0.0.1:{self.port}/{path}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def serve(self, handler):
        request = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self._lock:
            number = self.note(handler, request)
            self.requests.append(request)
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            try:
                status, headers, content = self.answer(number, request)
            finally:  # before the client can know, and ask again
                with self._lock:
                    self.now -= 1
            content = content if isinstance(content, bytes) else json.dumps(content).encode()
            handler.send_response(status)
            for name, value in ({"Content-Length": len(content)} | headers).items():
                handler.send_header(name, str(value))
            handler.end_headers()
            handler.wfile.write(content)
        except OSError:
            pass  # the client gave up waiting

    def note(self, handler, request):
        """Called before a request counts, one at a time: the number that ``answer`` is given."""
        return len(self.requests)

    def answer(self, number, request):
        """Status, headers, and content as bytes or as what becomes JSON. ``OSError``: it hangs up."""
        raise NotImplementedError

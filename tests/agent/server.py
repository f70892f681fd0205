"""A small HTTP server on loopback that answers as an API server does, or as one should not."""

from __future__ import annotations

import http.server
import json
import queue
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

Answer = tuple[int, bytes]


class Request:
    """What was asked for."""

    def __init__(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        self.method = handler.command
        self.path = parts.path
        self.query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        self.token = handler.headers.get("Authorization", "")
        self.kind = handler.headers.get("Content-Type", "")
        self.body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))


class Server:
    """Answers with ``answer``; a watch gives the chunks put into ``chunks`` until None (an end) or False (a break)."""

    def __init__(self, answer: Callable[[Request], Answer]) -> None:
        self.requests: list[Request] = []
        self.chunks: queue.Queue[bytes | bool | None] = queue.Queue()
        self.watch_status = 200
        self.answer = answer
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

            def _any(self) -> None:
                request = Request(self)
                outer.requests.append(request)
                if request.query.get("watch") == "true" and outer.watch_status == 200:
                    self._watch()
                    return
                status, body = outer.answer(request)
                if request.query.get("watch") == "true":
                    status = outer.watch_status
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def _watch(self) -> None:
                self.send_response(200)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                while isinstance(chunk := outer.chunks.get(), bytes):
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
                if chunk is None:
                    self.wfile.write(b"0\r\n\r\n")
                self.close_connection = True

            do_GET = do_PATCH = _any  # noqa: N815

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def event(self, type_: str, body: dict[str, Any]) -> None:
        """Send an event to the watch."""
        self.chunks.put(json.dumps({"type": type_, "object": body}).encode() + b"\n")

    def close(self) -> None:
        """Stop."""
        self.chunks.put(None)
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

"""Answers of a server whose model is still loading: 503 with Retry-After, instead of a refused connection.

vLLM binds its port before it loads the model, and listens on it only afterwards. Here the bound socket listens at
once: a thread answers on it until vLLM's HTTP server takes over.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from decoding.server.http import RETRY_SECONDS, error_content

LOADING_MESSAGE = "the server is loading its model. Send the request again later."

CLIENT_TIMEOUT_SECONDS = 5
"""Seconds that a client has to send its request."""

MAX_DISCARDED_BYTES = 2**20
"""Bytes of a body that are read before the answer. Some clients read no answer before they have sent their body."""


class _LoadingHandler(BaseHTTPRequestHandler):
    timeout = CLIENT_TIMEOUT_SECONDS

    def _refuse(self) -> None:
        length = self.headers.get("Content-Length", "0")
        self.rfile.read(min(int(length) if length.isdecimal() else 0, MAX_DISCARDED_BYTES))
        content = json.dumps(error_content(LOADING_MESSAGE, 503)).encode()
        self.send_response(503)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Retry-After", str(RETRY_SECONDS))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):  # the base class looks up do_GET, do_POST and so on
            return self._refuse
        raise AttributeError(name)

    def log_message(self, format: str, *args: Any) -> None:
        """Writes nothing."""


class _LoadingServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores clients that hang up."""


class LoadingResponder:
    """HTTP server in a thread that answers every request with 503."""

    def __init__(self) -> None:
        self._server: _LoadingServer | None = None
        self._thread: threading.Thread | None = None

    def start(self, sock: Any) -> None:
        """Answers on a bound TCP socket."""
        self._server = _LoadingServer(sock.getsockname()[:2], _LoadingHandler, bind_and_activate=False)
        self._server.socket.close()
        self._server.socket = sock
        self._server.server_activate()
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="loading", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Answers nothing more. The socket goes on listening, so connections wait for the next server."""
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._thread.join()
        self._server = self._thread = None


LOADING = LoadingResponder()

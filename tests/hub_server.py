"""A hub on loopback: the requests that `HfApi` makes to write a data set repository."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Hub(ThreadingHTTPServer):
    """The server with its one account, whose token is 'hf_right'.

    Attributes:
        repositories: name -> whether it is private.
        files: name of a repository -> path -> content.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, bool] = {}
        self.files: dict[str, dict[str, bytes]] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        if not self._is_allowed():
            return
        name = "/".join(self.path.split("?")[0].split("/")[3:5])
        if self.path.startswith("/api/whoami"):
            self._send({"name": "me", "type": "user"})
        elif name not in self.server.repositories:
            self._send({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        elif "/tree/" in self.path:
            tree = self.server.files[name].items()
            self._send([{"type": "file", "path": path, "size": len(data), "oid": "0"} for path, data in tree])
        else:
            private = self.server.repositories[name]
            self._send({"id": name, "private": private, "sha": "0" * 40, "siblings": [], "disabled": False})

    def do_POST(self) -> None:
        body = self._body()
        if not self._is_allowed():
            return
        if self.path == "/api/repos/create":
            node = json.loads(body)
            name = f"{node.get('organization', 'me')}/{node['name']}"
            private = node.get("private", False) or node.get("visibility") == "private"
            self.server.repositories.setdefault(name, private)
            self.server.files.setdefault(name, {})
            self._send({"url": f"{self.server.url}/datasets/{name}", "name": name})
        elif "/preupload/" in self.path:
            paths = [file["path"] for file in json.loads(body)["files"]]
            self._send({"files": [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in paths]})
        elif "/commit/" in self.path:
            name = "/".join(self.path.split("/")[3:5])
            files = self.server.files[name]
            for operation in map(json.loads, body.splitlines()):
                value = operation["value"]
                if operation["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif operation["key"] == "deletedFile":
                    del files[value["path"]]
            address = f"{self.server.url}/datasets/{name}/commit/{'1' * 40}"
            self._send({"success": True, "commitOid": "1" * 40, "commitUrl": address})
        else:
            self._send({})

    def _is_allowed(self) -> bool:
        if self.headers.get("Authorization") != "Bearer hf_right":
            self._send({"error": "Invalid credentials in Authorization header"}, 401)
            return False
        if self.path.startswith("/api/datasets/others/"):
            self._send({"error": "You have no rights"}, 403)
            return False
        return True

    def _body(self) -> bytes:
        if length := int(self.headers.get("Content-Length") or 0):
            return self.rfile.read(length)
        chunks = b""
        while self.headers.get("Transfer-Encoding") == "chunked" and (size := int(self.rfile.readline(), 16)):
            chunks += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return chunks

    def _send(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(data)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Prints nothing."""


@contextmanager
def hub() -> Iterator[Hub]:
    """A running hub."""
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()

"""A hub on loopback: the requests that `HfApi` makes to write a data set repository, and to read a model."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

LARGE = (".safetensors", ".bin", ".gguf")
"""Endings of files that a hub stores by their sha256."""


@dataclass
class Model:
    """A model repository.

    Attributes:
        commits: Commit -> its files.
        refs: Branch, tag or pull request -> its commit.
        is_gated: Whether only the account may read the files, not the metadata.
        is_private: Whether others do not see that it exists.
    """

    commits: dict[str, Mapping[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    is_gated: bool = False
    is_private: bool = False

    def commit(self, revision: str) -> str | None:
        """The commit of a revision; None if there is no such revision."""
        return revision if revision in self.commits else self.refs.get(revision)


@dataclass
class Fault:
    """What goes wrong with requests whose address contains `part`.

    Attributes:
        status: Status of the answer. 0: the answer is right, up to its content.
        headers: More headers of the answer.
        times: How often it goes wrong.
        cut: The connection ends after so many bytes. None: it does not.
        content: What is sent in place of the file.
    """

    part: str
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    times: int = 10**6
    cut: int | None = None
    content: bytes | None = None


class Hub(ThreadingHTTPServer):
    """The server with its one account, whose token is 'hf_right'.

    Attributes:
        repositories: name -> whether it is private.
        files: name of a repository -> path -> content.
        models: name of a model -> its repository.
        faults: What goes wrong.
        requests: Methods and addresses of all requests to read a model.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, bool] = {}
        self.files: dict[str, dict[str, bytes]] = {}
        self.models: dict[str, Model] = {}
        self.faults: list[Fault] = []
        self.requests: list[str] = []

    def push(self, name: str, folder: Path, revision: str = "main", **more: bytes | None) -> str:
        """Stores the files of a folder as a model, and returns the commit.

        more: files to add, or to leave out (None), with `__` for a point in their names.
        """
        files = {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
        changed = files | {key.replace("__", "."): content for key, content in more.items()}
        stored = {key: content for key, content in changed.items() if content is not None}
        commit = hashlib.sha1(repr(sorted(stored.items())).encode()).hexdigest()
        model = self.models.setdefault(name, Model())
        model.commits[commit], model.refs[revision] = stored, commit
        return commit

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self._read_model()

    def do_GET(self) -> None:
        if self.path.startswith("/api/models/") or "/resolve/" in self.path:
            self._read_model()
            return
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

    def _read_model(self) -> None:
        """The commit of a model, the list of its files, or a file."""
        self.server.requests.append(f"{self.command} {self.path}")
        fault = next((one for one in self.server.faults if one.part in self.path and one.times > 0), None)
        if fault is not None:
            fault.times -= 1
            if fault.status:
                self._send({"error": "a fault"}, fault.status, dict(fault.headers))
                return
        is_api = self.path.startswith("/api/models/")
        parts = self.path.split("?")[0].removeprefix("/api/models").strip("/").split("/")
        name, rest = "/".join(parts[:2]), parts[2:]
        model, token = self.server.models.get(name), self.headers.get("Authorization")
        if token not in (None, "Bearer hf_right", "Bearer hf_other"):
            self._send({}, 401, {"X-Error-Message": "Invalid credentials in Authorization header"})
        elif model is None or (model.is_private and token != "Bearer hf_right"):
            self._send({}, 401 if token is None else 404, {"X-Error-Code": "RepoNotFound"})
        elif not is_api and model.is_gated and token != "Bearer hf_right":
            self._send({}, 401 if token is None else 403, {"X-Error-Code": "GatedRepo"})
        elif (commit := model.commit(rest[1].replace("%2F", "/") if rest else "main")) is None:
            self._send({}, 404, {"X-Error-Code": "RevisionNotFound"})
        elif is_api and rest[:1] == ["tree"]:
            self._send([_entry(path, content) for path, content in model.commits[commit].items()])
        elif is_api:
            self._send({"id": name, "sha": commit, "siblings": [], "private": False, "gated": model.is_gated})
        else:
            path = "/".join(rest[2:])
            self._send_file(path, model.commits[commit][path], commit, fault)

    def _send_file(self, path: str, content: bytes, commit: str, fault: Fault | None) -> None:
        start = int(self.headers.get("Range", "bytes=0-").partition("=")[2].partition("-")[0])
        sent = content[start:] if fault is None or fault.content is None else fault.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{_etag(path, content)}"')
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(sent if fault is None else sent[: fault.cut])

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
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Prints nothing."""


def _etag(path: str, content: bytes) -> str:
    """The name of a file's content: its sha256 if it is large, else git's sha1."""
    if path.endswith(LARGE):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _entry(path: str, content: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": _etag(path, content)}
    if path.endswith(LARGE):
        entry["lfs"] = {"oid": _etag(path, content), "size": len(content), "pointerSize": 100}
    return entry


@contextmanager
def reading_hub(patch: pytest.MonkeyPatch, cache: Path) -> Iterator[Hub]:
    """A running hub that this process reads, with an empty cache, without an account and without waiting."""
    from huggingface_hub import constants

    with hub() as server:
        patch.setattr(constants, "ENDPOINT", server.url)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}")
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
        patch.delenv("HF_TOKEN", raising=False)
        patch.setenv("NO_PROXY", "127.0.0.1")
        patch.setattr("time.sleep", lambda seconds: server.requests.append(f"wait {seconds}"))
        yield server


@contextmanager
def hub() -> Iterator[Hub]:
    """A running hub."""
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()

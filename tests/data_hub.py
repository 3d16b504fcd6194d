"""A hub on loopback with data sets: the requests that `datasets.load_dataset` makes.

A repository has commits, the newest last, and each commit has files. Names of branches and tags point to commits.
"""

import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

Files = Mapping[str, bytes]
_REPOSITORY = re.compile(r"/(?:api/)?datasets/([^/]+/[^/]+)(?:/(revision|tree|resolve|paths-info)/([^/]+))?(?:/(.*))?$")


def commit_name(name: str, files: Files) -> str:
    """The id of a commit with these files."""
    return hashlib.sha1(repr((name, sorted(files.items()))).encode()).hexdigest()


def parquet_bytes(rows: list[dict[str, Any]], images: tuple[str, ...] = ("image",)) -> bytes:
    """A parquet file with rows of plain values and PIL images."""
    from datasets import Dataset, Features, Image

    plain = Dataset.from_list([{key: value for key, value in row.items() if key not in images} for row in rows])
    features = Features({**plain.features, **{name: Image() for name in images if name in rows[0]}})
    buffer = io.BytesIO()
    Dataset.from_list(rows, features=features).to_parquet(buffer)
    return buffer.getvalue()


class DataHub(ThreadingHTTPServer):
    """The server.

    Attributes:
        commits: Name of a repository -> its commits.
        refs: Name of a repository -> branch or tag -> commit.
        faults: Part of an address -> the status and headers of its answers.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.commits: dict[str, dict[str, Files]] = {}
        self.refs: dict[str, dict[str, str]] = {}
        self.requests: list[str] = []
        self.faults: dict[str, tuple[int, Mapping[str, str]]] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def push(self, name: str, files: Files, *refs: str) -> str:
        """A new commit, at which `main` and other refs point from now on. Returns its id."""
        commit = commit_name(name, files)
        self.commits.setdefault(name, {})[commit] = files
        self.refs.setdefault(name, {}).update(dict.fromkeys(("main", *refs), commit))
        return commit


class _Handler(BaseHTTPRequestHandler):
    server: DataHub

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def _answer(self, body: bytes = b"") -> None:
        path = self.path.split("?")[0].replace("%2F", "/")
        self.server.requests.append(path)
        for part, (status, headers) in self.server.faults.items():
            if part in path:
                return self._send(status, {"error": "a fault"}, headers)
        match = _REPOSITORY.match(path)
        if match is None or match[1] not in self.server.commits:
            return self._send(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        name, _, revision, _ = match.groups()
        commit = self.server.refs[name].get(revision or "main", revision)
        if commit not in self.server.commits[name]:
            return self._send(404, {"error": f"Invalid rev id: {revision}"}, {"X-Error-Code": "RevisionNotFound"})
        return self._content(match, commit, body)

    def _content(self, match: re.Match[str], commit: str, body: bytes) -> None:
        name, verb, _, rest = (group or "" for group in match.groups())
        files = self.server.commits[name][commit]
        missing = 404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"}
        entries = [
            {"type": "file", "path": file, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            for file, data in files.items()
        ]
        if verb == "resolve":
            etag = f'"{hashlib.sha1(files.get(rest, b"")).hexdigest()}"'
            headers = {"X-Repo-Commit": commit, "ETag": etag}
            self._send(*((200, files[rest], headers) if rest in files else missing))
        elif verb == "tree":
            folders = sorted({file.rpartition("/")[0] for file in files if "/" in file} - {rest})
            entries += [{"type": "directory", "path": folder, "oid": "0" * 40, "size": 0} for folder in folders]
            inside = [entry for entry in entries if str(entry["path"]).startswith(f"{rest}/" if rest else "")]
            self._send(*((200, inside) if inside or not rest else missing))
        elif verb == "paths-info":
            paths = json.loads(body)["paths"]
            self._send(200, [entry for entry in entries if entry["path"] in paths])
        else:
            siblings = [{"rfilename": file} for file in files]
            self._send(200, {"id": name, "sha": commit, "private": False, "tags": [], "siblings": siblings})

    def _send(self, status: int, content: Any, headers: Mapping[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Writes nothing to stderr."""


@contextmanager
def data_hub(monkeypatch: Any, cache: Any) -> Iterator[DataHub]:
    """A running hub, which `datasets` and `huggingface_hub` use in this process, with an empty cache."""
    server = DataHub()
    thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    for target, value in (
        ("datasets.config.HF_ENDPOINT", server.url),
        ("datasets.config.HF_DATASETS_CACHE", cache / "datasets"),
        ("datasets.config.HF_MODULES_CACHE", str(cache / "modules")),
        ("huggingface_hub.constants.ENDPOINT", server.url),
        (
            "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
            server.url + "/{repo_id}/resolve/{revision}/{filename}",
        ),
        ("huggingface_hub.constants.HF_HUB_CACHE", str(cache / "hub")),
        ("huggingface_hub.constants.HF_HUB_OFFLINE", False),
        ("datasets.config.HF_HUB_OFFLINE", False),
    ):
        monkeypatch.setattr(target, value)
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

"""A page to label outputs in a browser, served to this machine alone.

The address has a secret, and requests with another Host are refused, so that no page of another origin can read outputs
or write labels. Text of data sets and models is escaped, and only images of the outputs to label are sent.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from urllib.parse import parse_qs

from experiments.report.rendering import policy_digest
from experiments.report.sample_browser import image_path
from experiments.results.labeling import Output
from icl import ICLError

MAX_BODY = 1024
"""Bytes of a form."""
HTML = "text/html; charset=utf-8"
NAMES = {" ": "space"}
STYLE = (
    "body{max-width:50em;margin:2em auto;font:1.1em sans-serif}dt{color:#666}dd{margin:0 0 1em;white-space:pre-wrap}"
    "img{max-height:20em;max-width:100%}button{font:inherit;margin-right:1em}"
)
SCRIPT = (
    "addEventListener('keydown',e=>{const b=[...document.querySelectorAll('button')].find(b=>b.value===e.key);"
    "if(b&&!e.ctrlKey&&!e.metaKey&&!e.altKey){e.preventDefault();b.click()}})"
)
HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; img-src 'self'; style-src '{policy_digest(STYLE)}'; "
        f"script-src '{policy_digest(SCRIPT)}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class LabelServer(ThreadingHTTPServer):
    """A server on a free port of this machine: browsers open connections that they do not use at once.

    Args:
        run: The run directory with the images.
        current: Returns the output to label, or None at the end, and where it stands, in words.
        press: Receives a key. It returns False if the person stops.
        keys: Key -> what it means.
    """

    def __init__(
        self,
        run: Path,
        current: Callable[[], tuple[Output | None, str]],
        press: Callable[[str, str], bool],
        keys: Mapping[str, str],
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.run, self.current, self.press, self.keys = run, current, press, keys
        self.secret, self.lock = secrets.token_urlsafe(16), Lock()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    @property
    def address(self) -> str:
        return f"http://{self.host}/{self.secret}/"


class _Handler(BaseHTTPRequestHandler):
    server: LabelServer

    def do_GET(self) -> None:
        place = self._place()
        with self.server.lock:
            output, standing = self.server.current()
        if place == "":
            self._answer(200, HTML, page(output, standing, self.server.keys).encode())
        elif output is not None and place in output.images and (file := image_path(self.server.run, place)) is not None:
            self._answer(200, "image/png", file.read_bytes())
        else:
            self._answer(404, "text/plain", b"There is no such page.")

    def do_POST(self) -> None:
        size = self.headers.get("Content-Length", "")
        if self._place() != "" or not size.isascii() or not size.isdigit() or int(size) > MAX_BODY:
            self._answer(404, "text/plain", b"There is no such page.")
            return
        form = parse_qs(self.rfile.read(int(size)).decode(errors="replace"), keep_blank_values=True)
        try:
            with self.server.lock:
                goes_on = self.server.press(form.get("key", [""])[0], form.get("output", [""])[0])
                standing = self.server.current()[1]
        except ICLError as error:  # such as a full disk
            self._answer(500, "text/plain; charset=utf-8", str(error).encode(errors="replace"))
            return
        if not goes_on:
            self._answer(200, HTML, page(None, f"{standing} Close this page.", self.server.keys).encode())
            self.server.shutdown()
            return
        self.send_response(303)
        self.send_header("Location", f"/{self.server.secret}/")
        self.end_headers()

    def _place(self) -> str | None:
        """What follows the secret; None without it, and for another host."""
        head = f"/{self.server.secret}/"
        if self.headers.get("Host") != self.server.host or not secrets.compare_digest(
            self.path[: len(head)].encode(), head.encode()
        ):
            return None
        return self.path[len(head) :]

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **HEADERS}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not printed: keys are, by the command."""


def page(output: Output | None, standing: str, keys: Mapping[str, str]) -> str:
    """The page of one output, or of the end."""
    body = f"<p>{escape(standing)}</p>"
    if output is not None:
        images = "".join(f'<img src="{escape(name)}" alt="">' for name in output.images)
        texts: Sequence[tuple[str, str]] = (
            ("question", escape(output.question)), ("images", images), ("options", escape(" / ".join(output.options))),
            ("accepted", escape(" / ".join(output.gold))), ("output", f"<b>{escape(output.text)}</b>"),
        )  # fmt: skip
        parts = "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in texts if text)
        buttons = "".join(
            f'<button name="key" value="{escape(key)}">{escape(word)} ({escape(NAMES.get(key, key))})</button>'
            for key, word in keys.items()
        )
        hidden = f'<input type="hidden" name="output" value="{escape(output.key)}">'
        body += f'<dl>{parts}</dl><form method="post">{hidden}{buttons}</form>'
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
        f"<title>Label outputs</title><style>{STYLE}</style><body>{body}<script>{SCRIPT}</script></body></html>"
    )

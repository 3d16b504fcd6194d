"""A real endpoint on this machine that answers each request with a function."""

import json
import math
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Server:
    """behavior(number of the request, its body) -> (status, headers, body) or a text, or None: hang up."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.gets: list[dict[str, str]] = []
        self.get_replies: dict[str, Any] = {}  # path -> the answer to a GET; else 404
        self.behavior: Callable[[int, dict[str, Any]], Any] = lambda number, body: "a cat"
        self.lock, self.inside, self.max_concurrent = threading.Lock(), 0, 0
        self.pause = 0.0  # seconds after each byte of an answer
        self.start(0)

    def start(self, port: int) -> None:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # as in icl.testing.vision_server

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer.lock:
                    outer.inside += 1
                    outer.max_concurrent = max(outer.max_concurrent, outer.inside)
                    number = len(outer.bodies)
                    outer.bodies.append(body)
                    outer.headers.append({"path": self.path, **self.headers})
                reply = outer.behavior(number, body)
                with outer.lock:
                    outer.inside -= 1
                if reply is None:
                    self.close_connection = True
                    return
                status, headers, sent = (200, {}, completion(reply)) if isinstance(reply, str) else reply
                data = sent if isinstance(sent, bytes) else json.dumps(sent).encode()
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(data))}.items():
                    self.send_header(name, value)
                self.end_headers()
                for part in [data] if not outer.pause else [data[i : i + 1] for i in range(len(data))]:
                    self.wfile.write(part)
                    time.sleep(outer.pause)

            def do_GET(self) -> None:
                outer.gets.append({"path": self.path, **self.headers})
                data = json.dumps(outer.get_replies.get(self.path, {"error": "not found"})).encode()
                self.send_response(200 if self.path in outer.get_replies else 404)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads, block_on_close = True, False

            def handle_error(self, *_: Any) -> None:  # a client that gave up
                pass

        self.http = Quiet(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        self.http.shutdown()
        self.http.server_close()


def completion(text: str | None, finish: str = "stop", **more: Any) -> dict[str, Any]:
    usage = {"prompt_tokens": 7, "completion_tokens": len((text or "").split()) + 1}
    message = {"role": "assistant", "content": text}
    return {"choices": [{"message": message, "finish_reason": finish, **more}], "usage": usage}


def listed(likeliest: Mapping[str, float]) -> dict[str, Any]:
    """The `logprobs` of a choice whose first token has these probabilities."""
    top = [{"token": token, "logprob": math.log(p)} for token, p in likeliest.items()]
    return {"content": [{"token": top[0]["token"], "logprob": top[0]["logprob"], "top_logprobs": top}]}

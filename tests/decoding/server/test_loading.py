"""Requests that arrive while the model loads are answered with 503, and later ones by the next server on the socket."""

import json
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from decoding.server.loading import CLIENT_TIMEOUT_SECONDS, LoadingResponder


@pytest.fixture
def bound() -> Iterator[socket.socket]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock


def send(sock: socket.socket, body: bytes | None = None) -> tuple[int, str | None, bytes]:
    """Status, Retry-After and body of the answer to a request."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{sock.getsockname()[1]}/v1/models", body, timeout=20) as answer:
            return answer.status, answer.headers["Retry-After"], answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Retry-After"], error.read()


@pytest.mark.parametrize("body", [None, b"{}", b"x" * 500_000])
def test_every_request_is_answered_with_503(bound: socket.socket, body: bytes | None) -> None:
    responder = LoadingResponder()
    responder.start(bound)
    status, retry_after, content = send(bound, body)
    responder.stop()
    assert (status, retry_after) == (503, "10")
    assert "loading its model" in json.loads(content)["error"]["message"]


def test_a_client_that_sends_half_a_request_delays_nobody(bound: socket.socket) -> None:
    responder, before = LoadingResponder(), set(threading.enumerate())
    responder.start(bound)
    with socket.create_connection(bound.getsockname(), 20) as client:
        client.sendall(b"POST /v1/models HTTP/1.1\r\nContent-Length: 99\r\n\r\n{")
        assert send(bound)[0] == 503
        # One that serves, one that waits for the client: the process may end without them.
        threads = set(threading.enumerate()) - before
        assert len(threads) >= 2
        assert all(thread.daemon for thread in threads)
        responder.stop()


def test_a_length_that_is_no_number_is_answered_without_waiting_for_a_body(bound: socket.socket) -> None:
    responder = LoadingResponder()
    responder.start(bound)
    with socket.create_connection(bound.getsockname(), CLIENT_TIMEOUT_SECONDS / 2) as client:
        client.sendall(b"POST /v1/models HTTP/1.1\r\nContent-Length: many\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.0 503")
    responder.stop()


def test_a_responder_that_has_stopped_leaves_no_thread(bound: socket.socket) -> None:
    """It accepts no connection any more, and may be started and stopped again."""
    responder = LoadingResponder()
    for _ in range(2):
        before = set(threading.enumerate())
        responder.start(bound.dup())
        (thread,) = set(threading.enumerate()) - before
        assert thread.daemon
        responder.stop()
        assert not thread.is_alive()


def test_the_next_server_takes_over_the_socket(bound: socket.socket) -> None:
    class Ready(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    responder = LoadingResponder()
    responder.stop()  # it may never have started
    responder.start(bound)
    assert send(bound)[0] == 503
    responder.stop()
    answers: list[int] = []
    early = threading.Thread(target=lambda: answers.append(send(bound)[0]))
    early.start()  # between the two servers: the connection waits
    server = HTTPServer(("127.0.0.1", 0), Ready, bind_and_activate=False)
    server.socket.close()
    server.socket = bound
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    early.join(20)
    server.shutdown()
    assert answers == [200]

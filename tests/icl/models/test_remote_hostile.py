"""Endpoints with invalid or endless answers: an error within the time limit, and no text that a file cannot store."""

import gzip
import json
import math
from dataclasses import asdict
from typing import Any

import pytest
from endpoint_server import completion

from icl.errors import ModelError
from icl.models.base import Request
from icl.models.icl_server import generation_in
from icl.models.remote import Remote
from icl.types import Generation, Part, Prompt, Turn

DEEP = b"[" * 100_000 + b"]" * 100_000


def request(options: tuple[str, ...] = ()) -> Request:
    return Request(Prompt((Turn("user", (Part("what?", "query.question"),)),)), options, 6, score_options=bool(options))


def remote_model(url: str, **more: Any) -> Remote:
    return Remote(**{"url": url, "model": "m", "backoff": 0.01, "retries": 0, **more})


@pytest.mark.parametrize(
    ("status", "charset", "sent", "message"),
    [
        (200, "zlib", b"<html>hi</html>", "the answer is not JSON"),
        (500, "idna", b"\xff\xfe..x", "status 500"),
        (400, "punycode", b"x-\x80", "the server rejected the request: status 400"),
        (200, "utf-8", DEEP, "the answer is not JSON"),
        (400, "utf-8", DEEP, "the server rejected the request: status 400"),
        (
            200,
            "utf-8",
            b'{"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": 1e999}}',
            "no choices",
        ),
        (204, "utf-8", b"", "the answer has no choices: status 204"),
    ],
)
def test_an_invalid_answer_is_an_error_with_a_message(
    status: int, charset: str, sent: bytes, message: str, server: Any
) -> None:
    server.behavior = lambda number, body: (status, {"Content-Type": f"text/html; charset={charset}"}, sent)
    with pytest.raises(ModelError, match=message):
        remote_model(server.url).generate([request()])


def test_a_header_with_invalid_characters_is_ignored(server: Any) -> None:
    server.behavior = lambda number, body: (429, {"Retry-After": "très bientôt"}, {}) if not number else "a cat"
    assert remote_model(server.url, retries=1).generate([request()])[0].text == "a cat"


@pytest.mark.parametrize("finish", ["abort", "error"])
def test_an_interrupted_answer_is_no_answer(finish: str, server: Any) -> None:
    server.behavior = lambda number, body: (200, {}, completion("a c", finish))
    with pytest.raises(ModelError, match=f"stopped the answer early .*'{finish}'"):
        remote_model(server.url).generate([request()])


def test_half_a_character_is_marked_and_the_rest_is_kept(server: Any) -> None:
    sent = b'{"choices": [{"message": {"content": "a \\ud83d\\ude00 \\ud800."}}]}'
    server.behavior = lambda number, body: (200, {}, sent)
    assert remote_model(server.url).generate([request()])[0].text == "a 😀 �."


def test_a_compressed_answer_is_decompressed(server: Any) -> None:
    sent = gzip.compress(json.dumps(completion("a cat")).encode())
    server.behavior = lambda number, body: (200, {"Content-Encoding": "gzip"}, sent)
    assert remote_model(server.url).generate([request()])[0].text == "a cat"


RED = {"token": "red", "logprob": -0.1}
TOP = [RED, {"token": "blue", "logprob": -3.0}]


def scored(server: Any, logprobs: Any, text: str = "red") -> dict[str, float]:
    server.behavior = lambda number, body: (200, {}, completion(text, logprobs=logprobs))
    return dict(remote_model(server.url).generate([request(("red", "blue"))])[0].option_scores)


@pytest.mark.parametrize(
    ("logprobs", "sentence"),
    [
        (None, "has no log-probabilities"),
        ({}, "has no log-probabilities"),
        ("none", "another shape than .*: none"),
        ({"content": None}, "another shape than"),
        ({"content": []}, "none of the tokens with log-probabilities has a text"),
        ({"content": [{"token": "\n", "top_logprobs": []}]}, "none of the tokens with log-probabilities has a text"),
        ({"content": ["red"]}, "another shape than"),
        ({"content": [{"logprob": -0.1, "top_logprobs": TOP}]}, "another shape than"),
        ({"content": [{"token": 17, "top_logprobs": TOP}]}, "another shape than"),
        ({"content": [RED]}, "another shape than"),
        ({"content": [RED | {"top_logprobs": None}]}, "another shape than"),
        ({"content": [RED | {"top_logprobs": []}]}, r"no other token is listed beside 'red' \(top_logprobs\)"),
        ({"content": [RED | {"top_logprobs": {"red": -0.1}}]}, "another shape than"),
        ({"content": [RED | {"bytes": [999], "top_logprobs": TOP}]}, "another shape than"),
        ({"tokens": ["red"], "top_logprobs": [{"red": -0.1}]}, "another shape than"),
        ({"content": [RED | {"top_logprobs": [RED | {"logprob": None}]}]}, "None is listed as a log-probability"),
        ({"content": [RED | {"top_logprobs": [RED | {"logprob": "-0.1"}]}]}, "'-0.1' is listed as a log-probability"),
        ({"content": [{"token": "<think>", "top_logprobs": TOP}]}, "begin with '<think>', and the answer with 'red'"),
    ],
)
def test_log_probabilities_of_another_shape_are_named(logprobs: Any, sentence: str, server: Any) -> None:
    with pytest.raises(ModelError, match=sentence):
        scored(server, logprobs)


@pytest.mark.parametrize("text", ["red", "red.", " red", "Ärger", ""])
@pytest.mark.parametrize("sent", [{}, {"bytes": None}, {"bytes": "own"}])
def test_log_probabilities_are_read_with_and_without_bytes(text: str, sent: dict[str, Any], server: Any) -> None:
    first = text[:1] or "\n"
    own = {"bytes": list(first.encode())} if sent.get("bytes") else sent
    steps = [{"token": "\ufffd" if own.get("bytes") else first, **own, "top_logprobs": TOP}]
    steps += [] if text.strip() and first.strip() else [RED | {"top_logprobs": TOP}]
    assert scored(server, {"content": steps}, text) == {"red": pytest.approx(-0.1), "blue": pytest.approx(-3.0)}


@pytest.mark.parametrize("logprob", [math.nan, math.inf, 3.0, 1e6])
def test_invalid_log_probabilities_give_no_score(logprob: float, server: Any) -> None:
    top = [{"token": "red", "logprob": -0.1}, {"token": "blue", "logprob": logprob}]
    server.behavior = lambda number, body: (
        200,
        {},
        completion("red", logprobs={"content": [{"token": "red", "top_logprobs": top}]}),
    )
    with pytest.raises(ModelError, match="is listed as a log-probability but is not one"):
        remote_model(server.url).generate([request(("red", "blue"))])


def test_the_key_is_masked_in_an_answer_of_another_shape_too(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_ENDPOINT_KEY", "sk-secret")
    server.behavior = lambda number, body: (200, {}, {"error": "no such key: sk-secret"})
    with pytest.raises(ModelError, match=r"no such key: \*\*\*"):
        remote_model(server.url, key_env="TEST_ENDPOINT_KEY").generate([request()])


@pytest.mark.parametrize(
    "wrong",
    [
        {"finish": "abort"},
        {"option_scores": {"red": math.nan}},
        {"trace": {"gap": ["wide"]}},
        {"tokens": ["a"]},
        {"thinking": "long"},
        {"usage": {"prompt_tokens": math.inf, "new_tokens": 1, "forwards": 1}},
    ],
)
def test_a_generation_of_icl_serve_is_validated(wrong: dict[str, Any]) -> None:
    whole = asdict(Generation("red"))
    assert generation_in({"choices": [{"icl": whole}]}, "here") == Generation("red")
    with pytest.raises(ModelError, match="the answer to a strategy has no"):
        generation_in({"choices": [{"icl": whole | wrong}]}, "here")

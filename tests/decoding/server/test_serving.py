"""A real server: one answer for a request with a strategy, errors with a message, safe disconnects."""

import json
import os
import random
import signal
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm", reason="needs vLLM, which lives in an environment of its own (tests/vllm_env.sh)")

import checkpoints
import groups
from chats import body, renamed, tokens
from server_ends import chat_body, descendants, image_message, png, raw, shared_llava, started_requests, survivors
from server_process import Server

from decoding.arms.arm import parse_arm
from decoding.engine.requests import DecodingRequest

CLIENTS, MIXED = (500, 300) if "ICL_TEST_MATRIX" in os.environ else (120, 100)
"""Requests of the tests of disconnects. The larger numbers are those of `make test-vllm-long`."""


@pytest.fixture(scope="module")
def folder() -> Path:
    return checkpoints.shared("llava")


@pytest.fixture(scope="module")
def serving() -> Server:
    return shared_llava()


ARMS: tuple[tuple[Any, Any, dict[str, Any]], ...] = (
    ({"strategy": "vcd", "alpha": 0.8}, {"name": "vcd", "alpha": 0.8}, {}),
    ('{"name": "mask_only", "of": {"name": "vcd"}}', {"name": "mask_only", "of": "vcd"}, {}),
    ("vcd", {"name": "vcd", "sampling": {"temperature": 0.8, "top_p": 0.9}}, {"temperature": 0.8, "top_p": 0.9}),
    ("greedy", "greedy", {}),
)


@pytest.fixture(scope="module")
def expected(folder: Path) -> list[tuple[dict[str, Any], list[int]]]:
    """Requests, and the answers of an engine in this process."""
    engine = groups.tiny_engine(folder)
    prompts = [renamed(prompt) for prompt in groups.prompts(12, seed=31)]
    jobs = [DecodingRequest(p, parse_arm(ARMS[i % 4][1]), max_new_tokens=8) for i, p in enumerate(prompts)]
    answers = groups.run_requests(engine, jobs)
    engine.unload()
    bodies = [body(p, ARMS[i % 4][0], **ARMS[i % 4][2]) for i, p in enumerate(prompts)]
    return [(request_body, list(answer.tokens)) for request_body, answer in zip(bodies, answers, strict=True)]


def test_one_request_is_one_answer_of_the_strategy(serving: Server, expected: list[Any]) -> None:
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(serving.chat, [request_body for request_body, _ in expected]))
    assert [tokens(answer) for answer in answers] == [ids for _, ids in expected]
    usage = answers[0][1]["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_a_model_name_stands_for_a_strategy(serving: Server, expected: list[Any]) -> None:
    models = json.loads(serving.call("/v1/models")[1])["data"]
    assert [model["id"] for model in models] == ["tiny", "tiny-vcd"]
    request_body, ids = expected[0]
    by_name = {key: value for key, value in request_body.items() if key != "vllm_xargs"} | {"model": "tiny-vcd"}
    status, answer = serving.chat(by_name)
    assert (status, answer["model"]) == (200, "tiny-vcd")
    assert tokens((status, answer)) == ids
    status, answer = serving.chat(request_body | {"model": "tiny-vcd"})
    assert (status, "has a strategy" in answer["error"]["message"]) == (400, True)
    status, text = serving.call("/v1/completions", {"model": "tiny-vcd", "prompt": "a"})
    assert (status, "the strategy of the model 'tiny-vcd' works only at POST" in text) == (400, True)


def test_streamed_pieces_are_the_answer(serving: Server, expected: list[Any]) -> None:
    request_body, _ = expected[0]
    whole = serving.chat(request_body)[1]["choices"][0]["message"]["content"]
    status, events = serving.call("/v1/chat/completions", request_body | {"stream": True})
    assert status == 200
    lines = [line[6:] for line in events.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    pieces = [json.loads(line)["choices"][0] for line in lines[:-1]]
    assert len(pieces) > 2
    assert "".join(piece["delta"].get("content", "") for piece in pieces) == whole
    assert pieces[-1]["finish_reason"] in ("stop", "length")


def test_a_stop_text_ends_the_whole_group(serving: Server, expected: list[Any]) -> None:
    for request_body, _ in expected:
        text = serving.chat(request_body)[1]["choices"][0]["message"]["content"]
        place = next((i for i in range(2, len(text) - 1) if text[i].isascii() and text[i].isprintable()), None)
        if place is not None and text[place] not in text[:place]:
            break
    status, answer = serving.chat(request_body | {"stop": text[place]})
    assert (status, answer["choices"][0]["finish_reason"]) == (200, "stop")
    assert answer["choices"][0]["message"]["content"] == text[:place]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"vllm_xargs": {"strategy": "vdc"}}, "no strategy named 'vdc'"),
        ({"vllm_xargs": {"strategy": "vcd", "gamma": 1}}, "has no parameter 'gamma'"),
        ({"vllm_xargs": {"strategy": "vcd", "alpha": -1}}, "greater than or equal to 0"),
        ({"vllm_xargs": {"strategy": "vcd", "alpha": float("nan")}}, "not a finite number"),
        ({"vllm_xargs": {"strategy": "os:system"}}, "not the name of a strategy"),
        ({"vllm_xargs": {"strategy": '{"name": "mask_only", "of": "/tmp/x.py:X"}'}}, "not the name of a strategy"),
        ({"vllm_xargs": {"strategy": "vcd"}, "n": 2}, "one plain answer"),
        ({"vllm_xargs": {"strategy": "vcd"}, "messages": []}, "at least one message"),
        ({"vllm_xargs": {"strategy": "vcd"}, "messages": [{"role": "user", "content": [{"type": "image_url",
          "image_url": {"url": "http://example.com/a.png"}}]}]}, "does not fetch URLs"),
        ({"vllm_xargs": {"strategy": "vcd"}, "messages": [{"role": "user", "content": [{"type": "image_url",
          "image_url": {"url": "data:image/png;base64,AAAA"}}]}]}, "not an image"),
        ({"vllm_xargs": {"strategy": "vcd"}, "messages": [{"role": "user", "content": "word " * 600}]}, "512"),
        ({"vllm_xargs": {"lockstep": '{"group": "g", "index": 0, "count": 2, "arm": "[]"}'}}, "named by the server"),
    ],
)  # fmt: skip
def test_an_invalid_request_gets_a_400_with_a_message(serving: Server, change: dict[str, Any], sentence: str) -> None:
    request_body = body(checkpoints.tiny_models().prompt([1], "what?"), "vcd") | change
    status, answer = serving.chat(request_body)
    assert status == 400, answer
    assert sentence in answer["error"]["message"]


def test_too_many_images_get_a_400_with_a_message(serving: Server) -> None:
    for strategy in ("vcd", None):
        many, fewer = (body(checkpoints.tiny_models().prompt([*range(n)], "what?"), strategy) for n in (5, 4))
        status, answer = serving.chat(many)
        assert status == 400, answer
        assert "At most 4 image" in answer["error"]["message"]
        assert serving.chat(fewer)[0] == 200


def test_a_request_that_is_too_large_is_refused_before_it_is_read(serving: Server) -> None:
    try:
        status, answer = serving.call("/v1/chat/completions", b'{"vllm_xargs": "' + b"x" * (70 * 2**20) + b'"}')
    except OSError:  # the server closed the connection while this was still sending
        return
    assert status == 413
    assert "64 MiB" in answer


def test_a_wrong_key_opens_nothing(serving: Server, expected: list[Any]) -> None:
    assert serving.call("/v1/chat/completions", expected[0][0], key="wrong")[0] == 401
    assert serving.call("/v1/chat/completions", expected[3][0], key="wrong")[0] == 401


def test_more_requests_that_generate_first_than_the_pool_has_threads(serving: Server) -> None:
    count = (os.cpu_count() or 1) + 5  # asyncio's pool has four threads more than there are cores
    prompts = [checkpoints.tiny_models().prompt([i % 5], f"what is {i}?") for i in range(count)]
    with ThreadPoolExecutor(count) as pool:
        for strategy in ("code", "dcd"):
            bodies = [body(prompt, strategy) for prompt in prompts]
            answers = list(pool.map(lambda request_body: serving.chat(request_body, timeout=300), bodies))
            assert [status for status, _ in answers] == [200] * count, answers


def test_clients_that_hang_up_leave_nothing_behind(serving: Server, expected: list[Any]) -> None:
    """Mixed requests, a third of which hangs up. The others are right, and the engine is empty afterwards."""
    draw = random.Random(5)
    plain = body(checkpoints.tiny_models().prompt([3], "what?"), None)
    right = tokens(serving.chat(plain))
    prompt = checkpoints.tiny_models().prompt([1, 2], "tell me")
    cut = [
        (body(prompt, strategy, max_tokens=300, stream=stream), draw.uniform(0.05, longest))
        for longest in (1.0, 5.0)
        for strategy in ("vcd", "vcd", None)
        for stream in (True, False)
    ]

    def one(i: int) -> bool:
        if i % 3 == 0:
            serving.hang_up(*cut[i // 3 % len(cut)])
            return True
        if i % 3 == 1:
            return tokens(serving.chat(plain, timeout=600)) == right
        request_body, ids = expected[i % len(expected)]
        return tokens(serving.chat(request_body, timeout=600)) == ids

    with ThreadPoolExecutor(CLIENTS) as pool:
        assert all(pool.map(one, range(CLIENTS)))
    for _ in range(50):
        if serving.metric("num_requests_running") + serving.metric("num_requests_waiting") == 0:
            break
        time.sleep(0.2)
    assert serving.metric("num_requests_running") == 0
    assert serving.metric("num_requests_waiting") == 0
    assert serving.metric("kv_cache_usage_perc") == 0
    assert tokens(serving.chat(expected[0][0])) == expected[0][1]
    assert "chose different tokens" not in serving.log.read_text()


def test_mixed_requests_with_random_disconnects_never_hang(serving: Server) -> None:
    """Strategies that generate first, others, none; streamed, whole, with traces; a quarter hangs up."""
    draw = random.Random(9)
    prompts = [renamed(prompt) for prompt in groups.prompts(6, seed=33)]
    forms: list[dict[str, Any]] = [{}, {"stream": True}, {"icl": {"trace": True}}]
    bodies = []
    for i in range(MIXED):
        strategy = ("dcd", "code", "vcd", "greedy", None)[i % 5]
        bodies.append(body(prompts[i % 6], strategy, **forms[i % (2 if strategy is None else 3)]))

    def answer(i: int) -> tuple[int, str] | None:
        if i % 4 == 0:
            serving.hang_up(bodies[i], draw.uniform(0.02, 2.0))
            return None
        return serving.call("/v1/chat/completions", bodies[i])

    with ThreadPoolExecutor(100) as pool:
        answers = [pair for pair in pool.map(answer, range(MIXED)) if pair is not None]
    assert len(answers) == MIXED * 3 // 4
    assert {status for status, _ in answers} == {200}, Counter(text for status, text in answers if status != 200)
    assert all("[DONE]" in text for _, text in answers if text.startswith("data: "))
    assert len([text for _, text in answers if text.startswith("data: ")]) > MIXED // 6


def test_a_server_that_is_stopped_finishes_its_groups_and_leaves_no_process(serving: Server) -> None:
    """The last test of this file, because it ends the server."""
    children = descendants(serving.process.pid)
    generate_first = [{"vllm_xargs": {"strategy": name}} for name in ("code", "dcd")] * 15
    early = [{"max_tokens": 8, "temperature": 0} | more for more in (image_message(png(5000, 5000)), *generate_first)]
    running, answers = started_requests(serving, [{}, {"stream": True}, {"ignore": None}])
    arriving, early_answers = started_requests(serving, early, running=0)
    time.sleep(0.3)
    for _ in range(2):  # the server reads connections in turn: the requests above have arrived
        assert serving.call("/health")[0] == 200
    half = socket.create_connection(("127.0.0.1", serving.port), 20)
    half.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{")
    os.kill(serving.process.pid, signal.SIGTERM)
    json_type = b"Content-Type: application/json\r\n"
    while not raw(serving, json_type, json.dumps(chat_body()).encode()).startswith(b"HTTP/1.1 503"):
        pass  # the server handles the signal a moment later
    late = [raw(serving, json_type, json.dumps(content).encode()) for content in (
        chat_body(), chat_body(None),
    )]  # fmt: skip
    for thread in running + arriving:
        thread.join(60)
    assert [status for status, _ in answers] == [200] * 3
    assert any(text.rstrip().endswith("data: [DONE]") for _, text in answers)
    assert [status for status, _ in early_answers] == [200] * 31, early_answers
    for answer in late:
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"retry-after: 10" in answer
        assert b"the server is stopping" in answer
    assert serving.process.wait(60) is not None  # though a client still holds half a request
    half.close()
    assert 503 in serving.statuses  # while the model was loading
    assert survivors(children) == []

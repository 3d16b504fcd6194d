"""A real server with two engines, each split over two workers. Every group runs in one of them.

Its answers are those of a single engine in one process.
"""

import json
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="needs vLLM, which lives in an environment of its own (tests/vllm_env.sh)")

import checkpoints
import groups
from chats import body, renamed, tokens
from server_process import Server, started

from decoding.engine.requests import DecodingRequest
from decoding.engine.server_engine import run_requests
from icl.models.remote import Remote
from icl.types import Generation

OPTIONS = ["max-model-len=512", "max-num-seqs=16", "max-num-batched-tokens=256", "kv-cache-memory-bytes=100000000"]


@pytest.fixture(scope="module")
def folder() -> Path:
    return checkpoints.shared("llava")


@pytest.fixture(scope="module")
def serving(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("server") / "log"
    options = [*OPTIONS, "tensor-parallel-size=2"]
    with started(str(folder), log, options, name="tiny", max_images=4, patience=3, data_parallel_size=2) as made:
        yield made


@pytest.fixture(scope="module")
def expected(folder: Path) -> list[tuple[DecodingRequest, Generation]]:
    """Requests, and the answers of an engine in this process."""
    arms = [groups.ARMS[0], groups.ARMS[3], groups.ARMS[4], {"name": "code"}, "greedy"]  # which a server has by name
    requests = groups.decoding_requests(30, 6, seed=71, arms=arms)
    requests += [replace(request, options=("red", "a blue one"), answer_mode="options") for request in requests[:6]]
    engine = groups.tiny_engine(folder)
    answers = groups.run_requests(engine, requests)
    engine.unload()
    return [
        (request, answer) for request, answer in zip(requests, answers, strict=True) if isinstance(answer, Generation)
    ]


def test_groups_on_two_split_engines_give_the_answers_of_one_engine(
    serving: Server, expected: list[tuple[DecodingRequest, Generation]]
) -> None:
    """This includes traces and option scores, which each engine records separately."""
    assert len(expected) == 36
    model = Remote(f"http://127.0.0.1:{serving.port}/v1", "tiny", "ICL_TEST_KEY", concurrency=12)
    answers = run_requests(model, [request for request, _ in expected])
    for answer, (_, generation) in zip(answers, expected, strict=True):
        assert isinstance(answer, Generation), answer
        assert answer.tokens == generation.tokens
        assert answer.option_scores == pytest.approx(generation.option_scores, abs=5e-3)
        assert answer.trace.keys() == generation.trace.keys()
        for name in answer.trace.keys() & {"logprob"}:
            assert answer.trace[name] == pytest.approx(generation.trace[name], abs=5e-3)
    each = serving.by_engine("request_success_total")
    assert len(each) == 2
    assert min(each.values()) > 0.2 * sum(each.values())


def test_clients_that_hang_up_leave_nothing_behind_in_either_engine(serving: Server) -> None:
    draw = random.Random(7)
    prompts = [renamed(prompt) for prompt in groups.prompts(8, seed=72)]
    right = [tokens(serving.chat(body(prompt, "vcd"))) for prompt in prompts]

    def one(i: int) -> bool:
        prompt = prompts[i % 8]
        if i % 3 == 0:
            try:
                serving.chat(body(prompt, "vcd", max_tokens=300), timeout=draw.uniform(0.05, 0.5))
            except OSError:
                return True
            return True
        if i % 3 == 1:
            return bool(serving.chat(body(prompt))[0] == 200)
        return tokens(serving.chat(body(prompt, "vcd"))) == right[i % 8]

    with ThreadPoolExecutor(24) as pool:
        assert all(pool.map(one, range(96)))
    for _ in range(50):
        if serving.metric("num_requests_running") + serving.metric("num_requests_waiting") == 0:
            break
        time.sleep(0.2)
    assert serving.metric("num_requests_running") == 0
    assert serving.metric("num_requests_waiting") == 0
    assert serving.metric("kv_cache_usage_perc") == 0
    assert "chose different tokens" not in serving.log.read_text()
    assert "branches arrived within" not in serving.log.read_text()
    assert json.loads(serving.call("/v1/strategies")[1])["adapters"] == []


def test_faults_are_reported(serving: Server, expected: list[tuple[DecodingRequest, Generation]]) -> None:
    """The workers know the fault of a step, but their scheduler in another process does not."""
    endless = body(renamed(expected[0][0].prompt), {"strategy": "vcd", "alpha": 3e38})
    answers = [serving.call("/v1/chat/completions", endless | {"stream": stream}) for stream in (False, True)]
    assert {status for status, _ in answers} == {400}
    assert all("step 0: the combined scores of VCD are not finite" in text for _, text in answers)

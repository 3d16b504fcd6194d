"""One config with decoding arms on an engine in the process and on a server of `icl serve`, and OpenAI's own client."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm", reason="needs vLLM, which lives in an environment of its own (tests/vllm_env.sh)")

import httpx2
import openai
from server_ends import descendants, started_requests, survivors
from server_process import KEY, Server, shared

from decoding.arms.arm import parse_arm
from decoding.arms.inspection import probe_prompt
from decoding.engine.requests import DecodingRequest, Failure
from decoding.engine.server_engine import run_requests
from experiments.config.config import load_config
from experiments.running.run import run
from icl.models.base import Request
from icl.models.chat_messages import messages
from icl.models.remote import Remote
from icl.models.vllm.model import VLLM
from icl.probe.instrument import Status
from icl.probe.run import probe
from icl.probe.server import Server as ProbedServer
from icl.testing.faulty_server import FaultyServer, forward
from icl.types import Generation

CONFIG = """
name: {name}
task: {{name: binding, ways: 2, queries: 6}}
model: {model}
seeds: [0, 1]
max_new_tokens: 6
answer_mode: {answer_mode}
metrics: [lenient, {metric}]
grid:
  shots: [0, 2]
  composer: [chat, interleaved]
  decoding: {decoding}
"""
ARMS = """
    - greedy
    - {name: vcd, alpha: 0.5}
    - {name: code}
    - {name: contrast, branches: [no_demonstrations], weights: [1.5, -0.5], mask: none}
    - {name: mask_only, of: vcd}
    - {name: vcd, sampling: {temperature: 1.0, top_p: 0.9}}
"""
CHECKS = ("reads", "counts", "each", "turns", "order", "cache", "together", "roles", "logprobs", "place")
OPTIONS = ["max-num-seqs=32", "kv-cache-memory-bytes=250000000"]
VLLM_NODE = "{name: vllm, path: tiny, cache_gib: 0.25, engine_args: {max_num_seqs: 32}}"


@pytest.fixture(scope="module")
def serving() -> Server:
    return shared("tiny", OPTIONS, name="tiny", max_images=4, fork=True)


def remote_node(serving: Server) -> str:
    url = f"http://127.0.0.1:{serving.port}/v1"
    return f"{{name: remote, url: '{url}', model: tiny, key_env: ICL_TEST_KEY, probe: false}}"


def samples(folder: Path, name: str, model: str, **more: str) -> dict[tuple[Any, ...], dict[str, Any]]:
    """(arm, shots, composer, seed, query) -> stored sample of a run."""
    settings = {"decoding": ARMS, "answer_mode": "generate", "metric": "strict"} | more
    (folder / f"{name}.yaml").write_text(CONFIG.format(name=name, model=model, **settings))
    outcome = run(load_config(folder / f"{name}.yaml"), folder / "runs")
    assert outcome.failed == 0
    by_key = {}
    for cell in sorted((outcome.folder / "cells").iterdir()):
        labels = json.loads((cell / "cell.json").read_text())["labels"]
        for file in cell.glob("*.jsonl"):
            for line in file.read_text().splitlines():
                sample = json.loads(line)
                key = (labels["decoding"], labels["shots"], labels["composer"], sample["seed"], sample["query"])
                by_key[key] = sample
    assert len(by_key) == outcome.samples
    return by_key


def test_the_same_config_has_the_same_answers_in_the_process_and_on_a_server(serving: Server, tmp_path: Path) -> None:
    here = samples(tmp_path, "here", VLLM_NODE)
    there = samples(tmp_path, "there", remote_node(serving))
    assert here.keys() == there.keys()
    assert len(here) == 2 * 2 * 2 * 6 * 6
    differing = [key for key in here if here[key].get("output", "") != there[key].get("output", "")]
    for key in differing:  # batches differ, and with them the last bits: only a near-tie may change a token
        assert min(here[key]["trace"]["gap"]) < 1e-3, (key, here[key], there[key])
    assert len(differing) < 0.02 * len(here)
    equal = here.keys() - set(differing)
    assert all(here[key]["usage"] == there[key]["usage"] for key in equal)
    assert all(
        here[key]["trace"][name] == pytest.approx(there[key]["trace"][name], abs=5e-3)
        for key in equal
        for name in ("logprob", "entropy", "plausible_tokens")
    )
    assert len({sample.get("output", "") for sample in here.values()}) > 3
    for name in ("here", "there"):
        counters = json.loads((tmp_path / "runs" / name / "run.json").read_text())["sessions"][-1]["counters"]
        assert 0 < counters["cached_tokens"] < counters["prompt_tokens"]
        assert counters["new_tokens"] > 0
    assert counters["requests"] < len(there)  # equal ones are sent once


def test_whole_options_are_scored_by_the_server(serving: Server, tmp_path: Path) -> None:
    more = {"decoding": "[greedy, vcd]", "answer_mode": "options", "metric": "option"}
    here = samples(tmp_path, "here", VLLM_NODE, **more)
    there = samples(tmp_path, "there", remote_node(serving), **more)
    assert here.keys() == there.keys()
    for key, sample in here.items():
        assert sample["option_scores"] == pytest.approx(there[key]["option_scores"], abs=5e-3), key


def test_a_server_treated_as_any_endpoint_gives_greedy_answers_and_first_tokens(serving: Server) -> None:
    """`remote` uses vLLM's own answers and log-probabilities of such endpoints."""
    model = Remote(f"http://127.0.0.1:{serving.port}/v1", "tiny", "ICL_TEST_KEY")
    prompts = [probe_prompt(shots) for shots in (0, 1, 2, 3)]
    plain = model.generate([Request(prompt, max_new_tokens=6) for prompt in prompts])
    greedy = run_requests(model, [DecodingRequest(prompt, parse_arm("greedy"), max_new_tokens=6) for prompt in prompts])
    assert [answer.text for answer in plain] == [getattr(answer, "text", answer).strip() for answer in greedy]
    assert [answer.usage.prompt_tokens for answer in plain] == [answer.usage.prompt_tokens for answer in greedy]
    options = ("red", "blue", "green")
    first = model.generate([Request(prompt, options, score_options=True) for prompt in prompts[1:]])
    whole = run_requests(
        model, [DecodingRequest(prompt, parse_arm("greedy"), options, "options") for prompt in prompts[1:]]
    )
    for answer, expected in zip(first, whole, strict=True):
        assert isinstance(expected, Generation), expected
        assert len(answer.option_scores) > 1
        for option, score in answer.option_scores.items():
            assert score == pytest.approx(expected.option_scores[option], abs=0.02), option


def test_arms_that_cannot_be_sent_or_parsed_fail_with_the_servers_message(serving: Server) -> None:
    model = Remote(f"http://127.0.0.1:{serving.port}/v1", "tiny", "ICL_TEST_KEY")
    long = probe_prompt(2).map(lambda part: part if part.image else type(part)("word " * 3000, part.name))
    first, second = run_requests(
        model, [DecodingRequest(long, parse_arm("vcd")), DecodingRequest(probe_prompt(2), parse_arm("vcd"))]
    )
    assert isinstance(first, Failure)
    assert "status 400" in first.reason
    assert not isinstance(second, Failure)


@pytest.fixture(scope="module")
def client(serving: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"http://127.0.0.1:{serving.port}/v1", api_key=KEY, max_retries=0)


def request_fields(**more: Any) -> dict[str, Any]:
    """What the client is given."""
    fields = {"model": "tiny", "messages": messages(probe_prompt(2)), "temperature": 0, "max_tokens": 8, "seed": 3}
    return fields | more


def test_openais_client_names_a_strategy_in_one_request(client: openai.OpenAI, serving: Server) -> None:
    whole = client.chat.completions.create(
        **request_fields(extra_body={"vllm_xargs": {"strategy": "vcd", "alpha": 0.5, "images": "all"}})
    )
    choice = whole.choices[0]
    assert choice.finish_reason in ("stop", "length")
    assert whole.usage is not None
    assert whole.usage.completion_tokens >= 1
    pieces = list(
        client.chat.completions.create(
            stream=True,
            stream_options={"include_usage": True},
            **request_fields(extra_body={"vllm_xargs": {"strategy": "vcd", "alpha": 0.5, "images": "all"}}),
        )
    )
    with_text = [piece for piece in pieces if piece.choices]
    assert "".join(piece.choices[0].delta.content or "" for piece in with_text) == choice.message.content
    assert with_text[-1].choices[0].finish_reason == choice.finish_reason
    assert pieces[-1].usage == whole.usage
    nested = json.dumps({"name": "mask_only", "of": {"name": "vcd"}})
    more = client.chat.completions.create(**request_fields(extra_body={"vllm_xargs": {"strategy": nested}}))
    plain = client.chat.completions.create(**request_fields())
    assert more.choices[0].message.content == plain.choices[0].message.content  # under greedy decoding it is greedy


HALF = json.dumps({"group": "mine", "index": 0, "count": 2, "arm": '[{"name": "greedy"}, null]'})


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"extra_body": {"vllm_xargs": {"lockstep": HALF}}}, "groups are named by the server"),
        ({"extra_body": {"vllm_xargs": {"lockstep": "half"}}}, "groups are named by the server"),
        ({"extra_body": {"vllm_xargs": {"strategy": "vdc"}}}, "Did you mean 'vcd'"),
        ({"extra_body": {"vllm_xargs": {"strategy": "vcd", "beta": "much"}}}, "beta"),
        ({"extra_body": {"vllm_xargs": {"strategy": '{"name": "vcd", "alpha": NaN}'}}}, "nan is not a finite number"),
        ({"extra_body": {"vllm_xargs": {"strategy": "vcd"}, "icl": {"options": ["a", "a"]}}}, "each once"),
        (
            {"extra_body": {"vllm_xargs": {"strategy": "vcd"}, "icl": {"looks": 1}}},
            "icl must be a mapping with the keys",
        ),
        ({"extra_body": {"vllm_xargs": {"strategy": "vcd"}}, "max_tokens": -1}, "at least 1"),
    ],
)
def test_bad_requests_of_openais_client_are_refused_with_the_reason(
    client: openai.OpenAI, more: dict[str, Any], message: str
) -> None:
    for _ in range(2):  # the second one is the same branch again
        with pytest.raises(openai.BadRequestError) as error:
            client.chat.completions.create(**request_fields(**more))
        assert message in str(error.value)
    assert client.chat.completions.create(**request_fields(max_tokens=1)).choices


def test_an_ordinary_request_that_is_refused_does_not_break_the_next_one_with_its_image(
    client: openai.OpenAI,
) -> None:
    from PIL import Image as PILImage

    file = io.BytesIO()
    PILImage.new("RGB", (40, 40), (1, 2, 3)).save(file, "PNG")
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(**request_fields(messages=image(file.getvalue()), logit_bias={"99999999": 1.0}))
    assert client.chat.completions.create(**request_fields(messages=image(file.getvalue()), max_tokens=1)).choices


def image(data: bytes) -> list[dict[str, Any]]:
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]


def test_images_that_are_too_large_are_refused_and_the_server_stays_up(client: openai.OpenAI) -> None:
    from PIL import Image as PILImage

    bomb = io.BytesIO()
    PILImage.new("1", (20_000, 20_000)).save(bomb, "PNG")  # a small file of 400 million pixels
    extra = {"vllm_xargs": {"strategy": "vcd"}}
    with pytest.raises(openai.BadRequestError, match="pixels"):
        client.chat.completions.create(**request_fields(messages=image(bomb.getvalue()), extra_body=extra))
    for body in (extra, {}):
        with pytest.raises((openai.APIStatusError, openai.APIConnectionError)) as error:  # it may hang up meanwhile
            client.chat.completions.create(**request_fields(messages=image(bytes(100 * 2**20)), extra_body=body))
        assert not isinstance(error.value, openai.InternalServerError)
    assert client.chat.completions.create(**request_fields(max_tokens=1)).choices


def test_it_describes_itself_to_clients_with_a_key(serving: Server) -> None:
    status, text = serving.call("/v1/strategies")
    assert status == 200
    assert json.loads(text)["server"] == "mm-icl"
    assert {"vcd", "greedy"} <= set(json.loads(text)["strategies"])
    assert serving.call("/v1/strategies", key="wrong")[0] == 401
    assert isinstance(VLLM.abilities, frozenset)


def test_the_probe_accuses_the_server_of_nothing_and_finds_a_fault_in_front_of_it(serving: Server) -> None:
    upstream = forward(f"http://127.0.0.1:{serving.port}", Authorization=f"Bearer {KEY}")

    def probed(fault: str) -> dict[str, Status]:
        transport = httpx2.MockTransport(FaultyServer(upstream).respond)
        result = probe(ProbedServer(f"http://127.0.0.1/{fault}/v1", "tiny", transport=transport), CHECKS)
        return {row.check: row.status for row in result.rows}

    statuses = probed("none")
    assert Status.RED not in statuses.values()
    assert {name for name, status in statuses.items() if status is Status.OK} >= {"reads", "each", "turns", "place"}
    assert probed("first_repeated")["turns"] is Status.RED
    assert probed("reversed_from_3")["place"] is Status.RED


def test_a_server_that_is_killed_leaves_no_engine_behind(serving: Server) -> None:
    """The last test of this file, because it ends the server."""
    children = descendants(serving.process.pid)
    assert any("EngineCore" in command for command in children.values())
    threads, _ = started_requests(serving, [{}, {"stream": True}])
    serving.process.kill()
    assert survivors(children) == []
    for thread in threads:
        thread.join(60)

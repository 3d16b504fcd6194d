"""A real server with adapters: a client requests one by name, and its whole group runs with it."""

import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("vllm", reason="needs vLLM, which lives in an environment of its own (tests/vllm_env.sh)")
pytest.importorskip("peft")

import checkpoints
import groups
from adapters import saved
from chats import body, renamed, tokens
from reference import Reference
from server_ends import descendants, started_requests, survivors
from server_process import ForkedServer, Server, started

from decoding.arms.arm import parse_arm
from decoding.engine.requests import DecodingRequest
from decoding.engine.server_engine import run_requests
from experiments.cli.serve import server
from icl.errors import ConfigError, ModelError
from icl.models.hf.adapter import LoraAdapter
from icl.models.remote import Remote
from icl.types import Generation

OPTIONS = ["max-model-len=512", "max-num-seqs=16", "max-num-batched-tokens=256", "kv-cache-memory-bytes=200000000"]
VCD: dict[str, Any] = {"name": "vcd", "images": "all"}


@pytest.fixture(scope="module")
def folder() -> Path:
    return checkpoints.shared("llava")


@pytest.fixture(scope="module")
def adapters(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Adapters of different ranks. One has a comma in its path, which vLLM's name=path syntax does not accept."""
    made = tmp_path_factory.mktemp("lora")
    return {"one": saved(folder, made / "one", seed=1), "two": saved(folder, made / "a, b", rank=12, seed=2)}


@pytest.fixture(scope="module")
def serving(folder: Path, adapters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    named = [str(adapters["one"]), f"two={adapters['two']}"]
    log = tmp_path_factory.mktemp("server") / "log"
    with started(str(folder), log, OPTIONS, name="tiny", max_images=4, patience=3, adapters=named, fork=True) as made:
        yield made


def references(folder: Path, adapters: dict[str, Path]) -> dict[str, Reference]:
    """Model name of a request -> reference."""
    made = {"tiny": Reference(folder)}
    for name, path in adapters.items():
        made[name] = Reference(folder)
        made[name].model = LoraAdapter(str(path)).apply_to(made[name].model, str(folder), merge=False)
    return made


def test_every_branch_of_a_group_runs_with_the_requested_adapter(
    serving: Server, folder: Path, adapters: dict[str, Path]
) -> None:
    """Base, adapters and ordinary requests at once: the tokens are those of transformers with the same adapter."""
    requests = [
        (name, prompt, arm)
        for i, prompt in enumerate(map(renamed, groups.prompts(6, seed=61)))
        for name in ("tiny", "one", "two")
        for arm in ((VCD, "greedy")[i % 2], None)
    ]
    bodies = [
        body(prompt, None if arm is None else {"strategy": json.dumps(arm) if arm is VCD else arm}, model=name)
        for name, prompt, arm in requests
    ]
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(serving.chat, bodies))
    steps = decided = 0
    reference_of = references(folder, adapters)
    outputs: dict[str, list[list[int]]] = {}
    for (name, prompt, arm), answer in zip(requests, answers, strict=True):
        ids = tokens(answer)
        outputs.setdefault(name, []).append(ids)
        stopped = answer[1]["choices"][0]["finish_reason"] == "stop"
        stops = frozenset(checkpoints.STOPS) if stopped else frozenset()
        compared = reference_of[name].compare(prompt, parse_arm(arm or "greedy"), ids, stops, None)
        assert compared.equal == compared.decided
        steps, decided = steps + compared.steps, decided + compared.decided
    assert decided > 0.8 * steps
    assert outputs["tiny"] != outputs["one"] != outputs["two"] != outputs["tiny"]


def test_a_strategy_that_generates_first_generates_with_the_adapter(serving: Server, folder: Path) -> None:
    prompt = renamed(groups.prompts(1, seed=62)[0])
    base, one = (tokens(serving.chat(body(prompt, "code", model=name))) for name in ("tiny", "one"))
    assert base != one


def test_a_config_names_the_adapter_and_a_missing_one_is_an_error(
    serving: Server, folder: Path, adapters: dict[str, Path]
) -> None:
    url = f"http://127.0.0.1:{serving.port}/v1"
    model = Remote(url, "tiny", "ICL_TEST_KEY", adapter="one")
    by_name = Remote(url, "one", "ICL_TEST_KEY")
    prompts, arms = groups.prompts(4, seed=63), (parse_arm(VCD), parse_arm("greedy"))
    requests = [DecodingRequest(prompt, arm, max_new_tokens=6) for prompt in prompts for arm in arms]
    answers, again = run_requests(model, requests), run_requests(by_name, requests)
    tuned = references(folder, adapters)["one"]
    for request, answer, other in zip(requests, answers, again, strict=True):
        assert isinstance(answer, Generation), answer
        assert isinstance(other, Generation), other
        assert answer.tokens == other.tokens
        assert answer.trace["gap"]
        compared = tuned.compare(request.prompt, request.arm, answer.tokens)
        assert compared.equal == compared.decided
    assert len({model.digest, by_name.digest, Remote(url, "tiny").digest}) == 3
    with pytest.raises(ModelError, match=r"has no adapter 'too'\. Did you mean 'two'\? It has one, two"):
        Remote(url, "tiny", "ICL_TEST_KEY", adapter="too").load()


def test_an_unknown_model_is_a_404_with_and_without_a_strategy(serving: Server) -> None:
    prompt = groups.prompts(1, seed=64)[0]
    for strategy in (None, "vcd"):
        status, answer = serving.chat(body(prompt, strategy, model="onee"))
        assert status == 404, answer
    assert "Did you mean 'one'? It serves tiny, one, two" in answer["error"]["message"]
    assert json.loads(serving.call("/v1/strategies")[1])["adapters"] == ["one", "two"]
    assert [card["id"] for card in json.loads(serving.call("/v1/models")[1])["data"]] == ["tiny", "one", "two"]


def test_an_engine_that_dies_fails_all_its_requests_and_ends_the_server(serving: Server) -> None:
    """The last test of this file that calls the server, because it ends it. Other files share theirs."""
    children = descendants(serving.process.pid)
    how: list[dict[str, Any]] = [{}, {"stream": True}, {"icl": {"trace": True}}]
    engine = next(pid for pid, command in children.items() if "EngineCore" in command)
    os.kill(engine, signal.SIGSTOP)  # until all requests are there, so that none is answered before
    threads, answers = started_requests(serving, how * 16, running=0)  # more than run at once: some have not begun
    time.sleep(1)
    os.kill(engine, signal.SIGCONT)
    time.sleep(0.3)  # an answer takes 141 steps
    os.kill(engine, signal.SIGKILL)
    for thread in threads:
        thread.join(60)
    assert len(answers) == 48
    why = ("the engine has failed", "does not return its records", "the server is stopping")
    broken = [text for _, text in answers if any(some in text for some in why)]
    assert broken
    assert {status for status, text in answers if "data: " not in text and text not in broken} <= {200}
    assert {status for status, text in answers if "data: " not in text and text in broken} == {503}
    assert serving.process.wait(60) is not None
    assert survivors(children) == []


def test_an_adapter_of_another_base_is_an_error_before_the_server_starts(
    adapters: dict[str, Path], tmp_path: Path
) -> None:
    wider = checkpoints.saved("llava", tmp_path, width=256)
    with pytest.raises(ModelError, match=r"--adapter: .* is an adapter of another model than"):
        server(str(wider), "127.0.0.1", 8000, adapters=[str(adapters["one"])])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"adapters": ["=x"]}, "write name=DIR"),
        ({"adapters": ["tiny={one}"]}, "'tiny' is already in use"),
        ({"adapters": ["{one}", "one={two}"]}, "'one' is already in use"),
        ({"options": ["lora-modules=x=y"]}, "--option lora-modules is not available. Use --adapter"),
        ({"options": ["enable-lora"]}, "--option enable-lora is not available. Use --adapter"),
        ({"options": ["data_parallel_size=2"]}, "Use --data-parallel-size, which"),
        ({"merge": True}, "--merge: one --adapter is merged into the weights, but there are 0"),
        ({"merge": True, "adapters": ["{one}", "{two}"]}, "but there are 2"),
    ],
)
def test_impossible_settings_are_reported(
    settings: dict[str, Any], message: str, folder: Path, adapters: dict[str, Path]
) -> None:
    filled = {
        key: [one.format(**adapters) for one in value] if isinstance(value, list) else value
        for key, value in settings.items()
    }
    with pytest.raises(ConfigError, match=message):
        server(str(folder), "127.0.0.1", 8000, name="tiny", **filled)


def test_a_server_does_not_start_with_an_adapter_that_vllm_cannot_apply_completely(
    folder: Path, tmp_path: Path
) -> None:
    own = saved(folder, tmp_path / "lora", r".*(language_model|vision_tower).*q_proj")
    arguments, environment = server(str(folder), "127.0.0.1", 0, adapters=[f"own={own}"], options=OPTIONS)
    starting = ForkedServer(arguments, environment, tmp_path / "log")
    assert starting.wait(240) not in (None, 0)
    assert "--adapter own: vLLM does not support" in (tmp_path / "log").read_text()


def test_a_merged_adapter_is_served_under_its_name(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This includes an adapter that vLLM cannot load. The weights are those of transformers with the adapter."""
    monkeypatch.setenv("ICL_CACHE", str(tmp_path / "cache"))
    own = saved(folder, tmp_path / "lora", r".*(language_model|vision_tower).*q_proj")
    arguments, _ = server(str(folder), "127.0.0.1", 8000, adapters=[f"mine={own}"], merge=True, options=OPTIONS)
    assert arguments[arguments.index("--served-model-name") + 1] == "mine"
    assert not {"--enable-lora", "--lora-modules"} & set(arguments)
    merged, tuned, base = (
        Reference(Path(arguments[arguments.index("--model") + 1])),
        Reference(folder),
        Reference(folder),
    )
    tuned.model = LoraAdapter(str(own)).apply_to(tuned.model, str(folder), merge=False)
    for prompt in groups.prompts(2, seed=65):
        logits = merged.logits(prompt, [5, 6])
        torch.testing.assert_close(logits, tuned.logits(prompt, [5, 6]), atol=1e-4, rtol=0)
        assert (logits - base.logits(prompt, [5, 6])).abs().max() > 1e-2

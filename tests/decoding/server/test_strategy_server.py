"""The requests of a server to its engine, against an engine that records them. Real engines: test_serving.py."""

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image as PILImage

from decoding.arms.arm import parse_arm
from decoding.lockstep.request_metadata import BranchMetadata, ThinkingLimits, parse_branch
from decoding.server.http import HTTPError
from decoding.server.request_parsing import StrategyRequest
from decoding.server.request_parsing import parse_request as parse_body
from decoding.server.serving import budgeted_end
from decoding.server.strategy_server import EngineBalancer, Placement, StrategyServer
from icl.errors import DataError, ModelError
from icl.images import Image
from icl.models import icl_server
from icl.models.base import Request
from icl.models.remote import Remote
from icl.models.vllm.engine_io import EngineRequest
from icl.streams import StreamKey
from icl.text.reasoning_blocks import FORCED_TOKENS
from icl.types import Part, Prompt, Turn
from tests.decoding.thinker import CLOSING, OPENING, WordTokenizer
from tests.decoding.toy import STOP

PROMPT = Prompt((Turn("user", (Part("Which color?", "query.question"),)),))


class Engine:
    """An engine that records requests. outputs: of each request. unplaced: unsupported layers, by adapter."""

    def __init__(self) -> None:
        self.requests: list[tuple[Any, Any, str, dict[str, Any]]] = []
        self.outputs: list[Any] = []
        self.wrong: Exception | None = None
        self.unplaced: dict[int, list[str]] = {}
        self.records: list[Any] = []
        self.calls: list[Any] = []
        self.engine_core = SimpleNamespace(call_utility_all_async=self.utility)
        self.model_config = SimpleNamespace(max_model_len=100)

    async def generate(self, engine_input: Any, parameters: Any, name: str, **placement: Any) -> AsyncIterator[Any]:
        self.requests.append((engine_input, parameters, name, placement))
        for output in self.outputs:
            await asyncio.sleep(0)
            yield output
        if self.wrong is not None:
            raise self.wrong

    async def collective_rpc(self, name: str, args: tuple[Any, ...]) -> Any:
        assert name == "lockstep_unsupported_layers"
        return [self.unplaced.get(args[0], [])]

    async def utility(self, *arguments: Any) -> Any:
        self.calls.append(arguments)
        return self.records


def output(*tokens: int, finish: str | None = None, stop: Any = None, cached: int = 2) -> Any:
    one = SimpleNamespace(token_ids=list(tokens), finish_reason=finish, stop_reason=stop, text="", logprobs=None)
    return SimpleNamespace(outputs=[one], prompt_token_ids=[1, 2, 3], num_cached_tokens=cached, finished=bool(finish))


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def server(engine: Engine) -> StrategyServer:
    lora = SimpleNamespace(lora_int_id=7, lora_path="folder/of/mine")
    models = SimpleNamespace(
        lora_requests={"mine": lora},
        base_model_paths=[SimpleNamespace(name="tiny")],
        is_base_model=lambda name: name == "tiny",
    )
    made = StrategyServer(
        SimpleNamespace(
            engine_client=engine,
            args=SimpleNamespace(model="tiny", trust_remote_code=False, revision=None),
            openai_serving_models=models,
            vllm_config=SimpleNamespace(
                parallel_config=SimpleNamespace(data_parallel_size=3, distributed_executor_backend="mp")
            ),
        )
    )
    made.__dict__["inputs"] = SimpleNamespace(of_async=rendered)
    return made


async def rendered(prompt: Prompt) -> Any:
    return {"prompt_token_ids": [1] * 40, "prompt": prompt}


def parse_request(arm: Any = "vcd", limit: int | None = None, stop: tuple[str, ...] = ()) -> StrategyRequest:
    return StrategyRequest(PROMPT, parse_arm(arm), limit, stop, False, "tiny")


def image_prompt() -> Prompt:
    image = Image.from_pil(PILImage.new("RGB", (5, 3)), "an image")
    return Prompt((Turn("user", (Part(image, "query.image[0]"), *PROMPT.turns[0].parts)),))


def test_models_are_requested_by_name(server: StrategyServer) -> None:
    assert server.adapters == ["mine"]
    assert server.adapter("mine") is server.models.lora_requests["mine"]
    assert server.adapter("tiny") is None
    assert server.adapter("") is None
    with pytest.raises(HTTPError) as refused:
        server.adapter("mime")
    assert refused.value.status == 404
    assert str(refused.value) == "there is no model 'mime' here. Did you mean 'mine'? It serves tiny, mine."


def test_each_engine_of_a_server_is_balanced(server: StrategyServer) -> None:
    assert len(server.balancer.branches) == 3


def test_an_adapter_with_unsupported_layers_is_reported(server: StrategyServer, engine: Engine) -> None:
    assert asyncio.run(server.unsupported_layers_message()) == ""
    engine.unplaced = {7: ["a.q", "b.q"]}
    assert asyncio.run(server.unsupported_layers_message()).startswith(
        "--adapter mine: vLLM does not support 2 of the layers that folder/of/mine changes, such as a.q, and would "
        "ignore them."
    )


def test_the_records_of_all_engines_are_merged(server: StrategyServer, engine: Engine) -> None:
    engine.records = [[{"a": {"fault": ""}}], [{}], [{"b": {"fault": "why"}}]]
    assert asyncio.run(server.take_records(["a", "b"])) == {"a": {"fault": ""}, "b": {"fault": "why"}}
    assert engine.calls == [("collective_rpc", "lockstep_take_records", None, (["a", "b"],), {})]


def test_a_fault_is_fetched_if_the_scheduler_cannot_see_it(server: StrategyServer, engine: Engine) -> None:
    engine.records = [[{"a": {"fault": "why"}}], [{}], [{}]]
    assert asyncio.run(server.fault("a")) == "why"
    assert asyncio.run(server.fault("b")) == ""
    server.has_worker_processes, engine.calls[:] = False, []
    assert asyncio.run(server.fault("a")) == ""
    assert engine.calls == []


def test_an_engine_without_records_is_an_error_with_a_message(server: StrategyServer, engine: Engine) -> None:
    async def stopping(*arguments: Any) -> Any:
        raise RuntimeError("it is stopping")

    engine.engine_core.call_utility_all_async = stopping
    with pytest.raises(HTTPError, match="does not return its records: it is stopping") as refused:
        asyncio.run(server.take_records(["a"]))
    assert refused.value.status == 503


def test_branches_are_made_outside_the_event_loop(server: StrategyServer) -> None:
    """A strategy that edits images would delay every other request."""
    where: list[Any] = []
    request = parse_request({"name": "icd"})
    branches = type(request.arm.strategy).branches

    class Watched(type(request.arm.strategy)):  # type: ignore[misc]
        def branches(self, prompt: Prompt, note: object = None) -> Any:
            where.append(threading.current_thread())
            return branches(self, prompt, note)

    object.__setattr__(request.arm, "strategy", Watched())
    made, _ = asyncio.run(server.branches(request, Placement()))
    assert made[0] == PROMPT
    assert len(made) == 2
    assert where[0] is not threading.main_thread()


def test_more_branches_than_a_group_may_have_are_refused(server: StrategyServer) -> None:
    spread = f"{Path(__file__).parents[1] / 'lockstep/spread.py'}:Spread"
    branches, _ = asyncio.run(server.branches(parse_request({"name": spread, "branch_count": 16}), Placement()))
    assert len(branches) == 16
    with pytest.raises(HTTPError, match="has 17 branches, and a group has at most 16") as refused:
        asyncio.run(server.branches(parse_request({"name": spread, "branch_count": 17}), Placement()))
    assert refused.value.status == 400


def test_too_large_images_are_refused_before_they_are_opened(
    server: StrategyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The images of a paired prompt count too."""
    monkeypatch.setattr("decoding.server.strategy_server.MAX_PIXELS", 30)
    one = image_prompt()
    for prompt in (one, replace(one, paired_prompt=one)):
        asyncio.run(server.branches(replace(parse_request("greedy"), prompt=prompt), Placement()))
    monkeypatch.setattr("decoding.server.strategy_server.MAX_PIXELS", 29)
    with pytest.raises(DataError, match="have 30 pixels together, and a server opens 29 at most"):
        asyncio.run(
            server.branches(replace(parse_request("greedy"), prompt=replace(one, paired_prompt=one)), Placement())
        )


def test_the_context_length_is_the_engines(server: StrategyServer) -> None:
    assert server.max_model_len == 100


@pytest.fixture
def vllm() -> None:
    pytest.importorskip("vllm", reason="needs vLLM, which lives in an environment of its own (tests/vllm_env.sh)")


@pytest.mark.usefixtures("vllm")
@pytest.mark.parametrize(("limit", "tokens"), [(None, 60), (7, 7), (61, 60), (0, 60)])
@pytest.mark.parametrize("index", [0, 1])
def test_a_branch_runs_to_its_end(
    server: StrategyServer, engine: Engine, index: int, limit: int | None, tokens: int
) -> None:
    engine.outputs = [output(5), output(5, 6, finish="stop")]
    branch, outputs = BranchMetadata("g", index, 2, "[]"), asyncio.Queue[Any]()
    engine_input = asyncio.run(rendered(PROMPT))
    asyncio.run(
        server.run_branch(
            engine_input, parse_request(limit=limit, stop=("END",)), branch, outputs, Placement("lora", 2)
        )
    )
    ((sent, parameters, name, placement),) = engine.requests
    assert sent is engine_input
    assert placement == {"lora_request": "lora", "data_parallel_rank": 2}
    assert name.endswith(f"-{index}")
    assert parameters.max_tokens == tokens
    assert parameters.temperature == 0
    assert parameters.ignore_eos
    assert parameters.stop == (["END"] if index == 0 else [])  # branch 0 is the answer
    assert parameters.stop_token_ids == sorted(server.hf.stop_tokens) != []
    assert parse_branch(parameters.extra_args) == branch
    assert [outputs.get_nowait() for _ in range(outputs.qsize())] == (engine.outputs if index == 0 else [])


@pytest.mark.usefixtures("vllm")
@pytest.mark.parametrize(("limit", "thinking", "tokens"), [(7, 3, 10 + FORCED_TOKENS), (50, 9, 60), (None, 9, 60)])
def test_a_branch_has_room_for_its_reasoning(
    server: StrategyServer, engine: Engine, limit: int | None, thinking: int, tokens: int
) -> None:
    request = replace(parse_request(limit=limit), max_thinking_tokens=thinking)
    branch, engine_input = BranchMetadata("g", 0, 1, "[]"), asyncio.run(rendered(PROMPT))
    asyncio.run(server.run_branch(engine_input, request, branch, asyncio.Queue(), Placement()))
    assert engine.requests[0][1].max_tokens == tokens


def test_the_token_that_ends_a_full_answer_is_not_part_of_it() -> None:
    limits = ThinkingLimits(max_thinking_tokens=2, max_new_tokens=2, stop_tokens=(STOP,))
    renderer: Any = SimpleNamespace(tokenizer=WordTokenizer())
    output = [OPENING, 5, CLOSING, 6, 7]
    assert budgeted_end([*output, STOP], "stop", limits, renderer) == (output, "length")
    assert budgeted_end([*output[:4], STOP], "stop", limits, renderer) == ([*output[:4], STOP], "stop")
    assert budgeted_end(output[:2], "length", limits, renderer) == (output[:2], "length")
    with pytest.raises(HTTPError, match="did not force the end marker"):
        budgeted_end([OPENING, 5, 6], "length", limits, renderer)


@pytest.mark.usefixtures("vllm")
def test_a_prompt_without_room_still_requests_one_token(server: StrategyServer, engine: Engine) -> None:
    """vLLM itself then reports that it is too long."""
    engine.model_config.max_model_len = 30
    asyncio.run(
        server.run_branch(
            asyncio.run(rendered(PROMPT)),
            parse_request(),
            BranchMetadata("g", 0, 2, "[]"),
            asyncio.Queue(),
            Placement(),
        )
    )
    assert engine.requests[0][1].max_tokens == 1


@pytest.mark.usefixtures("vllm")
@pytest.mark.parametrize("index", [0, 1])
def test_an_error_of_any_branch_is_reported(server: StrategyServer, engine: Engine, index: int) -> None:
    from vllm.exceptions import VLLMServerError

    engine_input, branch, outputs = (
        asyncio.run(rendered(PROMPT)),
        BranchMetadata("g", index, 2, "[]"),
        asyncio.Queue[Any](),
    )
    for wrong, status, sentence in (
        (ValueError("too long"), 400, "vLLM does not accept this prompt: too long"),
        (VLLMServerError("it died"), 503, "the engine has failed: it died"),
    ):
        engine.wrong = wrong
        with pytest.raises(HTTPError, match=sentence) as refused:
            asyncio.run(server.run_branch(engine_input, parse_request(), branch, outputs, Placement()))
        assert refused.value.status == status
    assert outputs.empty()


@pytest.mark.usefixtures("vllm")
def test_no_two_requests_have_one_name(server: StrategyServer, engine: Engine) -> None:
    async def all_of() -> None:
        engine_input = await rendered(PROMPT)
        for index in (0, 0, 1):
            await server.run_branch(
                engine_input, parse_request(), BranchMetadata("g", index, 2, "[]"), asyncio.Queue(), Placement()
            )
        await server._generate(server.inputs, [PROMPT, PROMPT], 3, Placement())

    asyncio.run(all_of())
    assert len({name for _, _, name, _ in engine.requests}) == 5


@pytest.mark.usefixtures("vllm")
@pytest.mark.parametrize("stops", [True, False])
def test_an_engine_request_runs_to_its_end(server: StrategyServer, engine: Engine, stops: bool) -> None:
    from vllm.sampling_params import RequestOutputKind

    engine.outputs = [output(5), output(5, 6, finish="length")]
    extra = BranchMetadata("g", 0, 2, "[]").extra_args() if stops else {}
    result = asyncio.run(server.run_request({}, EngineRequest(PROMPT, 9, extra, stops), "name", Placement(None, 1)))
    assert (result.tokens, result.finish, result.prompt_tokens, result.cached_tokens) == ((5, 6), "length", 3, 2)
    ((_, parameters, name, placement),) = engine.requests
    assert (name, placement) == ("name", {"lora_request": None, "data_parallel_rank": 1})
    assert (parameters.max_tokens, parameters.temperature, parameters.ignore_eos) == (9, 0, True)
    assert parameters.stop_token_ids == (sorted(server.hf.stop_tokens) if stops else [])
    assert parameters.extra_args == (extra or None)
    assert not parameters.detokenize
    assert parameters.output_kind == RequestOutputKind.FINAL_ONLY


@pytest.mark.usefixtures("vllm")
def test_a_refused_or_unanswered_prompt_has_a_message(server: StrategyServer, engine: Engine) -> None:
    assert (
        asyncio.run(server.run_request({}, EngineRequest(PROMPT, 9), "name", Placement())).reason
        == "it ended without an answer"
    )
    engine.wrong = ValueError("too long")
    with pytest.raises(HTTPError, match="vLLM does not accept this prompt: too long"):
        asyncio.run(server.run_request({}, EngineRequest(PROMPT, 9), "name", Placement()))
    engine.outputs, engine.wrong = [output(finish="error", stop="no token is left")], None
    assert (
        asyncio.run(server.run_request({}, EngineRequest(PROMPT, 9), "name", Placement())).reason == "no token is left"
    )


@pytest.mark.usefixtures("vllm")
def test_a_disconnect_ends_the_generations_of_a_preparation(server: StrategyServer, engine: Engine) -> None:
    ended: list[str] = []

    async def endless(*arguments: Any, **placement: Any) -> AsyncIterator[Any]:
        try:
            while True:
                await asyncio.sleep(0.01)
                yield output(5)
        finally:
            ended.append("here")

    async def leave() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(
                server.branches(replace(parse_request({"name": "code"}), prompt=image_prompt()), Placement()), 0.3
            )
        await asyncio.sleep(0.1)

    engine.generate = endless  # type: ignore[method-assign]
    asyncio.run(leave())
    assert ended == ["here"]


@pytest.mark.usefixtures("vllm")
def test_a_preparation_generates_with_ordinary_requests_of_its_placement(
    server: StrategyServer, engine: Engine
) -> None:
    ids = server.hf.option_ids(PROMPT, ["red"])[0]
    engine.outputs = [output(ids[0]), output(*ids, finish="stop")]
    request = replace(parse_request({"name": "code"}), prompt=image_prompt())
    branches, _ = asyncio.run(server.branches(request, Placement("lora", 1)))
    assert len(branches) > 1
    assert any(server.hf.text(ids) in branch.text for branch in branches)
    assert engine.requests
    for _, parameters, name, placement in engine.requests:
        assert placement == {"lora_request": "lora", "data_parallel_rank": 1}
        assert name.startswith("icl-first-")
        assert parameters.extra_args is None
        assert parameters.stop == []
        assert parameters.max_tokens > 1


def test_a_request_of_the_model_remote_is_written_with_its_arguments_of_the_chat_template(
    server: StrategyServer,
) -> None:
    """The prompt equals that of the model `hf`. Arguments of the server itself hold where a request sets none."""
    template = (
        "{% for m in messages %}{{ m['content'][-1]['text'] }}{% endfor %}{{ x }}{{ y }}{{ strftime_now(' %d') }}"
    )
    server.hf = replace(server.hf, template={"x": 0})
    server.hf.checkpoint.processor.chat_template = template
    prompt = replace(PROMPT, key=StreamKey(3, "q"))
    sent = icl_server.strategy_request(Request(prompt, strategy={"name": "greedy"}), date(2026, 11, 30))
    body = {**Remote("http://host/v1", "m", template={"y": 2}).prompt_fields, **sent}
    request = parse_body(json.loads(json.dumps(body)))
    assert server.inputs_for(request).hf.render(request.prompt) == "Which color?02 30"
    assert server.inputs_for(request) is server.inputs_for(request)
    with pytest.raises(ModelError, match=r"does not read 'z', so it would be ignored\..* takes x, y\."):
        server.inputs_for(parse_body({**body, "chat_template_kwargs": {"z": 1}}))


@pytest.mark.usefixtures("vllm")
def test_preparations_of_many_requests_never_block_the_thread_pool(server: StrategyServer, engine: Engine) -> None:
    """Rendering needs the pool while `prepare` waits for the model, so `prepare` must not wait inside the pool."""

    async def rendered_in_the_pool(prompt: Prompt) -> Any:
        return await asyncio.to_thread(lambda: {"prompt_token_ids": [1] * 40, "prompt": prompt})

    async def scenario() -> list[Any]:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        request = replace(parse_request({"name": "code"}), prompt=image_prompt())
        return await asyncio.wait_for(asyncio.gather(*(server.branches(request, Placement()) for _ in range(5))), 30)

    server.__dict__["inputs"] = SimpleNamespace(of_async=rendered_in_the_pool)
    engine.outputs = [output(*server.hf.option_ids(PROMPT, ["red"])[0], finish="stop")]
    assert all(len(branches) > 1 for branches, _ in asyncio.run(scenario()))


@pytest.mark.usefixtures("vllm")
def test_an_error_of_a_preparation_reaches_the_request(server: StrategyServer, engine: Engine) -> None:
    engine.wrong = ValueError("too long")
    with pytest.raises(HTTPError, match="vLLM does not accept this prompt: too long"):
        asyncio.run(server.branches(replace(parse_request({"name": "code"}), prompt=image_prompt()), Placement()))


def test_a_request_goes_to_the_engine_with_the_fewest_branches() -> None:
    balancer = EngineBalancer(2)
    with balancer.place(8) as first, balancer.place(2) as second, balancer.place(2) as third:
        assert first.rank != second.rank == third.rank
        assert sorted(balancer.branches) == [4, 8]
    assert balancer.branches == [0, 0]


def test_engines_with_equally_many_branches_take_turns() -> None:
    for engines in (2, 3, 5):
        balancer, ranks = EngineBalancer(engines), []
        for _ in range(2 * engines):
            with balancer.place(1) as placement:
                ranks.append(placement.rank)
        assert ranks == [*range(1, engines), 0] * 2
    balancer = EngineBalancer(3)
    with balancer.place(1) as one, balancer.place(1) as two, balancer.place(1) as three, balancer.place(1) as four:
        assert [placement.rank for placement in (one, two, three, four)] == [1, 2, 0, 1]


def test_a_request_is_no_longer_counted_however_it_ended() -> None:
    balancer = EngineBalancer(2)
    with contextlib.suppress(RuntimeError), balancer.place(3):
        raise RuntimeError
    assert balancer.branches == [0, 0]


def test_one_engine_needs_no_rank() -> None:
    balancer = EngineBalancer(1)
    assert not balancer.has_several
    with balancer.place(4, "lora") as placement:
        assert placement == Placement("lora", None)
    assert EngineBalancer(2).has_several


@pytest.mark.parametrize("adapter", [None, "lora"])
def test_a_placement_has_the_arguments_of_vllm(adapter: str | None) -> None:
    with EngineBalancer(3).place(2, adapter) as placement:
        assert placement.arguments() == {"lora_request": adapter, "data_parallel_rank": 1}

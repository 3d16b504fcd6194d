"""What a server asks of its engine for a strategy, against an engine that only notes it. Real ones: test_serving.py."""

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image as PILImage

from decoding.arms.arm import parse_arm
from decoding.lockstep.request_metadata import BranchMetadata, parse_branch
from decoding.server.http import HTTPError
from decoding.server.placement import Placement
from decoding.server.request_parsing import StrategyRequest
from decoding.server.strategy_server import StrategyServer
from icl.errors import DataError
from icl.images import Image
from icl.models.vllm.engine_io import EngineRequest
from icl.types import Part, Prompt, Turn

PROMPT = Prompt((Turn("user", (Part("Which color?", "query.question"),)),))


class Engine:
    """outputs: what every request says, one after the other. unplaced: layers by an adapter's number."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, Any, str, dict[str, Any]]] = []
        self.outputs: list[Any] = []
        self.wrong: Exception | None = None
        self.unplaced: dict[int, list[str]] = {}
        self.records: list[Any] = []
        self.calls: list[Any] = []
        self.engine_core = SimpleNamespace(call_utility_all_async=self.utility)
        self.model_config = SimpleNamespace(max_model_len=100)

    async def generate(self, given: Any, parameters: Any, name: str, **seat: Any) -> AsyncIterator[Any]:
        self.asked.append((given, parameters, name, seat))
        for output in self.outputs:
            await asyncio.sleep(0)
            yield output
        if self.wrong is not None:
            raise self.wrong

    async def collective_rpc(self, name: str, args: tuple[Any, ...]) -> Any:
        assert name == "lockstep_unsupported_layers"
        return [self.unplaced.get(args[0], [])]

    async def utility(self, *told: Any) -> Any:
        self.calls.append(told)
        return self.records


def output(*tokens: int, finish: str | None = None, stop: Any = None, cached: int = 2) -> Any:
    one = SimpleNamespace(token_ids=list(tokens), finish_reason=finish, stop_reason=stop, text="")
    return SimpleNamespace(outputs=[one], prompt_token_ids=[1, 2, 3], num_cached_tokens=cached, finished=bool(finish))


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def desk(engine: Engine) -> StrategyServer:
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


def shown() -> Prompt:
    image = Image.from_pil(PILImage.new("RGB", (5, 3)), "an image")
    return Prompt((Turn("user", (Part(image, "query.image[0]"), *PROMPT.turns[0].parts)),))


def test_a_model_is_asked_for_by_its_name(desk: StrategyServer) -> None:
    assert desk.adapters == ["mine"]
    assert desk.adapter("mine") is desk.models.lora_requests["mine"]
    assert desk.adapter("tiny") is None
    assert desk.adapter("") is None
    with pytest.raises(HTTPError) as refused:
        desk.adapter("mime")
    assert refused.value.status == 404
    assert str(refused.value) == "there is no model 'mime' here. Did you mean 'mine'? It serves tiny, mine."


def test_each_engine_of_a_server_is_a_seat(desk: StrategyServer) -> None:
    assert len(desk.seats.busy) == 3


def test_an_adapter_with_layers_that_have_no_place_is_told_of(desk: StrategyServer, engine: Engine) -> None:
    assert asyncio.run(desk.lost()) == ""
    engine.unplaced = {7: ["a.q", "b.q"]}
    assert asyncio.run(desk.lost()).startswith(
        "--adapter mine: vLLM has no place for 2 of the layers that folder/of/mine changes, such as a.q, and would "
        "leave them out."
    )


def test_what_every_engine_kept_is_put_together(desk: StrategyServer, engine: Engine) -> None:
    engine.records = [[{"a": {"fault": ""}}], [{}], [{"b": {"fault": "why"}}]]
    assert asyncio.run(desk.take_records(["a", "b"])) == {"a": {"fault": ""}, "b": {"fault": "why"}}
    assert engine.calls == [("collective_rpc", "lockstep_take_records", None, (["a", "b"],), {})]


def test_a_fault_is_asked_for_where_the_scheduler_cannot_know_it(desk: StrategyServer, engine: Engine) -> None:
    engine.records = [[{"a": {"fault": "why"}}], [{}], [{}]]
    assert asyncio.run(desk.fault("a")) == "why"
    assert asyncio.run(desk.fault("b")) == ""
    desk.apart, engine.calls[:] = False, []
    assert asyncio.run(desk.fault("a")) == ""
    assert engine.calls == []


def test_an_engine_that_tells_nothing_is_a_sentence(desk: StrategyServer, engine: Engine) -> None:
    async def stopping(*told: Any) -> Any:
        raise RuntimeError("it is stopping")

    engine.engine_core.call_utility_all_async = stopping
    with pytest.raises(HTTPError, match="does not tell what it kept: it is stopping") as refused:
        asyncio.run(desk.take_records(["a"]))
    assert refused.value.status == 503


def test_branches_are_made_off_the_loop(desk: StrategyServer) -> None:
    """A strategy that edits images would hold up every other request."""
    where: list[Any] = []
    asked = parse_request({"name": "icd"})
    branches = type(asked.arm.strategy).branches

    class Watched(type(asked.arm.strategy)):  # type: ignore[misc]
        def branches(self, prompt: Prompt, note: object = None) -> Any:
            where.append(threading.current_thread())
            return branches(self, prompt, note)

    object.__setattr__(asked.arm, "strategy", Watched())
    made = asyncio.run(desk.branches(asked, Placement()))
    assert made[0] == PROMPT
    assert len(made) == 2
    assert where[0] is not threading.main_thread()


def test_more_branches_than_a_group_may_have_are_refused_before_they_are_read(desk: StrategyServer) -> None:
    spread = f"{Path(__file__).parents[1] / 'lockstep/spread.py'}:Spread"
    assert len(asyncio.run(desk.branches(parse_request({"name": spread, "branch_count": 16}), Placement()))) == 16
    with pytest.raises(HTTPError, match="reads 17 prompts, and a group has 16 at most") as refused:
        asyncio.run(desk.branches(parse_request({"name": spread, "branch_count": 17}), Placement()))
    assert refused.value.status == 400


def test_images_without_room_are_refused_before_they_are_opened(
    desk: StrategyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of another sample's prompt count too."""
    monkeypatch.setattr("decoding.server.strategy_server.PIXELS", 30)
    one = shown()
    for prompt in (one, replace(one, paired_prompt=one)):
        asyncio.run(desk.branches(replace(parse_request("greedy"), prompt=prompt), Placement()))
    monkeypatch.setattr("decoding.server.strategy_server.PIXELS", 29)
    with pytest.raises(DataError, match="have 30 pixels together, and a server opens 29 at most"):
        asyncio.run(
            desk.branches(replace(parse_request("greedy"), prompt=replace(one, paired_prompt=one)), Placement())
        )


def test_the_room_for_an_answer_is_the_engines(desk: StrategyServer) -> None:
    assert desk.longest == 100


@pytest.fixture
def vllm() -> None:
    pytest.importorskip("vllm", reason="needs vLLM, which lives in an environment of its own (tests/vllm_env.sh)")


@pytest.mark.usefixtures("vllm")
@pytest.mark.parametrize(("limit", "tokens"), [(None, 60), (7, 7), (61, 60), (0, 60)])
@pytest.mark.parametrize("index", [0, 1])
def test_a_branch_is_read_to_its_end(
    desk: StrategyServer, engine: Engine, index: int, limit: int | None, tokens: int
) -> None:
    engine.outputs = [output(5), output(5, 6, finish="stop")]
    branch, said = BranchMetadata("g", index, 2, "[]"), asyncio.Queue[Any]()
    given = asyncio.run(rendered(PROMPT))
    asyncio.run(desk.read(given, parse_request(limit=limit, stop=("END",)), branch, said, Placement("lora", 2)))
    ((sent, parameters, name, seat),) = engine.asked
    assert sent is given
    assert seat == {"lora_request": "lora", "data_parallel_rank": 2}
    assert name.endswith(f"-{index}")
    assert parameters.max_tokens == tokens
    assert parameters.temperature == 0
    assert parameters.ignore_eos
    assert parameters.stop == (["END"] if index == 0 else [])  # branch 0 is the answer
    assert parameters.stop_token_ids == sorted(desk.hf.stop_tokens) != []
    assert parse_branch(parameters.extra_args) == branch
    assert [said.get_nowait() for _ in range(said.qsize())] == (engine.outputs if index == 0 else [])


@pytest.mark.usefixtures("vllm")
def test_a_prompt_without_room_still_asks_for_one_token(desk: StrategyServer, engine: Engine) -> None:
    """vLLM then says itself that it is too long."""
    engine.model_config.max_model_len = 30
    asyncio.run(
        desk.read(
            asyncio.run(rendered(PROMPT)),
            parse_request(),
            BranchMetadata("g", 0, 2, "[]"),
            asyncio.Queue(),
            Placement(),
        )
    )
    assert engine.asked[0][1].max_tokens == 1


@pytest.mark.usefixtures("vllm")
@pytest.mark.parametrize("index", [0, 1])
def test_what_keeps_any_branch_from_running_is_told(desk: StrategyServer, engine: Engine, index: int) -> None:
    from vllm.exceptions import VLLMServerError

    given, branch, said = asyncio.run(rendered(PROMPT)), BranchMetadata("g", index, 2, "[]"), asyncio.Queue[Any]()
    for wrong, status, sentence in (
        (ValueError("too long"), 400, "vLLM does not take this prompt: too long"),
        (VLLMServerError("it died"), 503, "the engine has failed: it died"),
    ):
        engine.wrong = wrong
        with pytest.raises(HTTPError, match=sentence) as refused:
            asyncio.run(desk.read(given, parse_request(), branch, said, Placement()))
        assert refused.value.status == status
    assert said.empty()


@pytest.mark.usefixtures("vllm")
def test_no_two_requests_have_one_name(desk: StrategyServer, engine: Engine) -> None:
    async def all_of() -> None:
        given = await rendered(PROMPT)
        for index in (0, 0, 1):
            await desk.read(given, parse_request(), BranchMetadata("g", index, 2, "[]"), asyncio.Queue(), Placement())
        await desk._generated([PROMPT, PROMPT], 3, Placement())

    asyncio.run(all_of())
    assert len({name for _, _, name, _ in engine.asked}) == 5


@pytest.mark.usefixtures("vllm")
@pytest.mark.parametrize("stops", [True, False])
def test_a_prompt_of_a_job_is_asked_whole(desk: StrategyServer, engine: Engine, stops: bool) -> None:
    from vllm.sampling_params import RequestOutputKind

    engine.outputs = [output(5), output(5, 6, finish="length")]
    extra = BranchMetadata("g", 0, 2, "[]").extra_args() if stops else {}
    said = asyncio.run(desk.whole({}, EngineRequest(PROMPT, 9, extra, stops), "name", Placement(None, 1)))
    assert (said.tokens, said.finish, said.prompt_tokens, said.cached_tokens) == ((5, 6), "length", 3, 2)
    ((_, parameters, name, seat),) = engine.asked
    assert (name, seat) == ("name", {"lora_request": None, "data_parallel_rank": 1})
    assert (parameters.max_tokens, parameters.temperature, parameters.ignore_eos) == (9, 0, True)
    assert parameters.stop_token_ids == (sorted(desk.hf.stop_tokens) if stops else [])
    assert parameters.extra_args == (extra or None)
    assert not parameters.detokenize
    assert parameters.output_kind == RequestOutputKind.FINAL_ONLY


@pytest.mark.usefixtures("vllm")
def test_a_prompt_that_is_not_taken_or_not_answered_is_a_sentence(desk: StrategyServer, engine: Engine) -> None:
    assert (
        asyncio.run(desk.whole({}, EngineRequest(PROMPT, 9), "name", Placement())).reason
        == "it ended without an answer"
    )
    engine.wrong = ValueError("too long")
    with pytest.raises(HTTPError, match="vLLM does not take this prompt: too long"):
        asyncio.run(desk.whole({}, EngineRequest(PROMPT, 9), "name", Placement()))
    engine.outputs, engine.wrong = [output(finish="error", stop="no token is left")], None
    assert asyncio.run(desk.whole({}, EngineRequest(PROMPT, 9), "name", Placement())).reason == "no token is left"


@pytest.mark.usefixtures("vllm")
def test_who_hangs_up_takes_along_what_a_strategy_asked_first(desk: StrategyServer, engine: Engine) -> None:
    ended: list[str] = []

    async def endless(*told: Any, **seat: Any) -> AsyncIterator[Any]:
        try:
            while True:
                await asyncio.sleep(0.01)
                yield output(5)
        finally:
            ended.append("here")

    async def leave() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(
                desk.branches(replace(parse_request({"name": "code"}), prompt=shown()), Placement()), 0.3
            )
        await asyncio.sleep(0.1)

    engine.generate = endless  # type: ignore[method-assign]
    asyncio.run(leave())
    assert ended == ["here"]


@pytest.mark.usefixtures("vllm")
def test_what_a_strategy_asks_first_is_an_ordinary_request_of_its_seat(desk: StrategyServer, engine: Engine) -> None:
    ids = desk.hf.option_ids(PROMPT, ["red"])[0]
    engine.outputs = [output(ids[0]), output(*ids, finish="stop")]
    asked = replace(parse_request({"name": "code"}), prompt=shown())
    branches = asyncio.run(desk.branches(asked, Placement("lora", 1)))
    assert len(branches) > 1
    assert any(desk.hf.text(ids) in branch.text for branch in branches)
    assert engine.asked
    for _, parameters, name, seat in engine.asked:
        assert seat == {"lora_request": "lora", "data_parallel_rank": 1}
        assert name.startswith("icl-first-")
        assert parameters.extra_args is None
        assert parameters.stop == []
        assert parameters.max_tokens > 1


@pytest.mark.usefixtures("vllm")
def test_preparations_of_many_requests_never_block_the_thread_pool(desk: StrategyServer, engine: Engine) -> None:
    """Rendering needs the pool while `prepare` waits for the model, so `prepare` must not wait inside the pool."""

    async def rendered_in_the_pool(prompt: Prompt) -> Any:
        return await asyncio.to_thread(lambda: {"prompt_token_ids": [1] * 40, "prompt": prompt})

    async def scenario() -> list[Any]:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        request = replace(parse_request({"name": "code"}), prompt=shown())
        return await asyncio.wait_for(asyncio.gather(*(desk.branches(request, Placement()) for _ in range(5))), 30)

    desk.__dict__["inputs"] = SimpleNamespace(of_async=rendered_in_the_pool)
    engine.outputs = [output(*desk.hf.option_ids(PROMPT, ["red"])[0], finish="stop")]
    assert all(len(branches) > 1 for branches in asyncio.run(scenario()))


@pytest.mark.usefixtures("vllm")
def test_an_error_of_a_preparation_reaches_the_request(desk: StrategyServer, engine: Engine) -> None:
    engine.wrong = ValueError("too long")
    with pytest.raises(HTTPError, match="vLLM does not take this prompt: too long"):
        asyncio.run(desk.branches(replace(parse_request({"name": "code"}), prompt=shown()), Placement()))

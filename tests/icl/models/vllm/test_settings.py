"""Engine arguments, digests and replicas. No vLLM is needed."""

from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from icl.errors import ConfigError, ModelError
from icl.models.hf.model import HF
from icl.models.vllm.engine import CHUNK_SIZE, PLUGIN_ARGS, Replicas, scheduling_args
from icl.models.vllm.engine_io import EngineOutput, EngineRequest, blocks, output_from_vllm
from icl.models.vllm.model import VLLM
from icl.registry import build
from icl.types import Part, Prompt, Turn


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VLLM, "device_type", "cpu")


def test_it_is_started_with_the_plug_in() -> None:
    arguments = build("model", {"name": "vllm", "path": "tiny", "engine_args": {"max_num_seqs": 4}}).arguments()
    plugin_args = PLUGIN_ARGS | scheduling_args(is_async=False)
    assert {name: arguments[name] for name in plugin_args} == plugin_args
    assert arguments["max_num_seqs"] == 4
    assert not arguments["mm_device_do_normalize"]
    assert arguments["limit_mm_per_prompt"] == {"image": 64, "video": 0}
    assert arguments["seed"] == 0


def test_a_cpu_has_its_own_precision_blocks_and_room(monkeypatch: pytest.MonkeyPatch) -> None:
    here, changed = VLLM().arguments(), VLLM(dtype="bfloat16", cache_gib=0.5, enforce_eager=False).arguments()
    assert (here["dtype"], here["kv_cache_memory_bytes"], here["block_size"]) == ("float32", 2**31, 32)
    assert here["enforce_eager"]
    assert here["compilation_config"] == {"custom_ops": ["-rotary_embedding"]}
    assert (changed["dtype"], changed["kv_cache_memory_bytes"]) == ("bfloat16", 2**29)
    assert VLLM(engine_args={"block_size": 64}).arguments()["block_size"] == 64
    assert VLLM(quantization="awq").precision == "bfloat16"  # its kernels know no other
    monkeypatch.setattr(VLLM, "device_type", "cuda")
    there = VLLM(quantization="awq", gpu_memory_utilization=0.5, tensor_parallel_size=2).arguments()
    assert (there["dtype"], there["kv_cache_memory_bytes"], there["enforce_eager"]) == ("auto", None, False)
    assert (there["gpu_memory_utilization"], there["tensor_parallel_size"]) == (0.5, 2)
    assert not {"block_size", "compilation_config"} & there.keys()


@pytest.mark.parametrize(
    "name", [*PLUGIN_ARGS, "scheduler_cls", "data_parallel_size", "max_model_len", "dtype", "enable_lora"]
)
def test_engine_args_cannot_repeat_its_own_settings(name: str) -> None:
    with pytest.raises(ConfigError, match=f"engine_args: {name} is set by the backend or its own fields"):
        VLLM(engine_args={name: 1})


@pytest.mark.parametrize(
    ("device", "engine_args", "is_async"),
    [("cpu", {}, False), ("cuda", {}, True), ("cuda", {"async_scheduling": False}, False)],
)
def test_steps_are_planned_ahead_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch, device: str, engine_args: dict[str, Any], is_async: bool
) -> None:
    monkeypatch.setattr(VLLM, "device_type", device)
    arguments = VLLM(engine_args=engine_args).arguments()
    assert arguments["async_scheduling"] is is_async
    assert arguments["scheduler_cls"].endswith(".AsyncLockstepScheduler") is is_async


@pytest.mark.parametrize(("branches", "kind"), [(0, "Lockstep"), (1, "Plain"), (2, "Lockstep")])
def test_prompts_that_decode_alone_have_the_scheduler_of_vllm(branches: int, kind: str) -> None:
    model = VLLM()
    model.expect_prompts(0, 0, branches)
    assert model.arguments()["scheduler_cls"] == f"decoding.lockstep.scheduler.{kind}Scheduler"
    assert model.digest == VLLM().digest


def test_nothing_is_merged_without_an_adapter() -> None:
    with pytest.raises(ConfigError, match="there is no `adapter` to merge"):
        VLLM(merge=True)


def test_the_digest_depends_on_settings_that_change_an_output() -> None:
    plain = VLLM()
    for same in ({"in_flight": 3}, {"max_images": 2}, {"data_parallel_size": 2}, {"trace": False}, {"cache_gib": 1.0}):
        assert VLLM(**same).digest == plain.digest
    others = ({"dtype": "bfloat16"}, {"quantization": "fp8"}, {"engine_args": {"max_num_seqs": 4}})
    assert len({plain.digest, *(VLLM(**other).digest for other in others)}) == 4
    assert plain.digest != HF("tiny").digest


@pytest.mark.parametrize(
    ("settings", "plan", "length", "images"),
    [
        ({}, (0, 0), None, 64),
        ({}, (3, 300), 512, 3),
        ({}, (3, 512), 512, 3),
        ({}, (3, 513), 768, 3),
        ({}, (3, 0), None, 3),
        ({}, (0, 10**9), None, 64),
        ({"max_model_len": 128, "max_images": 2}, (3, 300), 128, 2),
    ],
)
def test_a_plan_sets_length_and_images(settings: Any, plan: tuple[int, int], length: int | None, images: int) -> None:
    model = VLLM(**settings)
    model.expect_prompts(*plan, branches=2)
    arguments = model.arguments()
    assert (arguments["max_model_len"], arguments["limit_mm_per_prompt"]["image"]) == (length, images)
    assert model.is_planned == (not settings and (length is not None or plan[0] > 0))
    assert (model.digest, model.max_tokens) == (
        VLLM(**settings).digest,
        VLLM(**settings).max_tokens,
    )  # no prompt is cut for it


def test_the_context_is_the_shorter_of_the_checkpoints_and_the_one_that_is_set() -> None:
    own = HF("tiny").max_tokens
    assert own is not None
    assert VLLM().max_tokens == own
    assert VLLM(max_model_len=own - 1).max_tokens == own - 1
    assert VLLM(max_model_len=own + 1).max_tokens == own


def test_an_answer_has_no_stop_token() -> None:
    model = VLLM()
    stop, other = min(model.stop_tokens), model.option_ids(prompt("What?"), ["red"])[0][0]
    for tokens, answer_tokens, finish in (
        ((other, stop), (other,), "stop"),
        ((other, other), (other, other), "length"),
    ):
        answer = model._generation(EngineOutput(tokens, "stop", prompt_tokens=9))
        assert (answer.tokens, answer.finish) == (answer_tokens, finish)
        assert answer.text == model.text(answer_tokens)
        assert (answer.usage.prompt_tokens, answer.usage.new_tokens, answer.usage.forwards) == (9, 2, 2)
    assert model._generation(EngineOutput((), "length")).finish == "length"
    for output, sentence in (
        (EngineOutput(reason="no room"), "no room"),
        (EngineOutput(finish="abort"), "vLLM ended the request: abort"),
    ):
        with pytest.raises(ModelError, match=sentence):
            model._generation(output)


def test_the_final_output_of_vllm_is_converted() -> None:
    one = SimpleNamespace(token_ids=[4, 5], finish_reason="length", stop_reason=7, logprobs=None)
    output = SimpleNamespace(outputs=[one], prompt_token_ids=[1, 2, 3], num_cached_tokens=None)
    assert output_from_vllm(output) == EngineOutput((4, 5), "length", "", 3, 0)
    one.finish_reason, one.stop_reason, output.num_cached_tokens = "error", "it is too small", 2
    assert output_from_vllm(output) == EngineOutput((4, 5), "error", "it is too small", 3, 2)
    one.stop_reason = None
    assert output_from_vllm(output).reason == ""


def prompt(question: str) -> Prompt:
    return Prompt((Turn("user", (Part(question, "query.question"),)),))


def test_prompts_share_the_blocks_of_their_beginnings() -> None:
    model, begin = VLLM(), "Which of all the colors in the image is the brightest one of all, and why? " * 2
    one, two, other = (blocks(model.hf, prompt(text), 8) for text in (f"{begin}red?", f"{begin}blue?", "No. " + begin))
    count = len(model.hf.ids(prompt(f"{begin}red?")))
    assert len(one) == (count - 1) // 8
    shared = next(i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b) if one != two else len(one)
    assert shared > len(one) // 2
    assert not set(one[shared:]) & set(two)
    assert not set(one) & set(other[1:])  # a block is named by all that it follows
    assert model.prefix_blocks(prompt("Which?")) == (32, blocks(model.hf, prompt("Which?"), 32))
    assert VLLM(enable_prefix_caching=False).prefix_blocks(prompt(begin))[1] == []


@pytest.mark.parametrize(("layers", "has_blocks"), [(["full_attention", "sliding_attention"], True), (["conv"], False)])
def test_layers_that_store_a_state_share_no_blocks(layers: list[str], has_blocks: bool) -> None:
    model = VLLM()
    model.hf.checkpoint.config.get_text_config(decoder=True).layer_types = layers
    assert (
        bool(model.prefix_blocks(prompt("Which of all the colors in the image is the brightest? " * 4))[1])
        == has_blocks
    )


class Fake:
    """An engine whose output is the number of the group. It fails after `breaks` groups."""

    def __init__(self, breaks: int | None = None) -> None:
        self.breaks, self.answered, self.taken = breaks, list[int](), list[int]()
        self.counts = {"requests": 0}
        self.stopped = False

    def run_numbered(
        self, waiting: Iterator[tuple[int, Sequence[EngineRequest]]], done: Callable[[int, Any], None]
    ) -> None:
        for number, requests in waiting:
            self.taken.append(number)
            if len(self.answered) == self.breaks:
                raise ModelError("the engine is gone")
            self.counts["requests"] += len(requests)
            self.answered.append(number)
            done(number, [EngineOutput((number,), "stop")] * len(requests))

    def take_records(self, groups: Sequence[str]) -> dict[str, Any]:
        return {name: self for name in groups if name in {f"g{number}" for number in self.answered}}

    def stop(self) -> None:
        self.stopped = True


def replicas(*engines: Fake) -> Replicas:
    made = object.__new__(Replicas)
    made.engines = list(engines)  # type: ignore[arg-type]
    return made


def groups(count: int) -> list[list[EngineRequest]]:
    return [[EngineRequest(prompt(str(i)), 1)] * (1 + i % 2) for i in range(count)]


@pytest.mark.parametrize("count", [0, 1, CHUNK_SIZE, 5 * CHUNK_SIZE + 3])
def test_every_group_goes_whole_to_one_engine_with_its_neighbors(count: int) -> None:
    engines, outputs = (Fake(), Fake()), dict[int, Any]()
    both = replicas(*engines)
    both.run(groups(count), outputs.__setitem__)
    assert outputs == {i: [EngineOutput((i,), "stop")] * (1 + i % 2) for i in range(count)}
    assert sorted(engines[0].taken + engines[1].taken) == list(range(count))
    for engine in engines:
        assert {n // CHUNK_SIZE for n in engine.taken} == {n // CHUNK_SIZE for n in engine.taken[::CHUNK_SIZE]}
    assert both.counts == {"requests": sum(len(requests) for requests in groups(count))}
    assert both.take_records([f"g{i}" for i in range(count)]).keys() == {f"g{i}" for i in range(count)}
    both.stop()
    assert all(engine.stopped for engine in engines)


def test_an_error_of_an_engine_is_raised_and_nothing_hangs() -> None:
    outputs = dict[int, Any]()
    with pytest.raises(ModelError, match="the engine is gone"):
        replicas(Fake(breaks=2), Fake()).run(groups(200), outputs.__setitem__)
    assert len(outputs) >= 2

"""Two GPUs choose the tokens of one: layers spread by device_map, tensor parallel, data parallel."""

from collections.abc import Iterator
from typing import Any

from lab.gpu.check import Bench, BenchCheck, Figure
from lab.gpu.requirements import hf, vllm

PROMPTS, LENGTH = 8, 12


def run(bench: Bench) -> Iterator[Figure]:
    """Answers in float32 against those of one GPU, by each backend that this environment has."""
    for backend, why_not, figures in (("hf", hf(), spread_layers), ("vllm", vllm(), parallel_engines)):
        if why_not:
            yield Figure(backend, f"not here: {why_not}")
        else:
            yield from figures(bench)


def spread_layers(bench: Bench) -> Iterator[Figure]:
    """The backend `hf` with its layers on two GPUs."""
    from icl.models.hf.model import HF
    from lab.gpu.workload import decode

    prompts, arms = work()
    model = HF(bench.model("narrow"), device="cuda:0", dtype="float32")
    expected = decode(model, prompts, arms, LENGTH)
    model.unload()
    model = HF(bench.model("narrow"), device_map="balanced", dtype="float32")
    answers = decode(model, prompts, arms, LENGTH)
    devices = {str(parameter.device) for parameter in model.engine.runner.model.parameters()}
    yield Figure("devices of device_map balanced", str(len(devices)), "2", len(devices) > 1)
    yield verdict("device_map balanced", expected, answers)
    model.unload()


def parallel_engines(bench: Bench) -> Iterator[Figure]:
    """The backend `vllm` with layers divided among two GPUs, and with two engines."""
    from lab.gpu.vllm_workload import decode_in_engine, engine

    prompts, arms = work()
    expected: Any = None
    for fields in ({}, {"tensor_parallel_size": 2}, {"data_parallel_size": 2}):
        model = engine(
            bench, bench.model("narrow"), dtype="float32", enforce_eager=True, gpu_memory_utilization=0.6, **fields
        )
        answers = decode_in_engine(model, prompts, arms, LENGTH)
        model.unload()
        if fields:
            yield verdict(", ".join(f"{name}: {value}" for name, value in fields.items()), expected, answers)
        else:
            expected = answers


def work() -> tuple[Any, Any]:
    """Prompts and arms."""
    from decoding.arms.arm import parse_arm
    from lab.gpu.workload import make_prompts

    return make_prompts(PROMPTS, (1, 2)), [parse_arm("greedy"), parse_arm("vcd")]


def verdict(name: str, expected: Any, answers: Any) -> Figure:
    """Answers that equal those of one GPU."""
    from lab.gpu.vllm_workload import equal_answers

    equal = equal_answers(expected, answers)
    return Figure(
        f"{name}: answers as on one GPU", f"{equal} of {len(expected)}", str(len(expected)), equal == len(expected)
    )


CHECK = BenchCheck(
    13, "two GPUs: device_map, tensor and data parallel", "tokens as on one GPU", 3.0, run, needs=("two gpus",),
    in_quick=False,
)  # fmt: skip

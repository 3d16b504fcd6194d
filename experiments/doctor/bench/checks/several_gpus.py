"""Two GPUs choose the tokens of one: layers spread by device_map, tensor parallel, data parallel."""

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from experiments.doctor.bench.check import Bench, BenchCheck, Figure

PROMPTS, LENGTH = 8, 12


def run(bench: Bench) -> Iterator[Figure]:
    """Answers in float32 against those of one GPU."""
    from decoding.arms.arm import parse_arm
    from experiments.doctor.bench import vllm_workload
    from experiments.doctor.bench.workload import decode, make_prompts
    from icl.models.hf.model import HF

    path, arms = bench.model("narrow"), [parse_arm("greedy"), parse_arm("vcd")]
    prompts = make_prompts(PROMPTS, (1, 2))
    model = HF(path, device="cuda:0", dtype="float32")
    expected = decode(model, prompts, arms, LENGTH)
    model.unload()
    model = HF(path, device_map="balanced", dtype="float32")
    answers = decode(model, prompts, arms, LENGTH)
    devices = {str(parameter.device) for parameter in model.engine.runner.model.parameters()}
    yield verdict(f"device_map balanced on {', '.join(sorted(devices))}", expected, answers)
    yield Figure("devices of device_map balanced", str(len(devices)), "2", len(devices) > 1)
    model.unload()
    if find_spec("vllm") is None:
        yield Figure("tensor and data parallel", "not here: vLLM is not installed")
        return
    for field in ("tensor_parallel_size", "data_parallel_size"):
        parallel = vllm_workload.engine(
            bench, path, dtype="float32", enforce_eager=True, gpu_memory_utilization=0.5, **{field: 2}
        )
        yield verdict(f"{field}: 2", expected, vllm_workload.decode_in_engine(parallel, prompts, arms, LENGTH))
        parallel.unload()


def verdict(name: str, expected: Any, answers: Any) -> Figure:
    """Answers that equal those of one GPU."""
    from experiments.doctor.bench.vllm_workload import equal_answers

    equal = equal_answers(expected, answers)
    return Figure(
        f"{name}: answers as on one GPU", f"{equal} of {len(expected)}", str(len(expected)), equal == len(expected)
    )


CHECK = BenchCheck(
    13, "two GPUs: device_map, tensor and data parallel", "tokens as on one GPU", 3.0, run, needs=("two gpus",),
    in_quick=False,
)  # fmt: skip

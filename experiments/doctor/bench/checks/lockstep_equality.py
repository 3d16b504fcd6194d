"""Strategies inside vLLM: branches agree, tokens are those of `hf`, and a step costs little more than without."""

from collections.abc import Iterator
from typing import Any

from experiments.doctor.bench.check import Bench, BenchCheck, Figure

ARMS: tuple[Any, ...] = ("vcd", "cad", "greedy")
PROMPTS, LENGTH = 24, 24
GROUPS, SHORT, LONG = 64, 1, 33
MAX_SHARE = 0.05
SETTINGS = {
    "cuda": ((True, False), (True, True), (False, True)),
    "cpu": ((False, True),),  # vLLM turns asynchronous scheduling off there, and has no CUDA graphs
}
"""(async_scheduling, enforce_eager) of each engine."""


def run(bench: Bench) -> Iterator[Figure]:
    """First equality on the shipped model in a tight cache, then the cost of a step on the large one."""
    from decoding.arms.arm import parse_arm
    from experiments.doctor.bench import vllm_workload
    from experiments.doctor.bench.workload import decode, make_prompts
    from icl.models.hf.model import HF

    vllm_workload.use_one_process()
    prompts, arms = make_prompts(PROMPTS, (1, 2, 3)), [parse_arm(arm) for arm in ARMS]
    expected = decode(HF(device=bench.device, dtype="float32"), prompts, arms, LENGTH)
    for is_async, is_eager in SETTINGS[bench.device]:
        name = f"{'async' if is_async else 'sync'}, {'no graphs' if is_eager else 'graphs'}"
        args = vllm_workload.tight_args({"async_scheduling": is_async}, 32 if bench.device == "cpu" else 16)
        model = vllm_workload.engine(
            bench, "tiny", dtype="float32", max_model_len=512, enforce_eager=is_eager, gpu_memory_utilization=0.2,
            engine_args=args,
        )  # fmt: skip
        answers = vllm_workload.decode_in_engine(model, prompts, arms, LENGTH)
        equal = vllm_workload.equal_answers(expected, answers)
        core = model.engine.llm.llm_engine.engine_core.engine_core  # type: ignore[union-attr]  # one engine, in process
        counts = core.scheduler.counts
        runner = type(core.model_executor.driver_worker.worker.model_runner)
        preempted = counts["preempted"] + counts["partly preempted"]
        yield Figure(f"{name}: runner", f"{runner.__module__}.{runner.__name__}, {preempted} preempted")
        yield Figure(f"{name}: violations", str(counts["violations"]), "0", counts["violations"] == 0)
        total = len(answers)
        yield Figure(f"{name}: answers as hf", f"{equal} of {total}", str(total), equal == total)
        model.unload()
    yield from step_cost(bench)


def step_cost(bench: Bench) -> Iterator[Figure]:
    """The time of a step of 64 groups of two branches, over that of 128 ordinary rows."""
    from decoding.arms.arm import parse_arm
    from experiments.doctor.bench.vllm_workload import decode_in_engine, engine
    from experiments.doctor.bench.workload import make_prompts, median_seconds

    on_gpu = bench.device == "cuda"
    groups = GROUPS if on_gpu else 8
    model = engine(
        bench, bench.model("full"), dtype=bench.dtype if on_gpu else "float32", trace=False,
        gpu_memory_utilization=0.8, engine_args={"max_num_seqs": 2 * groups},
    )  # fmt: skip
    rows, pairs = make_prompts(2 * groups, (1,)), make_prompts(groups, (1,), seed=1)
    greedy, vcd = parse_arm("greedy"), parse_arm("vcd")
    times = median_seconds(
        bench,
        [
            lambda: decode_in_engine(model, rows, [greedy], LONG),
            lambda: decode_in_engine(model, rows, [greedy], SHORT),
            lambda: decode_in_engine(model, pairs, [vcd], LONG),
            lambda: decode_in_engine(model, pairs, [vcd], SHORT),
        ],
        2,
    )
    plain, lockstep = times[0] - times[1], times[2] - times[3]
    share = 1 - plain / lockstep
    what = f"share of a step for strategies, {groups} groups"
    expected = f"at most {MAX_SHARE:.0%}" if on_gpu else "recorded only, because a step of the shipped model is short"
    yield Figure(what, f"{share:.1%}", expected, share <= MAX_SHARE if on_gpu else None)
    model.unload()


CHECK = BenchCheck(
    12, "lockstep in a tight cache, async and graphs on and off",
    "0 violations, tokens as hf, at most 5 % of a step at 64 groups", 5.5, run, needs=("vllm",), in_quick=False,
)  # fmt: skip

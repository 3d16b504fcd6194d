"""Strategies inside vLLM: branches agree, tokens are their own, and a step costs little more than without."""

from collections.abc import Iterator
from typing import Any

from lab.gpu.check import Bench, BenchCheck, Figure

ARMS: tuple[Any, ...] = ("vcd", "cad", "greedy")
PROMPTS, LENGTH = 24, 24
GROUPS, SHORT, LONG = 64, 1, 33
MAX_SHARE, MIN_DECIDED = 0.05, 0.9
SETTINGS = {
    "cuda": ((True, False), (True, True), (False, True)),
    "cpu": ((False, True),),  # vLLM turns asynchronous scheduling off there, and has no CUDA graphs
}
"""(async_scheduling, enforce_eager) of each engine."""


def run(bench: Bench) -> Iterator[Figure]:
    """First equality on a small model in a tight cache, then the cost of a step on the large one."""
    from decoding.arms.arm import parse_arm
    from lab.gpu import vllm_workload
    from lab.gpu.plain_reference import PlainReference
    from lab.gpu.random_checkpoint import TOY, write_checkpoint
    from lab.gpu.workload import make_prompts

    vllm_workload.use_one_process()
    prompts, arms = make_prompts(PROMPTS, (1, 2, 3)), [parse_arm(arm) for arm in ARMS]
    toy = str(write_checkpoint(bench.folder / "toy", TOY))
    reference = PlainReference(toy, bench.device)
    for is_async, is_eager in SETTINGS[bench.device]:
        name = f"{'async' if is_async else 'sync'}, {'no graphs' if is_eager else 'graphs'}"
        args = vllm_workload.tight_args({"async_scheduling": is_async}, 32 if bench.device == "cpu" else 16)
        model = vllm_workload.engine(
            bench, toy, dtype="float32", max_model_len=512, enforce_eager=is_eager, gpu_memory_utilization=0.2,
            engine_args=args,
        )  # fmt: skip
        answers = vllm_workload.decode_in_engine(model, prompts, arms, LENGTH)
        core = model.engine.llm.llm_engine.engine_core.engine_core  # type: ignore[union-attr]  # one engine, in process
        counts = core.scheduler.counts
        runner = type(core.model_executor.driver_worker.worker.model_runner)
        preempted = counts["preempted"] + counts["partly preempted"]
        yield Figure(f"{name}: runner", f"{runner.__module__}.{runner.__name__}, {preempted} preempted")
        yield Figure(f"{name}: violations", str(counts["violations"]), "0", counts["violations"] == 0)
        pairs = [(prompt, arm) for prompt in prompts for arm in arms]
        counts_of = [
            reference.compare(prompt, arm, answer, model.stop_tokens, vllm_workload.CROSS_ENGINE_GAP)
            for (prompt, arm), answer in zip(pairs, answers, strict=True)
        ]
        steps, decided, equal = (sum(column) for column in zip(*counts_of, strict=True))
        measured = f"{equal} of {decided} decided steps, of {steps}"
        passes = equal == decided and decided > MIN_DECIDED * steps
        yield Figure(
            f"{name}: tokens of plain forward passes", measured, f"all, over {MIN_DECIDED:.0%} decided", passes
        )
        model.unload()
    yield from step_cost(bench)


def step_cost(bench: Bench) -> Iterator[Figure]:
    """The time of a step of 64 groups of two branches, over that of 128 ordinary rows."""
    from decoding.arms.arm import parse_arm
    from lab.gpu.vllm_workload import decode_in_engine, engine
    from lab.gpu.workload import make_prompts, median_seconds

    what = f"share of a step for strategies, {GROUPS} groups"
    if bench.device == "cpu":
        yield Figure(what, "not here: needs a GPU")
        return
    model = engine(
        bench, bench.model("full"), dtype=bench.dtype, trace=False, gpu_memory_utilization=0.8,
        engine_args={"max_num_seqs": 2 * GROUPS},
    )  # fmt: skip
    rows, pairs = make_prompts(2 * GROUPS, (1,)), make_prompts(GROUPS, (1,), seed=1)
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
    yield Figure(what, f"{share:.1%}", f"at most {MAX_SHARE:.0%}", share <= MAX_SHARE)
    model.unload()


CHECK = BenchCheck(
    12, "lockstep in a tight cache, async and graphs on and off",
    "0 violations, tokens of plain forward passes, at most 5 % of a step at 64 groups", 5.0, run, needs=("vllm",),
    in_quick=False,
)  # fmt: skip

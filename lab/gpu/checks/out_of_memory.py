"""A run whose batch does not fit into memory gives the same answers in smaller batches, and returns the memory."""

from collections.abc import Iterator

from lab.gpu.check import Bench, BenchCheck, Figure

ROWS, LENGTH, DEMOS = 48, 8, 6
MAX_FAILURES, MAX_LEFT = 2, 0.01
ALLOWED_FRACTION = 0.6
"""Part of what the whole batch takes above the weights that the second run may take."""


def run(bench: Bench) -> Iterator[Figure]:
    """Runs twice in float32, where batches do not change tokens: without a limit and with one."""
    import torch

    from decoding.arms.arm import parse_arm
    from decoding.engine.requests import Counters
    from icl.models.hf.batch_halving import free
    from lab.gpu.workload import decode, load_model, make_prompts, undecided_or_equal

    model = load_model(bench, bench.model("narrow"), dtype="float32", token_budget=1_000_000, image_cache_mb=64)
    prompts, arms = make_prompts(ROWS, (DEMOS,)), [parse_arm("greedy")]
    free()
    weights = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    expected = decode(model, prompts, arms, LENGTH)
    peak = torch.cuda.max_memory_allocated()
    model.engine.prefiller.cached_prefixes.clear()
    free()
    allowed = weights + ALLOWED_FRACTION * (peak - weights)
    total = torch.cuda.get_device_properties(0).total_memory
    yield Figure("peak without a limit, and the limit", f"{peak / 2**30:.2f} GiB, {allowed / 2**30:.2f} GiB")
    before, counters, earlier = torch.cuda.memory_allocated(), Counters(), failed_allocations()
    torch.cuda.set_per_process_memory_fraction(min(1.0, allowed / total))
    try:
        answers = decode(model, prompts, arms, LENGTH, counters)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    same = sum(undecided_or_equal(one, two.tokens) for one, two in zip(expected, answers, strict=True))
    yield Figure("answers as without the limit", f"{same} of {ROWS}", f"{ROWS}", same == ROWS)
    failures = failed_allocations() - earlier
    yield Figure("allocations that failed", f"{failures}, {counters.batches_halved} batches halved",
                 f"1 to {MAX_FAILURES}", 1 <= failures <= MAX_FAILURES)  # fmt: skip
    model.engine.prefiller.cached_prefixes.clear()
    free()
    left = torch.cuda.memory_allocated() / before - 1
    yield Figure("memory that was not given back", f"{left:.1%}", f"at most {MAX_LEFT:.0%}", left <= MAX_LEFT)


def failed_allocations() -> int:
    """Allocations on the GPU that have failed in this process."""
    import torch

    return int(torch.cuda.memory_stats().get("num_ooms", 0))


CHECK = BenchCheck(
    8, "out of memory", "the same answers, at most 2 failures, memory back within 1 %", 2.0, run, needs=("gpu", "hf")
)

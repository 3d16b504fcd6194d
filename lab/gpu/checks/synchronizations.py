"""The token loop waits for the device at most once a step, for all arms together."""

import warnings
from collections.abc import Callable, Iterator
from functools import partial

from lab.gpu.check import Bench, BenchCheck, Figure

ARMS = ("greedy", "vcd", "cad", {"name": "vcd", "sampling": {"temperature": 1.0}})
SHORT, LONG, PROMPTS = 4, 20, 4
MAX_A_STEP = 1.0


def run(bench: Bench) -> Iterator[Figure]:
    """Counts the warnings of CUDA's debug mode in long answers less those in short ones, so that prefills cancel."""
    from decoding.arms.arm import parse_arm
    from lab.gpu.workload import decode, load_model, make_prompts

    model = load_model(bench, "tiny", dtype="float32")
    prompts = make_prompts(PROMPTS)
    for count in (1, len(ARMS)):
        arms = [parse_arm(arm) for arm in ARMS[:count]]
        for length in (SHORT, LONG):
            decode(model, prompts, arms, length)  # what is done once for a shape is done here
        short, long = (count_waits(partial(decode, model, prompts, arms, length)) for length in (SHORT, LONG))
        a_step = (long - short) / (LONG - SHORT)
        yield Figure(f"{count} arms", f"{a_step:.2f} a step", f"at most {MAX_A_STEP:g}", a_step <= MAX_A_STEP)


def count_waits(work: Callable[[], object]) -> int:
    """How often some work waits for the device."""
    import torch

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(warning.message).lower() for warning in caught)


CHECK = BenchCheck(
    9, "waits for the device, 1 and 4 arms", "at most 1 a step", 1.0, run, needs=("gpu", "hf"), uses_models=False
)

"""What is saved if prompts take the places of answers that have ended, instead of waiting for the longest answer.

Free texts of skewed lengths: 3 times a Pareto variable of exponent 1, between 3 and 96 tokens, the mean about 11. A
model without an end of text answers 128 prompts, so that lengths are the same with and without. Batches have 16
prompts, as where memory allows no more. `python -m lab.bench continuous_batching [path=CHECKPOINT]` prints the rows.
"""

import random
from collections.abc import Iterator, Sequence
from typing import Any

from decoding.arms.arm import parse_arm
from decoding.engine.engine import DECODE_LIMITS, run_requests
from decoding.engine.requests import Counters, DecodingRequest
from icl.memory import BatchLimit
from icl.models.hf.model import HF
from icl.types import Generation
from lab.bench import Row, one_thread, rounds
from lab.bench.decoding import BATCH, Endless, prompts_of
from lab.bench.timing import cpu_rounds, round_ratios, with_spread

BATCHES, LONGEST, ROUNDS = 8, 96, 5
ARMS: dict[str, tuple[list[Any], int]] = {
    "greedy": (["greedy"], 1),
    "greedy, vcd, vcd sampled": (["greedy", "vcd", {"name": "vcd", "sampling": {"temperature": 1.0}}], 5),
}
"""Arms, and the rows of one prompt when they share none."""


def rows(path: str = "tiny") -> Iterator[Row]:
    """All figures of this file, on one thread."""
    with one_thread():
        model = HF(path=path, dtype="float32", device="cpu")
        model.load()
        for name, (nodes, num_rows) in ARMS.items():
            yield from _rows(model, name, nodes, num_rows)


def _rows(model: HF, name: str, nodes: Sequence[Any], num_rows: int) -> Iterator[Row]:
    endless: Any = Endless(model)
    prompts = [prompt for seed in range(rounds(BATCHES)) for prompt in prompts_of(seed)]
    lengths = [min(LONGEST, int(3 * random.Random(i).paretovariate(1))) for i in range(len(prompts))]
    requests = [
        DecodingRequest(prompt, parse_arm(node), max_new_tokens=length)
        for prompt, length in zip(prompts, lengths, strict=True)
        for node in nodes
    ]
    limit = BATCH * num_rows * (max(map(model.count_tokens, prompts)) + LONGEST + model.row_overhead)
    answers: dict[bool, list[Any]] = {}
    counters: dict[bool, Counters] = {}

    def run(is_continuous: bool) -> None:
        DECODE_LIMITS[endless] = BatchLimit(model.max_batch_tokens)
        DECODE_LIMITS[endless].now, counters[is_continuous] = limit, Counters()
        answers[is_continuous] = run_requests(
            endless, requests, counters[is_continuous], continuous_batching=is_continuous
        )

    waiting, joining = cpu_rounds([lambda: run(False), lambda: run(True)], ROUNDS)
    before, after = counters[False].forwards, counters[True].forwards
    what = f"{name}, {len(prompts)} answers of 3 to {max(lengths)} tokens, batches of {BATCH} prompts"
    least = sum(request.max_new_tokens - 1 for request in requests) / len(nodes) / BATCH
    yield f"{what}: steps", f"{after} of {before} ({after / before:.2f})", f">= {least:.0f}"
    yield f"{what}: CPU time over waiting", with_spread(round_ratios(joining, waiting)), "<= 1"
    pairs = [
        (one, other)
        for one, other in zip(answers[True], answers[False], strict=True)
        if isinstance(one, Generation) and isinstance(other, Generation)
    ]
    equal = sum(one.tokens == other.tokens for one, other in pairs)
    yield f"{what}: answers of equal tokens", f"{equal} of {len(requests)}", "all"
    numbers = [
        abs(a - b)
        for one, other in pairs
        for field in one.trace
        for a, b in zip(one.trace[field], other.trace[field], strict=False)
    ]
    differ = sum(number > 0 for number in numbers)
    yield f"{what}: stored numbers that differ", f"{differ} of {len(numbers):,}, by at most {max(numbers):.4f}", ""

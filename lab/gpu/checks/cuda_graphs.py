"""Decoding steps as CUDA graphs: logits and tokens of plain steps, and the time of a step."""

from collections.abc import Iterator
from functools import partial

from lab.gpu.check import Bench, BenchCheck, Figure, judge

ROWS, STEPS = 8, 24


def run(bench: Bench) -> Iterator[Figure]:
    """Logits along the tokens of plain steps, and the time of long answers less that of short ones."""
    from decoding.arms.arm import parse_arm
    from lab.gpu.workload import (
        EXACT_GAP,
        GAP,
        agreement,
        decode,
        forced_logits,
        greedy_tokens,
        load_model,
        make_prompts,
        median_seconds,
    )  # fmt: skip

    settings = {"path": bench.model("narrow"), "dtype": bench.dtype if bench.device == "cuda" else "float32"}
    plain, graphed = (load_model(bench, **settings, cuda_graphs=on) for on in (False, True))
    prompts = make_prompts(ROWS)
    tokens = greedy_tokens(plain, prompts, STEPS)
    first, second = (forced_logits(model, prompts, tokens, ROWS) for model in (plain, graphed))
    agreed = agreement(first, second, GAP if bench.device == "cuda" else EXACT_GAP)
    steps = graphed.engine.counters.graph_steps
    yield Figure("steps by graphs", f"{steps}", f"{STEPS}", steps == STEPS)
    yield Figure(f"logits of {ROWS} rows with and without graphs", agreed.describe(), "all", agreed.holds())
    for name in ("greedy", "vcd"):
        works = [
            partial(decode, model, prompts, [parse_arm(name)], length)
            for model in (plain, graphed)
            for length in (STEPS, 1)
        ]
        long, short, graph_long, graph_short = median_seconds(bench, works, 2 if bench.is_quick else 5)
        ratio = (long - short) / (graph_long - graph_short)
        expected, passes = judge(bench, ratio, 1.0)
        yield Figure(f"{name}: time of a plain step over one with graphs", f"{ratio:.2f}", expected, passes)


CHECK = BenchCheck(
    15,
    "decoding steps as CUDA graphs",
    "tokens as in row 4, no slower",
    2.0,
    run,
    needs=("hf",),
)

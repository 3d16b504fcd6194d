"""The token loop against `generate` of transformers."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from lab.gpu.check import Bench, BenchCheck, Figure, judge

if TYPE_CHECKING:
    from icl.models.hf.model import HF

ROWS = 16
GOALS = (("greedy", 1, 0.95), ("vcd", 2, None))
"""Arm, rows of `generate` for each of its prompts, and the goal; of vcd the ratio is recorded."""


def run(bench: Bench) -> Iterator[Figure]:
    """Tokens a second: a long answer less one of a single token, so that prefills do not count."""
    from decoding.arms.arm import parse_arm
    from lab.gpu.workload import decode, load_model, make_prompts, median_seconds, processed

    length, rounds = (16, 2) if bench.is_quick else (48, 5)
    model = load_model(bench, bench.model("full"), dtype=bench.dtype if bench.device == "cuda" else "float32")
    prompts = make_prompts(ROWS)
    for name, copies, goal in GOALS:
        arm, inputs = parse_arm(name), processed(model, prompts * copies)
        works: list[Callable[[], Any]] = [
            partial(decode, model, prompts, [arm], length),
            partial(decode, model, prompts, [arm], 1),
            partial(generate, model, inputs, length),
            partial(generate, model, inputs, 1),
        ]
        long, short, their_long, their_short = median_seconds(bench, works, rounds)
        ratio = (their_long - their_short) / (long - short)
        rate = ROWS * (length - 1) / (long - short)
        what = f"{name}, {ROWS} rows, against generate on {ROWS * copies} rows"
        expected, passes = judge(bench, ratio, goal)
        yield Figure(what, f"{ratio:.2f} ({rate:,.0f} tokens/s)", expected, passes)


def generate(model: "HF", inputs: dict[str, Any], length: int) -> None:
    """Greedy decoding of transformers, without an end of text."""
    import torch
    from transformers.utils import logging

    logging.set_verbosity_error()  # no warning about the end token, which is never reached on purpose
    with torch.inference_mode():
        model.engine.runner.model.generate(
            **inputs, do_sample=False, max_new_tokens=length, eos_token_id=-1, pad_token_id=0
        )


CHECK = BenchCheck(
    10,
    "hf against generate, 16 rows",
    "greedy at least .95",
    3.0,
    run,
    needs=("hf",),
)

"""The cost of a step next to its forward: mask and combination of every strategy on 150k tokens, batch 16.

Tensors in float32 on one thread. A step is a forward of a 7B model on 16 rows per branch on the same thread: one matrix
product (3,584 to 18,944) is measured and scaled to the number of parameters. Attention is left out, so a real step
takes longer. Scores have about two nats of entropy, as those of a model.
"""

import sys
from statistics import median

import torch

from decoding.arms.arm import parse_arm
from decoding.arms.inspection import logits_count, probe_branches
from decoding.base import InitialStepState, Strategy
from decoding.engine.decoding_step import combine_branches
from icl.errors import ICLError
from icl.registry import entries
from icl.streams import StreamKey
from lab.bench import Row, one_thread
from lab.bench.timing import cpu_rounds, with_spread

VOCABULARY, BATCH = 150_000, 16
PARAMETERS, WIDTH, INNER = 7.6e9, 3_584, 18_944
COMMON_SPREAD, BRANCH_SPREAD = 4.3, 1.0
"""Standard deviations of the common scores of the branches, and of each branch's own."""
ROUNDS = 3


def rows() -> list[Row]:
    """The most expensive methods and controls, and the number of all within the goal."""
    with one_thread(), torch.inference_mode():
        strategies = _strategies()
        steps = {count: _step(count) for count in {len(probe_branches(one)) for one in strategies.values()}}
        spent = {
            name: (one, [seconds / steps[len(probe_branches(one))] for seconds in _seconds(one)])
            for name, one in strategies.items()
        }
    table: list[Row] = []
    for what, is_control in (("methods", False), ("controls", True)):
        own = {name: shares for name, (one, shares) in spent.items() if one.traits.is_control == is_control}
        within = sum(median(shares) <= 0.05 for shares in own.values())
        dear = sorted(own, key=lambda name: -median(own[name]))[:3]
        figure = ", ".join(f"{name} {with_spread([100 * share for share in own[name]], ' %', 1)}" for name in dear)
        table.append(
            (f"{what} whose combination takes at most 5 % of a step", f"{within} of {len(own)}", f"{len(own)}")
        )
        table.append((f"the most expensive {what}, of a step (two branches: {steps[2]:.1f} s)", figure, "<= 5 %"))
    return table


def _step(branches: int) -> float:
    """CPU seconds of a step."""
    weights, rows_ = torch.randn(INNER, WIDTH), torch.randn(branches * BATCH, WIDTH)
    (seconds,) = cpu_rounds([lambda: torch.nn.functional.linear(rows_, weights)], ROUNDS)
    return PARAMETERS / weights.numel() * median(seconds)


def _strategies() -> dict[str, Strategy]:
    """Every registered strategy that decodes tokens, with its defaults; wrapped controls wrap VCD."""
    strategies: dict[str, Strategy] = {}
    for name in entries("strategy"):
        for node in ({"name": name}, {"name": name, "of": "vcd"}):
            try:
                strategy = parse_arm(node).strategy
                probe_branches(strategy)
            except (ICLError, TypeError):
                continue
            if not strategy.traits.requires_options:
                strategies[name] = strategy
            break
    return strategies


def _seconds(strategy: Strategy) -> list[float]:
    """CPU seconds of one combination, in each round."""
    count = logits_count(strategy)
    generator = torch.Generator().manual_seed(0)
    common = COMMON_SPREAD * torch.randn(1, BATCH, VOCABULARY, generator=generator)
    logits = common + BRANCH_SPREAD * torch.randn(count, BATCH, VOCABULARY, generator=generator)
    states = [InitialStepState(StreamKey(0, f"q{i}")) for i in range(BATCH)]
    return cpu_rounds([lambda: combine_branches(strategy, logits, 1, states)], ROUNDS)[0]


if __name__ == "__main__":
    for row in rows(*sys.argv[1:2]):
        print(" | ".join(row))

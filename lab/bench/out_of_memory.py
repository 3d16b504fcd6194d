"""Batches that run out of memory: failures and row-forwards of the engine, with and without a limit that is remembered.

240 answers of 20 tokens on the shipped model, on a device that fails at the tenth step of a batch above 40 rows. A
row-forward is one row of one forward pass; 4,800 are needed. `python -m lab.bench.out_of_memory` prints the
rows.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from decoding.arms.arm import parse_arm
from decoding.engine.engine import run_requests
from decoding.engine.requests import Counters, DecodingRequest
from icl.models.hf.model import HF
from icl.models.hf.session import HFSession
from icl.models.interventions import TokenPart
from icl.streams import StreamKey
from icl.types import Part, Prompt, Turn
from lab.bench import Row, one_thread

ANSWERS, TOKENS, MAX_ROWS = 240, 20, 40


class FullDevice:
    """A model whose device fails halfway through a batch above MAX_ROWS rows. It has no end of text.

    Attributes:
        budget: Rows of a batch at most.
        row_forwards: Rows of all forward passes.
    """

    stop_tokens: frozenset[int] = frozenset()

    def __init__(self, model: HF, budget: int, prompts: Sequence[Prompt]) -> None:
        self.model, self.row_forwards = model, 0
        self.max_batch_tokens = budget * (max(map(model.count_tokens, prompts)) + TOKENS)
        self.row_overhead = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def open(self, prompts: Sequence[Prompt], **settings: Any) -> HFSession:
        self.row_forwards += len(prompts)
        session, steps, advance = self.model.open(prompts, **settings), 1, HFSession.advance

        def counted(tokens: torch.Tensor, parts: Sequence[TokenPart] = ()) -> None:
            nonlocal steps
            if len(tokens) > MAX_ROWS and steps == TOKENS // 2:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            steps += 1
            self.row_forwards += len(tokens)
            advance(session, tokens, parts)

        session.advance = counted  # type: ignore[method-assign]  # this session alone
        return session


def rows() -> Iterator[Row]:
    """All figures of this file, on one thread."""
    with one_thread():
        model = HF(path="tiny", dtype="float32", device="cpu")
        for budget in (64, ANSWERS):
            failures, forwards = remembered(model, budget)
            before = halving_alone(budget)
            yield (
                f"batches of {budget} rows where {MAX_ROWS} fit: failures, row-forwards",
                f"{failures}, {forwards:,}; halving alone {before[0]}, {before[1]:,}",
                "",
            )


def remembered(model: HF, budget: int) -> tuple[int, int]:
    """(failures, row-forwards) of the engine."""
    prompts = _prompts(model)
    device, counters = FullDevice(model, budget, prompts), Counters()
    requests = [DecodingRequest(prompt, parse_arm("greedy"), max_new_tokens=TOKENS) for prompt in prompts]
    run_requests(device, requests, counters)  # type: ignore[arg-type]  # it has what the engine reads
    return counters.batches_halved, device.row_forwards


def _prompts(model: HF) -> list[Prompt]:
    """Different prompts of the same length."""
    by_length: dict[int, list[Prompt]] = {}
    for i in range(10 * ANSWERS):
        prompt = Prompt((Turn("user", (Part(f"{i:04}"),)),), StreamKey(0, str(i)))
        by_length.setdefault(model.count_tokens(prompt), []).append(prompt)
    return max(by_length.values(), key=len)[:ANSWERS]


def halving_alone(budget: int) -> tuple[int, int]:
    """(failures, row-forwards) of an engine that halves each batch that fails and remembers nothing."""
    failures = forwards = 0
    pending = [min(budget, ANSWERS - start) for start in range(0, ANSWERS, budget)]
    while pending:
        size = pending.pop()
        if size > MAX_ROWS:
            failures, forwards = failures + 1, forwards + size * TOKENS // 2
            pending += [size // 2, size - size // 2]
        else:
            forwards += size * TOKENS
    return failures, forwards


if __name__ == "__main__":
    for what, figure, _ in rows():
        print(f"{what:<86} {figure}")

"""What an answer is recorded as, whichever engine gave it: a text or the best option, what it cost, what it left."""

from collections.abc import Sequence
from typing import Literal, Protocol

from decoding.engine.requests import PreparedRequest
from decoding.engine.token_loop import TRACE_FIELDS
from decoding.engine.trace import StepTrace, compact
from icl.types import Generation, Usage


class Detokenizer(Protocol):
    """Who knows the tokens: a model, or its renderer alone."""

    @property
    def stop_tokens(self) -> frozenset[int]: ...
    def text(self, tokens: Sequence[int]) -> str: ...


def text_generation(
    ready: PreparedRequest,
    reader: Detokenizer,
    tokens: Sequence[int],
    finish: Literal["stop", "length"],
    *,
    steps: int,
    numbers: Sequence[Sequence[float]] = (),
    step_traces: Sequence[StepTrace] = (),
) -> Generation:
    """tokens: without the one that ended it. steps: tokens that were chosen, with it. numbers: of TRACE, by step."""
    usage = Usage(sum(ready.tokens), steps, steps * len(ready.branches) * ready.beams)
    trace = dict(zip(TRACE_FIELDS, map(tuple, zip(*numbers, strict=True)), strict=True)) if numbers else {}
    seen = compact(step_traces, reader.stop_tokens, reader.text)
    return Generation(reader.text(tokens), tuple(tokens), finish, usage, trace, steps=seen)


def option_generation(ready: PreparedRequest, ids: Sequence[Sequence[int]], values: Sequence[float]) -> Generation:
    """ids: the tokens of each option. values: one number an option; the first of the best is the answer."""
    options = ready.job.options
    best = max(range(len(values)), key=values.__getitem__)
    usage = Usage(sum(ready.tokens), sum(map(len, ids)), len(ready.branches))
    scores = dict(zip(options, values, strict=True))
    return Generation(options[best], tuple(ids[best]), "stop", usage, option_scores=scores)

"""Conversion of decoded tokens and option scores into `Generation`, for all engines."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, Protocol

from decoding.engine.requests import PreparedRequest
from decoding.engine.stop_strings import cut_generation
from decoding.engine.trace import StepTrace, serialize_step_traces
from decoding.engine.trace_numbers import TRACE_FIELDS
from decoding.engine.trace_precision import round_nats
from icl.types import Generation, Usage

if TYPE_CHECKING:
    from decoding.engine.thinking_budget import Thinking


class Detokenizer(Protocol):
    """Decoder of token ids: a model, or its renderer alone."""

    @property
    def stop_tokens(self) -> frozenset[int]: ...
    def text(self, tokens: Sequence[int]) -> str: ...


def text_generation(
    prepared: PreparedRequest,
    detokenizer: Detokenizer,
    tokens: Sequence[int],
    finish: Literal["stop", "length"],
    *,
    steps: int,
    numbers: Sequence[Sequence[float]] = (),
    step_traces: Sequence[StepTrace] = (),
    thinking: "Thinking | None" = None,
) -> Generation:
    """A generated text.

    Args:
        prepared: The request.
        detokenizer: Decodes the tokens.
        tokens: Tokens of the answer, without the stop token.
        finish: Why the answer ended.
        steps: Number of chosen tokens, including the stop token.
        numbers: TRACE_FIELDS of each step.
        step_traces: Distributions of each step.
        thinking: Its reasoning, under a thinking budget.
    """
    forwards = steps * len(prepared.branches) * prepared.num_beams
    usage = Usage(sum(prepared.tokens), steps, forwards, 0 if thinking is None else thinking.num_tokens)
    columns = [tuple(round_nats(column)) for column in zip(*numbers, strict=True)]
    trace = dict(zip(TRACE_FIELDS, columns, strict=True)) if numbers else {}
    serialized = serialize_step_traces(step_traces, detokenizer.stop_tokens, detokenizer.text)
    generation = Generation(detokenizer.text(tokens), tuple(tokens), finish, usage, trace, steps=serialized)
    if thinking is not None:
        generation = replace(generation, text=thinking.text(detokenizer, tokens), thinking=thinking.end)
    return cut_generation(generation, prepared.request.stop_strings)


def option_generation(prepared: PreparedRequest, ids: Sequence[Sequence[int]], values: Sequence[float]) -> Generation:
    """The best option; the first of equally good ones.

    Args:
        prepared: The request.
        ids: Tokens of each option.
        values: Score of each option.
    """
    options = prepared.request.options
    best = max(range(len(values)), key=values.__getitem__)
    usage = Usage(sum(prepared.tokens), sum(map(len, ids)), len(prepared.branches))
    scores = dict(zip(options, values, strict=True))
    return Generation(options[best], tuple(ids[best]), "stop", usage, option_scores=scores)

"""Assignment of requests to batches.

All arms of a context together, contexts of similar length, within the limit of a batch.
"""

from collections import deque
from collections.abc import Iterator, Sequence

from decoding.engine.requests import PreparedRequest, distinct_prompts
from icl.memory.batch_limit import BatchLimit
from icl.models.base import LogitModel

BATCH_TOKENS = 32_768
"""Default budget: tokens of all rows of a batch, prompts and answers together."""

ROWS_PER_PREFILL = 4
"""Budget of rows relative to a prefill. Rows hold keys and values only; a prefill also holds activations."""

Shape = tuple[int, int]
"""Rows of a batch, and tokens of the longest one."""


def batches(
    prepared: Sequence[PreparedRequest], limit: BatchLimit, row_overhead: int = 0
) -> Iterator[tuple[list[int], int]]:
    """Yields the indices of the requests of each batch, and its size in tokens.

    A single context may exceed the limit. It is split only if a batch of its size has run out of memory.

    Args:
        prepared: The requests.
        limit: The largest batch in tokens of all rows. It may change between two batches.
        row_overhead: Tokens that a row costs besides its own.
    """

    def shape(indices: Sequence[int]) -> Shape:
        return _shape([prepared[i] for i in indices])

    def size(rows: int, tokens: int) -> int:
        return rows * (tokens + row_overhead)

    pending = deque(contexts_in_order(prepared))
    batch: list[int] = []
    rows = tokens = 0
    while pending:
        context = pending.popleft()
        context_rows, context_tokens = shape(context)
        if len(context) > 1 and size(context_rows, context_tokens) >= limit.failed:
            middle = len(context) // 2
            pending.extendleft((context[middle:], context[:middle]))
        elif batch and not limit.fits(size(rows + context_rows, max(tokens, context_tokens))):
            yield batch, size(rows, tokens)
            batch, rows, tokens = [], 0, 0
            pending.appendleft(context)
        else:
            batch += context
            rows, tokens = rows + context_rows, max(tokens, context_tokens)
    if batch:
        yield batch, size(rows, tokens)


def contexts_in_order(prepared: Sequence[PreparedRequest]) -> list[list[int]]:
    """The indices of the requests of each context, in the order in which they are decoded: the longest first."""
    contexts: dict[str, list[int]] = {}
    for i, one in enumerate(prepared):
        contexts.setdefault(one.digests[0], []).append(i)
    return sorted(contexts.values(), key=lambda indices: -_shape([prepared[i] for i in indices])[1])


def token_budget(model: LogitModel) -> int:
    """The model's `max_batch_tokens`, else a multiple of its `token_budget` for prefills, else the default."""
    return model.max_batch_tokens or ROWS_PER_PREFILL * (model.token_budget or 0) or BATCH_TOKENS


def _shape(prepared: Sequence[PreparedRequest]) -> Shape:
    """Rows of a context when no arms share a row any more, and tokens of its longest row with the answer."""
    generated = [one for one in prepared if one.request.answer_mode == "generate"]
    rows = max(len(distinct_prompts(prepared)), sum(len(one.digests) * one.num_beams for one in generated))
    new_tokens = max((one.request.max_output_tokens for one in generated), default=0)
    return rows, new_tokens + max(max(one.tokens) for one in prepared)

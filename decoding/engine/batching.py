"""Which jobs share a batch: all arms of a context, contexts of like length, as many as the token budget holds."""

from collections.abc import Iterator, Sequence

from decoding.engine.requests import PreparedRequest, distinct_prompts
from icl.models.base import LogitModel

BATCH_TOKENS = 32_768
"""Tokens of all rows of a batch, prompts and answers together, where the model names no budget of its own."""

ROWS_TO_PREFILL = 4
"""Rows hold keys and values alone, a prefill holds activations too: its budget (`token_budget`) is worth more rows."""


def batches(model: LogitModel, prepared_requests: Sequence[PreparedRequest]) -> Iterator[list[int]]:
    """Indices of the jobs of each batch. A single context may be above the budget; it is never cut here."""
    contexts: dict[str, list[int]] = {}
    for i, ready in enumerate(prepared_requests):
        contexts.setdefault(ready.digests[0], []).append(i)
    sizes = {digest: _size([prepared_requests[i] for i in of]) for digest, of in contexts.items()}
    budget = budget_of(model)
    batch: list[int] = []
    rows = longest = 0
    for digest in sorted(contexts, key=lambda d: -sizes[d][1]):
        more, length = sizes[digest]
        if batch and (rows + more) * max(longest, length) > budget:
            yield batch
            batch, rows, longest = [], 0, 0
        batch += contexts[digest]
        rows, longest = rows + more, max(longest, length)
    if batch:
        yield batch


def budget_of(model: LogitModel) -> int:
    """The model's `max_batch_tokens`, or what its `token_budget` for prefills comes to."""
    prefill = ROWS_TO_PREFILL * (model.token_budget or 0)
    return model.max_batch_tokens or prefill or BATCH_TOKENS


def _size(prepared_requests: Sequence[PreparedRequest]) -> tuple[int, int]:
    """(rows that a context can come to when all its arms have parted, tokens of the longest with its answer)."""
    generated = [ready for ready in prepared_requests if ready.job.score == "generate"]
    rows = max(len(distinct_prompts(prepared_requests)), sum(len(ready.digests) * ready.beams for ready in generated))
    new = max((ready.job.max_new_tokens for ready in generated), default=0)
    return rows, new + max(max(ready.tokens) for ready in prepared_requests)

"""Assignment of requests to batches.

All arms of a context together, contexts of similar length, within a token budget.
"""

from collections.abc import Iterator, Sequence

from decoding.engine.requests import PreparedRequest, distinct_prompts
from icl.models.base import LogitModel

BATCH_TOKENS = 32_768
"""Default budget: tokens of all rows of a batch, prompts and answers together."""

ROWS_PER_PREFILL = 4
"""Budget of rows relative to a prefill. Rows hold keys and values only; a prefill also holds activations."""


def batches(model: LogitModel, prepared: Sequence[PreparedRequest]) -> Iterator[list[int]]:
    """Yields the indices of the requests of each batch. A single context may exceed the budget; it is never split."""
    contexts: dict[str, list[int]] = {}
    for i, one in enumerate(prepared):
        contexts.setdefault(one.digests[0], []).append(i)
    sizes = {digest: _size([prepared[i] for i in indices]) for digest, indices in contexts.items()}
    budget = token_budget(model)
    batch: list[int] = []
    rows = max_tokens = 0
    for digest in sorted(contexts, key=lambda d: -sizes[d][1]):
        context_rows, context_tokens = sizes[digest]
        if batch and (rows + context_rows) * max(max_tokens, context_tokens) > budget:
            yield batch
            batch, rows, max_tokens = [], 0, 0
        batch += contexts[digest]
        rows, max_tokens = rows + context_rows, max(max_tokens, context_tokens)
    if batch:
        yield batch


def token_budget(model: LogitModel) -> int:
    """The model's `max_batch_tokens`, else a multiple of its `token_budget` for prefills, else the default."""
    return model.max_batch_tokens or ROWS_PER_PREFILL * (model.token_budget or 0) or BATCH_TOKENS


def _size(prepared: Sequence[PreparedRequest]) -> tuple[int, int]:
    """Most rows of a context (when no arms share a row any more), and tokens of its longest row with the answer."""
    generated = [one for one in prepared if one.request.answer_mode == "generate"]
    rows = max(len(distinct_prompts(prepared)), sum(len(one.digests) * one.num_beams for one in generated))
    new_tokens = max((one.request.max_output_tokens for one in generated), default=0)
    return rows, new_tokens + max(max(one.tokens) for one in prepared)

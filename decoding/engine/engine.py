"""The engine for models with sessions: decodes requests without computing anything twice.

Branches of all requests are merged by digest, and each distinct prompt is prefilled once. Contexts of similar length
share a batch, together with all their arms, within the model's token budget. Equal requests are computed once. A batch
that runs out of memory continues in halves. A request that cannot be answered fails alone, with a reason.
"""

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch

from decoding.engine.batch import decode_batch
from decoding.engine.batching import batches
from decoding.engine.requests import Counters, DecodingRequest, Failure, LazyBranches, PreparedRequest
from decoding.engine.result_collector import GenerationCache, OnResult, PrepareGenerator, Result, ResultCollector
from decoding.engine.voting import with_voting
from icl.errors import ICLError
from icl.models.base import LogitModel
from icl.out_of_memory import first_line, is_out_of_memory
from icl.user_errors import convert_user_errors

GENERATION_CACHES: WeakKeyDictionary[LogitModel, GenerationCache] = WeakKeyDictionary()
"""Texts generated for `Strategy.prepare`, kept as long as the model. An image is described once for all calls."""


@with_voting
def run_requests(
    model: LogitModel,
    requests: Sequence[DecodingRequest],
    counters: Counters | None = None,
    *,
    trace: bool = True,
    lazy_branches: LazyBranches = "auto",
    on_result: OnResult | None = None,
) -> list[Result]:
    """Decodes requests. A result depends on its request alone, not on the other requests.

    Args:
        model: The model.
        requests: Requests of any strategies.
        counters: Receives the work done.
        trace: Record numbers for each step (`decoding.engine.token_loop.TRACE_FIELDS`).
        lazy_branches: Whether contrast branches may be left unread.
        on_result: Called with the index and the result of a request as soon as it is available.

    Returns:
        The results in the order of the requests. A request that cannot be answered has a `Failure`.
    """
    counters = Counters() if counters is None else counters
    model.load()
    collector = ResultCollector(requests, counters, on_result)
    cache = GENERATION_CACHES.setdefault(model, {})
    prepared = collector.prepare(PrepareGenerator(run_requests, model, counters, cache), model.count_tokens)
    indices = collector.request_indices()
    for batch in batches(model, prepared):
        results = _decode(model, [prepared[j] for j in batch], counters, trace, lazy_branches)
        for j, result in zip(batch, results, strict=True):
            for i in indices[j]:
                collector.add(i, result)
    return collector.results()


def _decode(
    model: LogitModel, prepared: list[PreparedRequest], counters: Counters, trace: bool, lazy_branches: LazyBranches
) -> list[Result]:
    """Decodes a batch, or its halves if memory runs out, a prompt cannot be prefilled, or a strategy fails."""
    try:
        with torch.inference_mode(), convert_user_errors():
            return decode_batch(model, prepared, counters, trace, lazy_branches)
    except ICLError as error:
        problem = str(error)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        problem = f"out of memory with this prompt alone ({first_line(error)})."
        counters.batches_halved += 1
    if len(prepared) == 1:
        return [Failure(problem)]
    middle = len(prepared) // 2
    halves = (prepared[:middle], prepared[middle:])
    return [result for half in halves for result in _decode(model, half, counters, trace, lazy_branches)]

"""The engine for models with sessions: decodes requests without computing anything twice.

Branches of all requests are merged by digest, and each distinct prompt is prefilled once. Contexts of similar length
share a batch, together with all their arms, within the model's token budget. Equal requests are computed once. A batch
that runs out of memory continues in smaller ones, and the size that failed is not tried again. A request that cannot be
answered fails alone, with a reason.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from weakref import WeakKeyDictionary

import torch

from decoding.engine.batch import decode_batch
from decoding.engine.batching import batches, contexts_in_order, token_budget
from decoding.engine.read_ahead import ReadAhead, read_ahead
from decoding.engine.requests import Counters, DecodingRequest, Failure, LazyBranches, PreparedRequest
from decoding.engine.result_collector import GenerationCache, OnResult, PrepareGenerator, Result, ResultCollector
from decoding.engine.voting import with_voting
from icl.errors import ICLError
from icl.memory.batch_limit import BatchLimit
from icl.memory.out_of_memory import first_line, is_out_of_memory
from icl.models.base import LogitModel
from icl.user_errors import convert_user_errors

GENERATION_CACHES: WeakKeyDictionary[LogitModel, GenerationCache] = WeakKeyDictionary()
"""Texts generated for `Strategy.prepare`, kept as long as the model. An image is described once for all calls."""

DECODE_LIMITS: WeakKeyDictionary[LogitModel, BatchLimit] = WeakKeyDictionary()
"""Limits of decoding batches, which are remembered for a run."""


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
        trace: Record numbers for each step (`decoding.engine.trace_numbers.TRACE_FIELDS`).
        lazy_branches: Whether contrast branches may be left unread.
        on_result: Called with the index and the result of a request as soon as it is available.

    Returns:
        The results in the order of the requests. A request that cannot be answered has a `Failure`.
    """
    counters = Counters() if counters is None else counters
    model.load()
    collector = ResultCollector(requests, counters, on_result)
    cache = GENERATION_CACHES.setdefault(model, {})
    prepared = collector.prepare(PrepareGenerator(run_requests, model, counters, cache), model)
    indices = collector.request_indices()
    run = BatchRun(model, counters, trace, lazy_branches, decode_limit(model))
    with read_ahead(model) as ahead:
        for j, result in run.results(prepared, ahead):
            for i in indices[j]:
                collector.add(i, result)
    return collector.results()


def decode_limit(model: LogitModel) -> BatchLimit:
    """The limit of a batch in tokens of all rows. It is kept as long as the model and its budget."""
    budget, limit = token_budget(model), DECODE_LIMITS.get(model)
    if limit is None or limit.budget != budget:
        limit = DECODE_LIMITS[model] = BatchLimit(budget)
    return limit


@dataclass(frozen=True)
class BatchRun:
    """The decoding of the requests of one call, in batches within a limit."""

    model: LogitModel
    counters: Counters
    trace: bool
    lazy_branches: LazyBranches
    limit: BatchLimit

    def results(self, prepared: Sequence[PreparedRequest], ahead: ReadAhead) -> Iterator[tuple[int, Result]]:
        """(index, result) of each request, in the order in which they are decoded.

        A batch is decoded in smaller ones if memory runs out, and in halves if a prompt cannot be prefilled or a
        strategy fails.
        """
        later = [prepared[indices[0]].branches[0] for indices in contexts_in_order(prepared)]
        for batch, size in batches(prepared, self.limit, self.model.row_overhead):
            later = later[len({prepared[i].digests[0] for i in batch}) :]
            outcome = self._decode([prepared[i] for i in batch], size, partial(ahead.start, later))
            ahead.wait()
            if isinstance(outcome, list):
                yield from zip(batch, outcome, strict=True)
            elif len(batch) == 1:
                yield batch[0], outcome
            else:
                middle = 0 if self.limit.failed <= size else len(batch) // 2
                for part in filter(None, (batch[:middle], batch[middle:])):
                    yield from ((part[k], result) for k, result in self.results([prepared[i] for i in part], ahead))

    def _decode(
        self, prepared: list[PreparedRequest], size: int, on_open: Callable[[], None]
    ) -> list[Result] | Failure:
        """The results of a batch, or why it has none. Lowers the limit if memory ran out."""
        try:
            with torch.inference_mode(), convert_user_errors():
                results: list[Result] = decode_batch(
                    self.model, prepared, self.counters, self.trace, self.lazy_branches, on_open=on_open
                )
        except Exception as error:
            is_memory = is_out_of_memory(error)
            if not is_memory and not isinstance(error, ICLError):
                raise
            problem = str(error)
            if not isinstance(error, ICLError):
                problem = f"out of memory with this prompt alone ({first_line(error)})."
        else:
            self.limit.record_fit(size)
            return results
        if is_memory:  # outside of `except`, whose traceback holds the tensors of the failed batch
            self.counters.batches_halved += 1
            self.limit.record_failure(size)
            self.model.free_buffers()
        return Failure(problem)

"""The engine for models with sessions: decodes requests without computing anything twice.

Branches of all requests are merged by digest, and each distinct prompt is prefilled once. Contexts of similar length
share a batch, together with all their arms, within the model's token budget. Equal requests are computed once. A batch
that runs out of memory continues in smaller ones, and the size that failed is not tried again. A request that cannot be
answered fails alone, with a reason.
"""

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event
from weakref import WeakKeyDictionary

import torch

from decoding.engine import DecodingBatch, with_reasoned_options, with_voting
from decoding.engine.requests import Counters, DecodingRequest, Failure, LazyBranches, PreparedRequest, distinct_prompts
from decoding.engine.result_collector import GenerationCache, OnResult, PrepareGenerator, Result, ResultCollector
from icl import BatchLimit, ICLError, LogitModel, Prompt, StreamKey, convert_user_errors, first_line, is_out_of_memory

# Work on the host for later prompts, in a thread, while the model decodes.
#
#     thread    images of batch 2      images of batch 3
#     host      open 1 | decode 1      open 2 | decode 2      open 3 ...
#                      ^ start                ^ start
#                               wait ^                 wait ^
#
# The thread only fills caches of the model (`icl.models.base.LogitModel.prepare_ahead`), with the references of the
# next prompts. It stands still while the first prompts of a batch are prefilled, so no work is done twice. What fails
# in it fails again where the prompt is used, and is reported there.


logger = logging.getLogger(f"icl.{__name__}")

GENERATION_CACHES: WeakKeyDictionary[LogitModel, GenerationCache] = WeakKeyDictionary()
"""Texts generated for `Strategy.prepare`, kept as long as the model. An image is described once for all calls."""

DECODE_LIMITS: WeakKeyDictionary[LogitModel, BatchLimit] = WeakKeyDictionary()
"""Limits of decoding batches, which are remembered for a run."""


@with_voting
@with_reasoned_options
def run_requests(
    model: LogitModel,
    requests: Sequence[DecodingRequest],
    counters: Counters | None = None,
    *,
    trace: bool = True,
    lazy_branches: LazyBranches = "auto",
    continuous_batching: bool = False,
    on_result: OnResult | None = None,
) -> list[Result]:
    """Decodes requests. A result depends on its request alone, not on the other requests.

    Args:
        model: The model.
        requests: Requests of any strategies.
        counters: Receives the work done.
        trace: Record numbers for each step (`decoding.engine.trace.TRACE_FIELDS`).
        lazy_branches: Whether contrast branches may be left unread.
        continuous_batching: Whether requests join a running batch when FREE_SHARE of its answers have ended. Otherwise
            a batch waits for its longest answer. Tokens are the same in float32. Traces differ as between any two
            batches (`decoding.engine.trace_precision`).
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
    run = BatchRun(model, counters, trace, lazy_branches, decode_limit(model), continuous_batching)
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


class ReadAhead:
    """One thread that prepares prompts for a model."""

    def __init__(self, model: LogitModel) -> None:
        self.model = model
        self.is_stopped = Event()
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        self.work: Future[None] | None = None

    def start(self, prompts: Iterable[Prompt]) -> None:
        """Starts to prepare prompts with at most MAX_IMAGES images together."""
        chosen, num_images = [], 0
        for prompt in prompts:
            num_images += len(prompt.images)
            if num_images > MAX_IMAGES:
                break
            chosen.append(prompt)
        if chosen and num_images:
            self.work = self.thread.submit(self._prepare, chosen)

    def wait(self) -> None:
        """Waits until everything that was started is prepared."""
        if self.work is not None:
            self.work.result()
            self.work = None

    def _prepare(self, prompts: Sequence[Prompt]) -> None:
        for start in range(0, len(prompts), CHUNK):
            if self.is_stopped.is_set():
                return
            try:
                self.model.prepare_ahead(prompts[start : start + CHUNK])
            except Exception as error:  # noqa: BLE001 - raised again where the prompt is used, and handled there
                logger.debug("a prompt cannot be prepared ahead: %s", error)


@dataclass(frozen=True)
class BatchRun:
    """The decoding of the requests of one call, in batches within a limit."""

    model: LogitModel
    counters: Counters
    trace: bool
    lazy_branches: LazyBranches
    limit: BatchLimit
    continuous_batching: bool = False

    def results(self, prepared: Sequence[PreparedRequest], ahead: ReadAhead) -> Iterator[tuple[int, Result]]:
        """(index, result) of each request, in the order in which they end.

        With continuous batching, the next requests take the places of answers that have ended. A batch is decoded in
        smaller ones if memory runs out, and in halves if a prompt cannot be prefilled or a strategy fails.
        """
        queue, batch = BatchQueue(prepared, self.limit, self.model.row_overhead), self._new_batch(prepared)
        new, size = queue.take()
        while new or batch.running:
            problem = self._run({i: prepared[i] for i in new}, size, batch, queue, ahead)
            ahead.wait()
            yield from batch.take_results()
            if problem:
                failed, batch = list(batch.running), self._new_batch(prepared)
                middle = 0 if self.limit.failed <= size else len(failed) // 2
                if len(failed) == 1:
                    yield failed[0], problem
                else:
                    for part in filter(None, (failed[:middle], failed[middle:])):
                        yield from ((part[k], result) for k, result in self.results([prepared[i] for i in part], ahead))
            if not batch.running:
                batch = self._new_batch(prepared)
            new, size = queue.take(*_shape(list(batch.running.values())))

    def _new_batch(self, prepared: Sequence[PreparedRequest]) -> DecodingBatch:
        early_exits = any(one.request.arm.traits.reads_early_exits for one in prepared)
        return DecodingBatch(self.model, self.counters, self.trace, self.lazy_branches, early_exits=early_exits)

    def _run(
        self,
        new: Mapping[int, PreparedRequest],
        size: int,
        batch: DecodingBatch,
        queue: "BatchQueue",
        ahead: ReadAhead,
    ) -> Failure | None:
        """Lets requests join a batch, and decodes it to its end or until others can join. Lowers the limit if memory
        ran out. Returns the reason for a failure.
        """
        try:
            with torch.inference_mode(), convert_user_errors():
                share = 1 - FREE_SHARE if self.continuous_batching and queue.pending else 0.0
                batch.run(new, share, on_open=lambda: ahead.start(queue.references()))
        except Exception as error:
            is_memory = is_out_of_memory(error)
            if not is_memory and not isinstance(error, ICLError):
                raise
            problem = str(error)
            if not isinstance(error, ICLError):
                problem = f"out of memory with this prompt alone ({first_line(error)})."
        else:
            self.limit.record_fit(size)
            return None
        if is_memory:  # outside of `except`: its traceback holds the tensors of the failed batch
            self.counters.batches_halved += 1
            self.limit.record_failure(size)
            batch.loop = None
            self.model.free_buffers()
        return Failure(problem)


# Assignment of requests to batches.
#
# All arms of a context together, contexts of similar length, within the limit of a batch. Contexts of a query of which
# one continues another, such as its 4 and its 8 shots in a nested order, are a family and share a batch if they fit.


BATCH_TOKENS = 32_768
"""Default budget: tokens of all rows of a batch, prompts and answers together."""
ROWS_PER_PREFILL = 4
"""Budget of rows relative to a prefill. Rows hold keys and values only; a prefill also holds activations."""

Shape = tuple[int, int]
"""Rows of a batch, and tokens of the longest one."""


FREE_SHARE = 0.25
"""Share of the answers of a batch that must have ended before others join. Joining costs a forward pass over the new
prompts alone and a copy of the KV cache."""


class BatchQueue:
    """Requests that wait for a batch.

    A single context may exceed the limit. It is split only if a batch of its size has run out of memory. A family of
    contexts that exceeds the limit is divided into its contexts.
    """

    def __init__(self, prepared: Sequence[PreparedRequest], limit: BatchLimit, row_overhead: int = 0) -> None:
        """A queue of all requests.

        Args:
            prepared: The requests.
            limit: The largest batch in tokens of all rows. It may change between two batches.
            row_overhead: Tokens that a row costs besides its own.
        """
        self.prepared, self.limit, self.row_overhead = prepared, limit, row_overhead
        self.pending = deque(families_in_order(prepared))

    def references(self) -> Iterator[Prompt]:
        """The first prompt of each context that waits."""
        return (self.prepared[context[0]].branches[0] for family in self.pending for context in family)

    def take(self, rows: int = 0, tokens: int = 0) -> tuple[list[int], int]:
        """The indices of the next requests that fit into a batch, and its size in tokens with them.

        Args:
            rows: Rows that the batch has.
            tokens: Tokens of the longest of them.
        """
        batch, pending, limit = list[int](), self.pending, self.limit
        while pending:
            family = pending.popleft()
            indices = [i for context in family for i in context]
            new_rows, new_tokens = _shape([self.prepared[i] for i in indices])
            if len(family) > 1 and not limit.fits(self._size(new_rows, new_tokens)):
                pending.extendleft([context] for context in reversed(family))
            elif len(indices) > 1 and self._size(new_rows, new_tokens) >= limit.failed:
                middle = len(indices) // 2
                pending.extendleft(([indices[middle:]], [indices[:middle]]))
            elif rows and not limit.fits(self._size(rows + new_rows, max(tokens, new_tokens))):
                pending.appendleft(family)
                break
            else:
                batch += indices
                rows, tokens = rows + new_rows, max(tokens, new_tokens)
        return batch, self._size(rows, tokens)

    def _size(self, rows: int, tokens: int) -> int:
        return rows * (tokens + self.row_overhead)


def families_in_order(prepared: Sequence[PreparedRequest]) -> list[list[list[int]]]:
    """The contexts of each family in the order in which they are decoded: the longest first. A context has the indices
    of its requests.
    """
    contexts: dict[str, list[int]] = {}
    for i, one in enumerate(prepared):
        contexts.setdefault(one.digests[0], []).append(i)
    families: dict[StreamKey, list[list[list[int]]]] = {}
    for context in sorted(contexts.values(), key=lambda indices: -_shape([prepared[i] for i in indices])[1]):
        prompt = prepared[context[0]].branches[0]
        of_query = families.setdefault(prompt.key, [])
        family = next((one for one in of_query if continues(prepared[one[0][0]].branches[0], prompt)), None)
        if family is None:
            of_query.append([context])
        else:
            family.append(context)
    longest_first = (family for of_query in families.values() for family in of_query)
    return sorted(longest_first, key=lambda family: -_shape([prepared[i] for i in family[0]])[1])


def continues(longer: Prompt, shorter: Prompt) -> bool:
    """Whether a prompt begins with at least half of the parts of a shorter one, as with more demonstrations of a query
    in a nested order.
    """
    parts, others = list(shorter.parts()), list(longer.parts())
    shared = next((i for i, (a, b) in enumerate(zip(parts, others, strict=False)) if a.content != b.content), None)
    return (min(len(parts), len(others)) if shared is None else shared) >= max(len(parts) / 2, 1)


def token_budget(model: LogitModel) -> int:
    """The model's `max_batch_tokens`, else a multiple of its `token_budget` for prefills, else the default."""
    return model.max_batch_tokens or ROWS_PER_PREFILL * (model.token_budget or 0) or BATCH_TOKENS


def _shape(prepared: Sequence[PreparedRequest]) -> Shape:
    """Rows of a context when no arms share a row any more, and tokens of its longest row with the answer."""
    generated = [one for one in prepared if one.request.answer_mode == "generate"]
    rows = max(len(distinct_prompts(prepared)), sum(len(one.digests) * one.num_beams for one in generated))
    new_tokens = max((one.request.max_output_tokens for one in generated), default=0)
    return rows, new_tokens + max((max(one.tokens) for one in prepared), default=0)


MAX_IMAGES = 64
"""Images that are prepared ahead. More would not stay in the model's cache."""

CHUNK = 4
"""Prompts between two looks at whether to stop."""


@contextmanager
def read_ahead(model: LogitModel) -> Iterator[ReadAhead]:
    """A thread for the block. An error or an interrupt ends it after the prompts that it is at."""
    ahead = ReadAhead(model)
    try:
        yield ahead
    finally:
        ahead.is_stopped.set()
        ahead.thread.shutdown(cancel_futures=True)

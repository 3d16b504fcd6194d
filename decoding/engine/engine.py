"""The engine: jobs in, answers out, with nothing computed twice.

The branches of all jobs are merged by digest and each distinct prompt is prefilled once, however many arms read it.
Contexts of like length share a batch, as many as fit the model's token budget with everything that will be decoded on
them; all arms of a context are in its batch. Equal jobs are computed once. A batch that runs out of memory goes on in
halves. A job that cannot be answered fails alone, with a sentence.
"""

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch

from decoding.engine.batch import decode_batch
from decoding.engine.batching import batches
from decoding.engine.requests import Counters, DecodingRequest, Failure, LazyBranches, PreparedRequest
from decoding.engine.result_collector import Done, Known, PrepareGenerator, Result, ResultCollector
from decoding.engine.voting import with_voting
from icl.errors import ICLError
from icl.models.base import LogitModel
from icl.models.out_of_memory import is_out_of_memory
from icl.user_errors import convert_user_errors

KEPT: WeakKeyDictionary[LogitModel, Known] = WeakKeyDictionary()
"""What preparations were told, for as long as the model is there: an image is described once, however many calls."""


@with_voting
def run_requests(
    model: LogitModel,
    jobs: Sequence[DecodingRequest],
    counters: Counters | None = None,
    *,
    trace: bool = True,
    lazy_branches: LazyBranches = "auto",
    done: Done | None = None,
) -> list[Result]:
    """An answer for each job, in their order; it depends on the job alone, never on the others.

    trace: leave per-step numbers (`decoding.engine.token_loop.TRACE`) in the generations. late: whether contrasts that no step
    needs are left unread (`decoding.engine.deferred_branches`). done: called as soon as a job is answered, with its index. Raises nothing
    for a job's sake: see `Failure`.
    """
    counters = Counters() if counters is None else counters
    model.load()
    answers = ResultCollector(jobs, counters, done)
    firsts = answers.ready(
        PrepareGenerator(run_requests, model, counters, KEPT.setdefault(model, {})), model.count_tokens
    )
    places = answers.places()
    for batch in batches(model, firsts):
        for j, answer in zip(
            batch, _run(model, [firsts[j] for j in batch], counters, trace, lazy_branches), strict=True
        ):
            for i in places[j]:
                answers.give(i, answer)
    return answers.listed()


def _run(
    model: LogitModel,
    prepared_requests: list[PreparedRequest],
    counters: Counters,
    trace: bool,
    lazy_branches: LazyBranches,
) -> list[Result]:
    """One batch; in halves where memory runs out, where a prompt cannot be opened, and where a strategy fails."""
    try:
        with torch.inference_mode(), convert_user_errors():
            return decode_batch(model, prepared_requests, counters, trace, lazy_branches)
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        problem = f"out of memory with this prompt alone ({str(error).splitlines()[0]})."
        counters.batches_halved += 1
    except ICLError as error:
        problem = str(error)
    if len(prepared_requests) == 1:
        return [Failure(problem)]
    middle = len(prepared_requests) // 2
    halves = (prepared_requests[:middle], prepared_requests[middle:])
    return [answer for half in halves for answer in _run(model, half, counters, trace, lazy_branches)]

"""The engine: jobs in, answers out, with nothing computed twice.

The branches of all jobs are merged by digest and each distinct prompt is prefilled once, however many arms read it.
Contexts of like length share a batch, as many as fit the model's token budget with everything that will be decoded on
them; all arms of a context are in its batch. Equal jobs are computed once. A batch that runs out of memory goes on in
halves. A job that cannot be answered fails alone, with a sentence.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar
from weakref import WeakKeyDictionary

import torch

from decoding.answers import answered
from decoding.arm import Arm
from decoding.batches import batches
from decoding.jobs import Counters, Failure, Job, Late, Ready
from decoding.prepare import made_ready
from decoding.strategies.greedy import GreedyDecoding
from decoding.votes import voting
from icl.errors import ICLError, ModelError
from icl.models.base import LogitModel
from icl.models.memory import is_out_of_memory
from icl.types import Generation, Prompt

Answer = Generation | Failure


@voting
def run_jobs(
    model: LogitModel,
    jobs: Sequence[Job],
    counters: Counters | None = None,
    *,
    trace: bool = True,
    late: Late = "auto",
    done: Callable[[int, Answer], None] | None = None,
) -> list[Answer]:
    """An answer for each job, in their order; it depends on the job alone, never on the others.

    trace: leave per-step numbers (`decoding.loop.TRACE`) in the generations. late: whether contrasts that no step
    needs are left unread (`decoding.late`). done: called as soon as a job is answered, with its index. Raises nothing
    for a job's sake: see `Failure`.
    """
    counters = Counters() if counters is None else counters
    counters.jobs += len(jobs)
    model.load()
    aside = _Aside(model, counters)
    answers: dict[int, Answer] = {}

    def finish(i: int, answer: Answer) -> None:
        answers[i] = answer
        counters.jobs_failed += isinstance(answer, Failure)
        if done is not None:
            done(i, answer)

    equal: dict[str, list[int]] = {}
    firsts: list[Ready] = []
    for i, one in enumerate(made_ready(jobs, aside, model.count_tokens)):
        if isinstance(one, Failure):
            finish(i, one)
            continue
        counters.branch_prompts += len(one.branches)
        same = equal.setdefault(one.key, [])
        if same:
            counters.jobs_reused += 1
        else:
            firsts.append(one)
        same.append(i)
    indices = list(equal.values())
    for batch in batches(model, firsts):
        for j, answer in zip(batch, _run(model, [firsts[j] for j in batch], counters, trace, late), strict=True):
            for i in indices[j]:
                finish(i, answer)
    return [answers[i] for i in range(len(jobs))]


class _Aside:
    """Greedy answers for a strategy's preparation, by the engine itself. Raises ModelError where one fails.

    They are kept for as long as the model is: a picture's description is asked for once, however many calls need it.
    """

    kept: ClassVar[WeakKeyDictionary[LogitModel, dict[tuple[str, int], str]]] = WeakKeyDictionary()

    def __init__(self, model: LogitModel, counters: Counters) -> None:
        self.model, self.counters = model, counters

    def __call__(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[str]:
        known = self.kept.setdefault(self.model, {})
        wanted = [(prompt.digest, max_new_tokens) for prompt in prompts]
        new = {key: prompt for key, prompt in zip(wanted, prompts, strict=True) if key not in known}
        own, greedy = Counters(), Arm(GreedyDecoding())
        jobs = [Job(prompt, greedy, max_new_tokens=max_new_tokens) for prompt in new.values()]
        answers = run_jobs(self.model, jobs, own, trace=False) if jobs else []
        self.counters.prepared += len(jobs)
        self.counters.add_work(own)
        for key, answer in zip(new, answers, strict=True):
            if isinstance(answer, Failure):
                raise ModelError(f"what is generated before decoding failed: {answer.reason}")
            known[key] = answer.text
        return [known[key] for key in wanted]


def _run(model: LogitModel, readies: list[Ready], counters: Counters, trace: bool, late: Late) -> list[Answer]:
    """One batch; in halves where memory runs out, and where one of its prompts cannot be opened."""
    try:
        with torch.inference_mode():
            return answered(model, readies, counters, trace, late)
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        problem = f"out of memory with this prompt alone ({str(error).splitlines()[0]})."
        counters.batches_halved += 1
    except ICLError as error:
        problem = str(error)
    if len(readies) == 1:
        return [Failure(problem)]
    middle = len(readies) // 2
    halves = (readies[:middle], readies[middle:])
    return [answer for half in halves for answer in _run(model, half, counters, trace, late)]

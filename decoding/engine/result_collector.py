"""What every engine does around its own work: equal jobs are one, answers are told as they come, asides asked once."""

from collections.abc import Callable, Sequence
from typing import Any

from decoding.arms.arm import Arm
from decoding.base import Generate
from decoding.engine.preparation import prepare_requests
from decoding.engine.requests import Counters, DecodingRequest, Failure, PreparedRequest
from decoding.strategies.greedy import GreedyDecoding
from icl.errors import ModelError
from icl.types import Generation, Prompt

Result = Generation | Failure
Done = Callable[[int, Result], None]
Run = Callable[..., list[Result]]
Known = dict[tuple[str, int], str]


class ResultCollector:
    """The answers to some jobs as they come in. done: called as soon as a job is answered, with its index."""

    def __init__(self, jobs: Sequence[DecodingRequest], counters: Counters, done: Done | None) -> None:
        self.jobs, self.counters, self.done = jobs, counters, done
        self.given: dict[int, Result] = {}
        self.alike: dict[str, list[int]] = {}
        counters.jobs += len(jobs)

    def give(self, i: int, answer: Result) -> None:
        self.given[i] = answer
        self.counters.jobs_failed += isinstance(answer, Failure)
        if self.done is not None:
            self.done(i, answer)

    def is_new(self, i: int, key: str) -> bool:
        """Whether a job is the first with this key; it is answered with it, otherwise."""
        same = self.alike.setdefault(key, [])
        self.counters.jobs_reused += bool(same)
        same.append(i)
        return len(same) == 1

    def ready(self, generate: Generate, count: Callable[[Prompt], int]) -> list[PreparedRequest]:
        """The jobs to be done, one of each kind, with their branches. Those that cannot be made are answered."""
        firsts = []
        for i, one in enumerate(prepare_requests(self.jobs, generate, count)):
            if isinstance(one, Failure):
                self.give(i, one)
                continue
            self.counters.branch_prompts += len(one.branches)
            if self.is_new(i, one.key):
                firsts.append(one)
        return firsts

    def places(self) -> list[list[int]]:
        """For each kind, in the order of `ready`, the jobs that its answer is for."""
        return list(self.alike.values())

    def listed(self) -> list[Result]:
        return [self.given[i] for i in range(len(self.jobs))]


class PrepareGenerator:
    """Greedy answers for a strategy's preparation, by the engine itself. Raises ModelError where one fails.

    run: the engine's `run_requests`. known: answers by digest and limit, which it adds to; each is asked for once.
    """

    def __init__(self, run: Run, model: Any, counters: Counters, known: Known) -> None:
        self.run, self.model, self.counters, self.known = run, model, counters, known

    def __call__(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[str]:
        known = self.known
        wanted = [(prompt.digest, max_new_tokens) for prompt in prompts]
        new = {key: prompt for key, prompt in zip(wanted, prompts, strict=True) if key not in known}
        own, greedy = Counters(), Arm(GreedyDecoding())
        jobs = [DecodingRequest(prompt, greedy, max_new_tokens=max_new_tokens) for prompt in new.values()]
        answers = self.run(self.model, jobs, own, trace=False) if jobs else []
        self.counters.prepared += len(jobs)
        self.counters.add_work(own)
        for key, answer in zip(new, answers, strict=True):
            if isinstance(answer, Failure):
                raise ModelError(f"what is generated before decoding failed: {answer.reason}")
            known[key] = answer.text
        return [known[key] for key in wanted]

"""Work that all engines share: merging equal requests, reporting results, and generation for `Strategy.prepare`."""

from collections.abc import Callable, Sequence
from typing import Any

from decoding.arms.arm import Arm
from decoding.base import DefaultNote, Generate
from decoding.engine.preparation import prepare_requests
from decoding.engine.requests import Counters, DecodingRequest, Failure, PreparedRequest
from decoding.engine.steering import steered_requests
from decoding.strategies.greedy import GreedyDecoding
from icl.errors import ModelError
from icl.types import Generation, Prompt

Result = Generation | Failure
OnResult = Callable[[int, Result], None]
"""Receives the index of a request and its result."""

RunRequests = Callable[..., list[Result]]
"""The `run_requests` of an engine."""

GenerationCache = dict[tuple[str, int], str]
"""Digest of a prompt and maximal number of new tokens -> generated text."""


class ResultCollector:
    """Results of requests as they become available. Equal requests are decoded once.

    Args:
        requests: All requests of one call.
        counters: Receives numbers of requests and prompts.
        on_result: Called with the index of a request and its result.
    """

    def __init__(self, requests: Sequence[DecodingRequest], counters: Counters, on_result: OnResult | None) -> None:
        self.requests, self.counters, self.on_result = requests, counters, on_result
        self.by_index: dict[int, Result] = {}
        self.by_key: dict[str, list[int]] = {}
        counters.decoding_requests += len(requests)

    def add(self, i: int, result: Result) -> None:
        """Stores and reports the result of a request."""
        self.by_index[i] = result
        self.counters.requests_failed += isinstance(result, Failure)
        if self.on_result is not None:
            self.on_result(i, result)

    def is_first(self, i: int, key: str) -> bool:
        """Whether a request is the first one with this key. Otherwise it gets the result of the first one."""
        same = self.by_key.setdefault(key, [])
        self.counters.requests_reused += bool(same)
        same.append(i)
        return len(same) == 1

    def prepare(self, generate: Generate, model: Any) -> list[PreparedRequest]:
        """The first request of each key, with its branches. Requests without branches get a `Failure`.

        Args:
            generate: Greedy generation for `Strategy.prepare`.
            model: Renders prompts, and reads those that interventions depend on.
        """
        firsts = []
        steered = steered_requests(model, self.requests)
        for i, prepared in enumerate(prepare_requests(steered, generate, model.count_tokens, model.before_answer)):
            if isinstance(prepared, Failure):
                self.add(i, prepared)
                continue
            self.counters.branch_prompts += len(prepared.branches)
            self.counters.default_notes += isinstance(prepared.note, DefaultNote)
            if self.is_first(i, prepared.key):
                firsts.append(prepared)
        return firsts

    def request_indices(self) -> list[list[int]]:
        """For each key, in the order of `prepare`, the indices of its requests."""
        return list(self.by_key.values())

    def results(self) -> list[Result]:
        """All results in the order of the requests."""
        return [self.by_index[i] for i in range(len(self.requests))]


class PrepareGenerator:
    """Greedy generation for `Strategy.prepare`, by the engine itself.

    Args:
        run_requests: The engine.
        model: The model under test.
        counters: Receives the work.
        cache: Texts generated before; new ones are added.

    Raises:
        ModelError: A prompt could not be answered.
    """

    def __init__(self, run_requests: RunRequests, model: Any, counters: Counters, cache: GenerationCache) -> None:
        self.run_requests, self.model, self.counters, self.cache = run_requests, model, counters, cache

    def __call__(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[str]:
        keys = [(prompt.digest, max_new_tokens) for prompt in prompts]
        new = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if key not in self.cache}
        work, greedy = Counters(), Arm(GreedyDecoding())
        requests = [DecodingRequest(prompt, greedy, max_new_tokens=max_new_tokens) for prompt in new.values()]
        results = self.run_requests(self.model, requests, work, trace=False) if requests else []
        self.counters.prompts_prepared += len(requests)
        self.counters.add_work(work)
        for key, result in zip(new, results, strict=True):
            if isinstance(result, Failure):
                raise ModelError(f"generation before decoding failed: {result.reason}")
            self.cache[key] = result.text
        return [self.cache[key] for key in keys]

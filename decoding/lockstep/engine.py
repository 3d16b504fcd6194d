"""Jobs answered by an engine that runs strategies itself: each job is a group of prompts, each group one answer.

Everything is asked at once, in the order of the prompts' beginnings, so that what prompts share is in the engine's
prefix cache when the next one comes: demonstrations across queries, and the branches of one query. Equal jobs are
computed once.
"""

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from decoding.engine.requests import Counters, DecodingRequest, Failure, PreparedRequest
from decoding.engine.result_collector import OnResult, PrepareGenerator, Result, ResultCollector
from decoding.engine.voting import with_voting
from decoding.lockstep.grouping import PromptGroup, build_answer, build_groups
from icl.errors import ICLError
from icl.models.vllm.engine_io import EngineOutput, EngineRequest
from icl.types import Generation, Prompt

FETCHED = 256
"""Answers whose traces are fetched from the engine together."""


class StrategyModel(Protocol):
    """What a model with the ability 'strategies' gives."""

    @property
    def trace(self) -> bool: ...
    @property
    def stop_tokens(self) -> frozenset[int]: ...
    def load(self) -> None: ...
    def count_tokens(self, prompt: Prompt) -> int: ...
    def text(self, tokens: Sequence[int]) -> str: ...
    def option_ids(self, prompt: Prompt, options: Sequence[str]) -> list[list[int]]: ...
    def run_groups(self, groups: Any, done: Callable[[int, list[EngineOutput]], None]) -> None: ...
    def take_records(self, groups: Sequence[str]) -> Mapping[str, Mapping[str, Any]]: ...


@with_voting
def run_requests(
    model: StrategyModel,
    jobs: Sequence[DecodingRequest],
    counters: Counters | None = None,
    *,
    trace: bool = True,
    on_result: OnResult | None = None,
) -> list[Result]:
    """An answer for each job, in their order.

    What `decoding.engine.engine.run_requests` is for models with sessions.
    """
    counters = Counters() if counters is None else counters
    model.load()
    answers = ResultCollector(jobs, counters, on_result)
    firsts = answers.prepare(PrepareGenerator(run_requests, model, counters, {}), model.count_tokens)
    places = answers.request_indices()
    order = sorted(range(len(firsts)), key=lambda j: beginning(firsts[j].branches[0]))

    def ended(place: int, answer: Result) -> None:
        for i in places[order[place]]:
            answers.add(i, answer)

    _Run(model, [firsts[j] for j in order], counters, trace and model.trace, ended).run()
    return answers.results()


def beginning(prompt: Prompt) -> tuple[str, ...]:
    """A key by which prompts that begin alike stand together."""
    return tuple(
        piece
        for turn in prompt.turns
        for part in turn.parts
        for piece in (turn.role, part.text if part.image is None else part.image.digest)
        if piece is not None
    )


class _Run:
    """The groups of some jobs, asked together. out: told the place of a job and its answer, once it has ended."""

    def __init__(
        self,
        model: StrategyModel,
        prepared_requests: Sequence[PreparedRequest],
        counters: Counters,
        trace: bool,
        out: OnResult,
    ) -> None:
        self.model, self.prepared_requests, self.counters, self.trace, self.out = (
            model,
            prepared_requests,
            counters,
            trace,
            out,
        )
        self.mark = secrets.token_hex(4)  # engines and runs never meet under one name
        self.made: list[tuple[int, PromptGroup]] = []  # with the job that it belongs to
        self.said: dict[int, dict[int, list[EngineOutput]]] = {}  # job -> number of a group -> what its prompts said
        self.left: dict[int, int] = {}
        self.ended: list[int] = []

    def run(self) -> None:
        self.model.run_groups(self._groups(), self._done)
        self._fetch()

    def _groups(self) -> Iterator[list[EngineRequest]]:
        for j, ready in enumerate(self.prepared_requests):
            try:
                groups = build_groups(ready, self.model, f"{self.mark}-{j}", self.trace)
            except ICLError as error:
                self.out(j, Failure(f"{ready.request.arm.label}: {error}"))
                continue
            self.left[j], self.said[j] = len(groups), {}
            for group in groups:
                self.made.append((j, group))
                self.counters.prompts_prefilled += len(group.asks)
                yield group.asks

    def _done(self, number: int, said: list[EngineOutput]) -> None:
        j, _ = self.made[number]
        self.said[j][number] = said
        self.left[j] -= 1
        if not self.left[j]:
            self.ended.append(j)
        if len(self.ended) >= FETCHED:
            self._fetch()

    def _fetch(self) -> None:
        """Answers of the jobs that have ended, with what the engine kept of them."""
        names = [self.made[number][1].name for j in self.ended for number in self.said[j]]
        wanted = [name for name in names if name]
        kept = self.model.take_records(wanted) if wanted else {}
        for j in self.ended:
            heard = [(self.made[number][1], said) for number, said in self.said.pop(j).items()]
            answer = build_answer(self.prepared_requests[j], self.model, heard, kept)
            if isinstance(answer, Generation) and self.prepared_requests[j].request.answer_mode == "generate":
                self.counters.rows_without_sharing += answer.usage.forwards
            self.out(j, answer)
        self.ended.clear()

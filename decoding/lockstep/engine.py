"""Runs decoding requests in an engine that runs strategies itself. Each request is one group of prompts or several.

All groups are submitted at once, sorted by the start of their prompts. What prompts share, demonstrations across
queries and the branches of one query, is then still in the engine's prefix cache when the next prompt needs it. Equal
requests are computed once.
"""

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from decoding.engine import OnResult, PrepareGenerator, Result, ResultCollector, with_reasoned_options, with_voting
from decoding.engine.requests import Counters, DecodingRequest, Failure, PreparedRequest
from decoding.lockstep.grouping import PromptGroup, build_answer, build_groups
from icl import Generation, ICLError, Prompt, ReasoningMarkers
from icl.models.vllm.engine_io import EngineOutput, EngineRequest

FETCH_SIZE = 256
"""Number of answers per fetch of records from the engine."""


class StrategyModel(Protocol):
    """A model with the ability 'strategies', such as `icl.models.vllm.model.VLLM`."""

    @property
    def trace(self) -> bool: ...
    @property
    def stop_tokens(self) -> frozenset[int]: ...
    def load(self) -> None: ...
    @property
    def tokenizer(self) -> Any: ...
    def count_tokens(self, prompt: Prompt) -> int: ...
    @property
    def reasoning_block(self) -> ReasoningMarkers | None: ...
    def render(self, prompt: Prompt) -> str | None: ...
    def text(self, tokens: Sequence[int]) -> str: ...
    def before_answer(self, prompt: Prompt, reasoning: str = "") -> Prompt: ...
    def option_ids(self, prompt: Prompt, options: Sequence[str]) -> list[list[int]]: ...
    def run_groups(self, groups: Any, on_group: Callable[[int, list[EngineOutput]], None]) -> None: ...
    def take_records(self, groups: Sequence[str]) -> Mapping[str, Mapping[str, Any]]: ...


@with_voting
@with_reasoned_options
def run_requests(
    model: StrategyModel,
    requests: Sequence[DecodingRequest],
    counters: Counters | None = None,
    *,
    trace: bool = True,
    on_result: OnResult | None = None,
) -> list[Result]:
    """The result of each request, in order.

    The counterpart of `decoding.engine.engine.run_requests`, which runs models with sessions.

    Args:
        model: The model.
        requests: What to decode.
        counters: Counters to increase.
        trace: Whether to record the numbers of each step.
        on_result: Called with the index and the result of each request as soon as it has ended.
    """
    counters = Counters() if counters is None else counters
    model.load()
    collector = ResultCollector(requests, counters, on_result)
    prepared = collector.prepare(PrepareGenerator(run_requests, model, counters, {}), model)
    indices = collector.request_indices()
    order = sorted(range(len(prepared)), key=lambda j: prefix_key(prepared[j].branches[0]))

    def collect(place: int, result: Result) -> None:
        for i in indices[order[place]]:
            collector.add(i, result)

    _GroupRun(model, [prepared[j] for j in order], counters, trace and model.trace, collect).run()
    return collector.results()


def prefix_key(prompt: Prompt) -> tuple[str, ...]:
    """A sort key: prompts with the same start come next to each other."""
    return tuple(
        piece
        for turn in prompt.turns
        for part in turn.parts
        for piece in (turn.role, part.text if part.image is None else part.image.digest)
        if piece is not None
    )


class _GroupRun:
    """All groups of some requests in one run of the engine. `on_result` receives the results, by request index."""

    def __init__(
        self,
        model: StrategyModel,
        prepared: Sequence[PreparedRequest],
        counters: Counters,
        trace: bool,
        on_result: OnResult,
    ) -> None:
        self.model, self.prepared, self.counters, self.trace = model, prepared, counters, trace
        self.on_result = on_result
        self.prefix = secrets.token_hex(4)  # group names are unique over runs and engines
        self.groups: list[tuple[int, PromptGroup]] = []  # request index and group, by group number
        self.outputs: dict[int, dict[int, list[EngineOutput]]] = {}  # request index -> group number -> outputs
        self.open_groups: dict[int, int] = {}  # request index -> number of groups that still run
        self.finished: list[int] = []  # request indices whose records are not fetched yet

    def run(self) -> None:
        self.model.run_groups(self._engine_requests(), self._on_group)
        self._fetch()

    def _engine_requests(self) -> Iterator[list[EngineRequest]]:
        for j, prepared in enumerate(self.prepared):
            try:
                groups = build_groups(prepared, self.model, f"{self.prefix}-{j}", self.trace)
            except ICLError as error:
                self.on_result(j, Failure(f"{prepared.request.arm.label}: {error}"))
                continue
            self.open_groups[j], self.outputs[j] = len(groups), {}
            for group in groups:
                self.groups.append((j, group))
                self.counters.prompts_prefilled += len(group.requests)
                yield group.requests

    def _on_group(self, number: int, outputs: list[EngineOutput]) -> None:
        j, _ = self.groups[number]
        self.outputs[j][number] = outputs
        self.open_groups[j] -= 1
        if not self.open_groups[j]:
            self.finished.append(j)
        if len(self.finished) >= FETCH_SIZE:
            self._fetch()

    def _fetch(self) -> None:
        """Fetches the records of the finished requests, and passes on their results."""
        names = [self.groups[number][1].name for j in self.finished for number in self.outputs[j]]
        names = [name for name in names if name]
        records = self.model.take_records(names) if names else {}
        for j in self.finished:
            outputs = [(self.groups[number][1], out) for number, out in self.outputs.pop(j).items()]
            result = build_answer(self.prepared[j], self.model, outputs, records)
            if isinstance(result, Generation) and self.prepared[j].request.answer_mode == "generate":
                self.counters.rows_without_sharing += result.usage.forwards
            self.on_result(j, result)
        self.finished.clear()

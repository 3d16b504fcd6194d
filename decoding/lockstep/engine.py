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

# The configuration that an engine needs so that groups can decode in it. Any other is refused at start, with reasons.
#
# `additional_config: {lockstep_allow: [version]}` accepts one of the refused settings, for tests of unverified ones.


VERIFIED_VERSIONS = ("0.32.", "0.33.")
"""vLLM versions with which the tests of this package passed. The scheduler interface of vLLM is not stable."""

SCHEDULER = "decoding.lockstep.scheduler.LockstepScheduler"
ASYNC_SCHEDULER = "decoding.lockstep.scheduler.AsyncLockstepScheduler"
PLAIN_SCHEDULERS = ("PlainScheduler", "AsyncPlainScheduler")
"""Schedulers without groups, of which only the planning ahead matters."""
MISSING_BRANCH_TIMEOUT_S = 60.0
"""Time that an incomplete group waits for its other branches. Set by `additional_config: {lockstep_patience: 5}`."""


def additional_config(vllm_config: Any) -> dict[str, Any]:
    """`additional_config` of an engine."""
    config = vllm_config.additional_config
    return config if isinstance(config, dict) else {}


def check_engine(vllm_config: Any, version: str | None = None) -> None:
    """Raises ValueError with every problem of the configuration, each with its solution."""
    allowed = additional_config(vllm_config).get("lockstep_allow", ())
    problems = [sentence for name, sentence in _problems(vllm_config, version or _version()) if name not in allowed]
    if problems:
        raise ValueError("strategies cannot run in this engine: " + "; ".join(problems))


def _version() -> str:
    import vllm

    return str(vllm.__version__)


def _problems(config: Any, version: str) -> Iterator[tuple[str, str]]:
    """(key in `lockstep_allow`, sentence) of each problem."""
    scheduler, parallel = config.scheduler_config, config.parallel_config
    if not version.startswith(VERIFIED_VERSIONS):
        yield "version", f"vLLM {version} was not verified (verified: {', '.join(v + 'x' for v in VERIFIED_VERSIONS)})"
    yield from _scheduler_problems(scheduler)
    if config.speculative_config is not None:
        yield "speculative", "speculative decoding drafts each branch on its own; remove speculative_config"
    if parallel.pipeline_parallel_size > 1:
        yield "pipeline", "pipeline stages hold several steps in flight; pass pipeline_parallel_size=1"
    if parallel.data_parallel_size > 1:
        yield (
            "data",
            "a group must reach one engine whole; model.data_parallel_size starts one engine for each replica, and so "
            "does `icl serve --data-parallel-size`, except for a mixture of experts, whose engines step together",
        )
    if parallel.enable_batch_sharded_sampling:
        yield "sharded", "each GPU samples other requests; remove enable_batch_sharded_sampling"
    if config.watermark_config is not None:
        yield "watermark", "a watermark changes tokens after the strategy has chosen them; remove watermark_config"
    if config.model_config.is_diffusion:
        yield "diffusion", "a diffusion model does not sample one token in each step; use another model"
    if config.kv_transfer_config is not None:
        yield "transfer", "KV caches from other engines are not verified; remove kv_transfer_config"
    if config.model_config.is_mm_prefix_lm and config.device_config.device_type == "cpu":
        yield (
            "image mask",
            "in this architecture the tokens of an image attend to each other, and vLLM's attention for CPUs has no "
            "such mask (it runs, and gives other outputs); use a GPU, or the backend 'hf'",
        )


def _scheduler_problems(scheduler: Any) -> Iterator[tuple[str, str]]:
    scheduler_class = getattr(scheduler.scheduler_cls, "__name__", str(scheduler.scheduler_cls).rpartition(".")[2])
    schedulers = {path.rpartition(".")[2]: path for path in (SCHEDULER, ASYNC_SCHEDULER)}
    if scheduler_class in PLAIN_SCHEDULERS:
        return
    if scheduler_class not in schedulers:
        needed = schedulers["AsyncLockstepScheduler" if scheduler.async_scheduling else "LockstepScheduler"]
        yield (
            "scheduler",
            f"under another scheduler the branches of a group drift apart; pass scheduler_cls={needed}",
        )
    elif scheduler.async_scheduling and scheduler_class == "LockstepScheduler":
        yield (
            "async",
            "this scheduler needs the tokens of a step before it plans the next; pass async_scheduling=False, or "
            f"scheduler_cls={ASYNC_SCHEDULER}",
        )
    if scheduler.prefill_schedule_interval > 1:
        yield "interval", "delayed prefills were not verified; pass prefill_schedule_interval=1"
    if scheduler.policy != "fcfs":
        yield "policy", "the priority policy preempts single branches; pass scheduling_policy='fcfs'"


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

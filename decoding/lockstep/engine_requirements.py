"""The configuration that an engine needs so that groups can decode in it. Any other is refused at start, with reasons.

`additional_config: {lockstep_allow: [version]}` accepts one of the refused settings, for tests of unverified ones.
"""

from collections.abc import Iterator
from typing import Any

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

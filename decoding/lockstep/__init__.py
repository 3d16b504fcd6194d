"""Strategies inside vLLM: each branch of a strategy is one vLLM request, and the branches of a group decode in step.

Two classes are added to an engine through vLLM's own options: a logits processor that applies the strategy to the rows
of a group, and a scheduler that puts these rows into one batch, even if their prompts differ in length.
`icl.models.vllm.engine` passes both.

A request walks through the modules in this order: `engine` (or `decoding.server`) → `grouping` → `request_metadata` →
`scheduler` → `logits_processor` → `token_selection` → `step_records` → `worker_extension`.
"""

from icl.lazy_exports import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__)

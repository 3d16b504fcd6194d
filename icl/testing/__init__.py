"""Conformance checks of every kind of component, for the toolkit's own components and for yours.

Each check raises AssertionError with a sentence. `icl check KIND NAME` runs the same functions.
"""

from typing import TYPE_CHECKING

from icl.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from decoding.conformance import check_strategy as check_strategy
    from decoding.interventions.conformance import check_intervention as check_intervention
    from experiments.launch.conformance import check_launcher as check_launcher
    from experiments.observers.base import check_observer as check_observer
    from icl.testing.conformance import check_edit as check_edit
    from icl.testing.conformance import check_metric as check_metric
    from icl.testing.conformance import check_model as check_model
    from icl.testing.conformance import check_task as check_task
    from icl.testing.sessions import check_sessions as check_sessions
    from prompts.conformance import check_composer as check_composer
    from prompts.conformance import check_orderer as check_orderer
    from prompts.conformance import check_transform as check_transform
    from retrievers.machinery.conformance import check_embedder as check_embedder
    from retrievers.machinery.conformance import check_reranker as check_reranker
    from retrievers.machinery.conformance import check_retriever as check_retriever

__all__ = [
    "check_composer",
    "check_edit",
    "check_embedder",
    "check_intervention",
    "check_launcher",
    "check_metric",
    "check_model",
    "check_observer",
    "check_orderer",
    "check_reranker",
    "check_retriever",
    "check_sessions",
    "check_strategy",
    "check_task",
    "check_transform",
]

_MODULES: dict[str, tuple[str, ...]] = {
    "icl.testing.conformance": ("check_edit", "check_metric", "check_model", "check_task"),
    "icl.testing.sessions": ("check_sessions",),
    "retrievers.machinery.conformance": ("check_embedder", "check_reranker", "check_retriever"),
    "prompts.conformance": ("check_composer", "check_orderer", "check_transform"),
    "decoding.conformance": ("check_strategy",),
    "decoding.interventions.conformance": ("check_intervention",),
    "experiments.launch.conformance": ("check_launcher",),
    "experiments.observers.base": ("check_observer",),
}

__getattr__, __dir__ = lazy_exports("icl.testing", _MODULES)

"""Retrievers: they choose the demonstrations of a query. One file per retriever.

The names below are the public interface.
"""

from typing import TYPE_CHECKING

from icl.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from retrievers.base import ALLOW_LEAKS as ALLOW_LEAKS
    from retrievers.base import EXCLUDE_LEAKS as EXCLUDE_LEAKS
    from retrievers.base import Embedder as Embedder
    from retrievers.base import FittedRanking as FittedRanking
    from retrievers.base import FittedReranker as FittedReranker
    from retrievers.base import FittedRetriever as FittedRetriever
    from retrievers.base import LeakPolicy as LeakPolicy
    from retrievers.base import Reranker as Reranker
    from retrievers.base import Resources as Resources
    from retrievers.base import Retriever as Retriever

__all__ = [
    "ALLOW_LEAKS",
    "EXCLUDE_LEAKS",
    "Embedder",
    "FittedRanking",
    "FittedReranker",
    "FittedRetriever",
    "LeakPolicy",
    "Reranker",
    "Resources",
    "Retriever",
]

_MODULES: dict[str, tuple[str, ...]] = {
    "retrievers.base": (
        "ALLOW_LEAKS",
        "EXCLUDE_LEAKS",
        "Embedder",
        "FittedRanking",
        "FittedReranker",
        "FittedRetriever",
        "LeakPolicy",
        "Reranker",
        "Resources",
        "Retriever",
    ),
}

__getattr__, __dir__ = lazy_exports("retrievers", _MODULES)

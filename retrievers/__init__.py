"""Retrievers: which demonstrations a query gets. One file per retriever.

The names below are the public interface.
"""

from typing import TYPE_CHECKING

from icl.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from retrievers.base import Embedder as Embedder
    from retrievers.base import FittedReranker as FittedReranker
    from retrievers.base import FittedRetriever as FittedRetriever
    from retrievers.base import Reranker as Reranker
    from retrievers.base import Resources as Resources
    from retrievers.base import Retriever as Retriever
    from retrievers.machinery.leak_policy import fair as fair
    from retrievers.machinery.leak_policy import too_few as too_few

__toolkit__ = "mm-icl"
__all__ = ["Embedder", "FittedReranker", "FittedRetriever", "Reranker", "Resources", "Retriever", "fair", "too_few"]

_MODULES: dict[str, tuple[str, ...]] = {
    "retrievers.base": ("Embedder", "FittedReranker", "FittedRetriever", "Reranker", "Resources", "Retriever"),
    "retrievers.machinery.leak_policy": ("fair", "too_few"),
}

__getattr__, __dir__ = lazy_exports("retrievers", _MODULES)

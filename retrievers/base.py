"""The interfaces of embedders, retrievers and rerankers.

A retriever is fitted on a pool. The fitted retriever returns the demonstrations of each query, best first.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

from icl.tasks.base import Pool
from icl.types import Example, Query, RetrievedExample
from retrievers.leak_policy import EXCLUDE_LEAKS, LeakPolicy

if TYPE_CHECKING:
    import numpy as np

    from icl.models.base import Model


class Embedder(Protocol):
    """A component of kind `embedder`: it embeds images and texts.

    Vectors are float32 and L2-normalized, so a dot product is a cosine.
    """

    @property
    def digest(self) -> str:
        """Identifies the encoder and its settings. It is a part of the cache key."""
        ...

    def embed_images(self, items: "Sequence[Query | Example]") -> "np.ndarray":
        """Vectors of the items' images, [N, D]. Several images of an item: their mean, normalized again."""
        ...

    def embed_texts(self, texts: Sequence[str]) -> "np.ndarray":
        """Vectors of texts, [N, D]. Raises PlanError if the encoder has no text tower."""
        ...


RetrievedDemos = list[tuple[RetrievedExample, ...]]
"""The demonstrations of each query, best first."""


@dataclass(frozen=True)
class Resources:
    """The resources that a retriever can use besides the pool.

    seed: of the cell, for `icl.streams`. model: for retrievers that need one. cache: the folder of the embedding cache;
    None: the default folder.
    """

    seed: int = 0
    model: "Model | None" = None
    cache: str | None = None


class FittedRetriever(Protocol):
    """A retriever that is fitted on a pool."""

    def retrieve(self, queries: Sequence[Query], k: int, policy: LeakPolicy = EXCLUDE_LEAKS) -> RetrievedDemos:
        """The demonstrations of each query, best first.

        Args:
            queries: The queries; examples with their gold answers if the retriever needs 'gold'.
            k: The number of demonstrations per query.
            policy: Which members of the pool may be demonstrations: `policy.allowed_for(query)` is the filter. A
                wrapper passes the policy on to the retriever inside.

        Raises:
            PlanError: The pool has fewer than k allowed members for a query.
        """
        ...


@dataclass(frozen=True)
class FittedRanking:
    """Base of fitted retrievers that rank the whole pool for each query.

    A subclass defines `rank` only. `retrieve` applies the leak policy and the number of shots, so a subclass can forget
    neither, and the k-shot set is always the beginning of larger sets.
    """

    pool: Pool

    def rank(self, query: Query) -> Iterable[RetrievedExample]:
        """All members of the pool with their scores, best first. A generator does only the work that k shots need."""
        raise NotImplementedError

    def retrieve(self, queries: Sequence[Query], k: int, policy: LeakPolicy = EXCLUDE_LEAKS) -> RetrievedDemos:
        """The first k allowed members of each ranking. Raises PlanError if there are fewer than k."""
        return [self._first_allowed(query, k, policy) if k else () for query in queries]

    def _first_allowed(self, query: Query, k: int, policy: LeakPolicy) -> tuple[RetrievedExample, ...]:
        is_allowed = policy.allowed_for(query)
        demos = tuple(islice((demo for demo in self.rank(query) if is_allowed(self.pool.by_id[demo.id])), k))
        if len(demos) < k:
            raise policy.too_few(self.pool, query, k)
        return demos


@runtime_checkable
class Retriever(Protocol):
    """A component of kind `retriever`. `needs` may contain 'embedder', 'model', 'labels' and 'gold'.

    Optional attributes: `model_ability`, the ability of the model that it needs ("logits" by default); `warning`,
    a text that is printed before a run; `nested`, `ranked`, `returns_k`, `leaks` (see
    `retrievers.machinery.conformance`).
    """

    needs: ClassVar[frozenset[str]]

    def fit(self, pool: Pool, resources: Resources) -> FittedRetriever: ...


class FittedReranker(Protocol):
    """A reranker that is fitted on a pool."""

    def rerank(
        self, queries: Sequence[Query], candidates: Sequence[Sequence[RetrievedExample]], k: int
    ) -> RetrievedDemos:
        """At most k of each query's candidates, in a new order. The candidates are best first."""
        ...


@runtime_checkable
class Reranker(Protocol):
    """A component of kind `reranker`: it selects from a retriever's candidates. `needs` is as for a retriever."""

    needs: ClassVar[frozenset[str]]

    def fit(self, pool: Pool, resources: Resources) -> FittedReranker: ...

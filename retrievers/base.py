"""What a retriever is: fitted on a pool, it gives each query its demonstrations, best first."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

from icl.tasks.base import Pool
from icl.types import Example, Prompt, Query, RetrievedExample
from retrievers.leak_policy import EXCLUDE_LEAKS, LeakPolicy

if TYPE_CHECKING:
    import numpy as np

    from icl.images import Image
    from icl.models.base import Model


class Embedder(Protocol):
    """A component of kind `embedder`. Vectors are float32 and L2-normalized, so a dot product is a cosine."""

    @property
    def digest(self) -> str:
        """Names encoder and settings: the key of the cache on disk."""
        ...

    def embed_images(self, items: "Sequence[Query | Example]") -> "np.ndarray":
        """[N, D] of the items' images (the mean over several, normalized again)."""
        ...

    def embed_texts(self, texts: Sequence[str]) -> "np.ndarray":
        """[N, D]. Raises PlanError where the encoder has no text tower."""
        ...


class MultiVectorEmbedder(Embedder, Protocol):
    """An embedder that also gives a vector to every part. Rows are unit vectors; rows of zeros are padding.

    The number of rows is the embedder's own, whatever stands beside an item in its batch.
    """

    def embed_patches(self, images: "Sequence[Image]") -> "np.ndarray":
        """[N, P, D] of the images' patches."""
        ...

    def embed_words(self, texts: Sequence[str]) -> "np.ndarray":
        """[N, W, D] of the texts' tokens, without special ones."""
        ...


class EmbeddingModel(Protocol):
    """A model with the ability 'embed': what the embedder `one_word` asks."""

    def embed(self, prompts: Sequence[Prompt]) -> "np.ndarray":
        """[N, D] float32: the last layer's hidden state at each prompt's last token."""
        ...


@dataclass(frozen=True)
class Resources:
    """What a retriever may use besides the pool.

    seed: of the cell, for `icl.streams`. model: where it is needed. cache: folder of embeddings; None: the usual one.
    """

    seed: int = 0
    model: "Model | None" = None
    cache: str | None = None


class FittedRetriever(Protocol):
    """A retriever that is fitted on a pool."""

    def retrieve(
        self, queries: Sequence[Query], k: int, policy: LeakPolicy = EXCLUDE_LEAKS
    ) -> list[tuple[RetrievedExample, ...]]:
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

    def retrieve(
        self, queries: Sequence[Query], k: int, policy: LeakPolicy = EXCLUDE_LEAKS
    ) -> list[tuple[RetrievedExample, ...]]:
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
    """A component of kind `retriever`. needs: among 'embedder', 'model', 'labels', 'gold'.

    One that needs the model may say which ability it wants of it, `asks = "generate"`; otherwise it is "logits". One
    with a `warning` has it printed before a run.
    """

    needs: ClassVar[frozenset[str]]

    def fit(self, pool: Pool, resources: Resources) -> FittedRetriever: ...


class FittedReranker(Protocol):
    """A reranker that has seen its pool."""

    def rerank(
        self, queries: Sequence[Query], found: Sequence[Sequence[RetrievedExample]], k: int
    ) -> list[tuple[RetrievedExample, ...]]:
        """At most k of each query's candidates, which come best first, in a new order."""
        ...


@runtime_checkable
class Reranker(Protocol):
    """A component of kind `reranker`: it chooses among a retriever's candidates. needs: as a retriever's."""

    needs: ClassVar[frozenset[str]]

    def fit(self, pool: Pool, resources: Resources) -> FittedReranker: ...

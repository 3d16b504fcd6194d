"""One demonstration replaced by its nearest neighbor: how much does the exact choice matter? (disruption gap)

    S = the demonstrations of the retriever inside;  S_i = S with its i-th replaced by its nearest member of the pool

The replacement is not in S, is not the query, and shares no image with either. It has the position and the score of the
demonstration that it replaces, and a mark with the cosine between the two. Positions count from the best (0) and can be
an axis: `retriever.position: [0, 1, 2, 3]`. `icl analyze RUN disruption` measures the gap to the retriever inside.

S does not change if it has fewer demonstrations than the position (no mark), or if the pool has no replacement (a mark
says so). The analysis excludes these samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from icl import Count, NestedComponent, Pool, Query, RetrievedExample, component
from retrievers import MODALITIES_OF, Encoder, VectorIndex, check_modalities, embed_by_modality, open_source
from retrievers.base import (
    EXCLUDE_LEAKS,
    Embedder,
    FittedRetriever,
    LeakPolicy,
    Resources,
    RetrievedDemos,
    Retriever,
    RetrieverWrapper,
)

SWAPPED = "neighbor_swap: place"
NO_REPLACEMENT = "neighbor_swap: nothing to swap for"


@component("retriever", "neighbor_swap")
@dataclass(frozen=True, kw_only=True)
class NeighborSwap(RetrieverWrapper):
    """Another retriever with one demonstration replaced by its nearest neighbor in the pool."""

    of: Annotated[Retriever, NestedComponent("retriever")]  # the retriever that returns the demonstrations
    position: Count = 0  # of the demonstration that is replaced; 0 is the best
    by: Literal["image", "question", "both"] = "image"  # what is compared to find the neighbor
    embedder: Annotated[Embedder, NestedComponent("embedder")] = field(default_factory=Encoder)  # makes the vectors

    def __post_init__(self) -> None:
        check_modalities(self.embedder, MODALITIES_OF[self.by], f"by is '{self.by}', and ")

    @property
    def needs(self) -> frozenset[str]:
        return self.of.needs | {"embedder"}

    @property
    def nested(self) -> bool:
        """Which members can be the replacement depends on all demonstrations."""
        return False

    def fit(self, pool: Pool, resources: Resources) -> "FittedNeighborSwap":
        source = open_source(self.embedder, resources.cache, pool)
        index = VectorIndex(embed_by_modality(pool.examples, source, self.by))
        rows = {example.id: row for row, example in enumerate(pool.examples)}
        return FittedNeighborSwap(self, pool, self.fit_inner(pool, resources), index, rows)


@dataclass(frozen=True)
class FittedNeighborSwap:
    """The fitted retriever inside, and an index over the same pool."""

    retriever: NeighborSwap
    pool: Pool
    of: FittedRetriever
    index: VectorIndex
    rows: dict[str, int]

    def retrieve(self, queries: Sequence[Query], k: int, policy: LeakPolicy = EXCLUDE_LEAKS) -> RetrievedDemos:
        results = self.of.retrieve(queries, k, policy)
        return [self._swap(query, tuple(demos), policy) for query, demos in zip(queries, results, strict=True)]

    def _swap(
        self, query: Query, demos: tuple[RetrievedExample, ...], policy: LeakPolicy
    ) -> tuple[RetrievedExample, ...]:
        position = self.retriever.position
        if position >= len(demos):
            return demos
        is_allowed, examples = policy.allowed_for(query), self.pool.examples
        ids = {demo.id for demo in demos}
        digests = {image.source_digest for demo in demos for image in self.pool.by_id[demo.id].images}

        def can_replace(row: int) -> bool:
            example = examples[row]
            repeats_image = any(image.source_digest in digests for image in example.images)
            return example.id not in ids and not repeats_image and is_allowed(example)

        before, demo, after = demos[:position], demos[position], demos[position + 1 :]
        row = self.rows[demo.id]
        (hits,) = self.index.nearest(self.index.vectors[row : row + 1], 1, [can_replace])
        if not hits:
            return (*before, replace(demo, mark=_join_marks(demo.mark, NO_REPLACEMENT)), *after)
        other, cosine = hits[0]
        mark = _join_marks(demo.mark, f"{SWAPPED} {position}, cosine {cosine:.3f}")
        return (*before, RetrievedExample(examples[other].id, demo.score, mark), *after)


def _join_marks(*marks: str) -> str:
    return "; ".join(filter(None, marks))

"""One demonstration swapped for its nearest neighbor: how much hangs on which one exactly? (disruption gap)

    S = what the retriever inside gives;  S_i = S with its i-th replaced by the member of the pool nearest to it

Neither a member of S, nor the query, nor anything with an image of either is the replacement. It stands in the same
place with the same score, and the mark says how near it is. Places count from the best (0) and are an axis:
`retriever.position: [0, 1, 2, 3]`; `icl analyze RUN disruption` measures the gap against the retriever inside. Where
there are fewer demonstrations than the place, or nothing in the pool to swap for, S stays as it is: the mark is not
there, or says so, and the analysis leaves the sample out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from icl.constraints import Count
from icl.registry import NestedComponent, component
from icl.tasks.base import Pool
from icl.types import Query, RetrievedExample
from retrievers.base import Embedder, FittedRetriever, Resources, Retriever
from retrievers.embedders.encoder import Encoder
from retrievers.leak_policy import EXCLUDE_LEAKS, LeakPolicy
from retrievers.machinery.embedding_source import READ, check_modalities, open_source
from retrievers.machinery.retriever_wrapper import RetrieverWrapper
from retrievers.machinery.similarity import embed_by_modality
from retrievers.machinery.vector_index import VectorIndex

SWAPPED = "neighbor_swap: place"
NOTHING = "neighbor_swap: nothing to swap for"


@component("retriever", "neighbor_swap")
@dataclass(frozen=True, kw_only=True)
class NeighborSwap(RetrieverWrapper):
    """Another retriever's demonstrations, one of them swapped for its nearest neighbor in the pool."""

    of: Annotated[Retriever, NestedComponent("retriever")]  # the retriever whose demonstrations they are
    position: Count = 0  # which one is swapped, 0 the best
    by: Literal["image", "question", "both"] = "image"  # what its neighbor is near in
    embedder: Annotated[Embedder, NestedComponent("embedder")] = field(default_factory=Encoder)  # what is compared with

    def __post_init__(self) -> None:
        check_modalities(self.embedder, READ[self.by], f"by is '{self.by}', and ")

    @property
    def needs(self) -> frozenset[str]:
        return self.of.needs | {"embedder"}

    @property
    def nested(self) -> bool:
        """Which member is free for a swap depends on all the others."""
        return False

    def fit(self, pool: Pool, resources: Resources) -> "FittedNeighborSwap":
        source = open_source(self.embedder, resources.cache, pool)
        index = VectorIndex(embed_by_modality(pool.examples, source, self.by))
        rows = {example.id: row for row, example in enumerate(pool.examples)}
        return FittedNeighborSwap(self, pool, self.of.fit(pool, resources), index, rows)


@dataclass(frozen=True)
class FittedNeighborSwap:
    """The fitted retriever inside, and an index over the same pool."""

    retriever: NeighborSwap
    pool: Pool
    of: FittedRetriever
    index: VectorIndex
    rows: dict[str, int]

    def retrieve(
        self, queries: Sequence[Query], k: int, policy: LeakPolicy = EXCLUDE_LEAKS
    ) -> list[tuple[RetrievedExample, ...]]:
        found = self.of.retrieve(queries, k, policy)
        return [self._swapped(query, tuple(own), policy) for query, own in zip(queries, found, strict=True)]

    def _swapped(
        self, query: Query, own: tuple[RetrievedExample, ...], policy: LeakPolicy
    ) -> tuple[RetrievedExample, ...]:
        place = self.retriever.position
        if place >= len(own):
            return own
        is_allowed, examples = policy.allowed_for(query), self.pool.examples
        taken = {one.id for one in own}
        shown = {p.source_digest for one in own for p in self.pool.by_id[one.id].images}

        def may(row: int) -> bool:
            example = examples[row]
            again = any(image.source_digest in shown for image in example.images)
            return example.id not in taken and not again and is_allowed(example)

        row = self.rows[own[place].id]
        (near,) = self.index.nearest(self.index.vectors[row : row + 1], 1, [may])
        if not near:
            return (*own[:place], replace(own[place], mark=_joined(own[place].mark, NOTHING)), *own[place + 1 :])
        other, cosine = near[0]
        mark = _joined(own[place].mark, f"{SWAPPED} {place}, cosine {cosine:.3f}")
        return (*own[:place], RetrievedExample(examples[other].id, own[place].score, mark), *own[place + 1 :])


def _joined(*marks: str) -> str:
    return "; ".join(filter(None, marks))

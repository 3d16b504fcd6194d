"""Retrievers around another one: its pool, its queries or its results are changed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np

from icl import ConfigError, Count, Fraction, NestedComponent, PlanError, Pool, component, later_parameter, stream
from icl.tasks import image_digests
from icl.types import Example, Query, RetrievedExample
from retrievers import MODALITIES_OF, Encoder, VectorIndex, check_modalities, embed_by_modality, open_source, reads
from retrievers.base import (
    ALLOW_LEAKS,
    EXCLUDE_LEAKS,
    Embedder,
    FittedRetriever,
    LeakPolicy,
    Resources,
    RetrievedDemos,
    Retriever,
    RetrieverWrapper,
)


@component("retriever", "filtered")
@dataclass(frozen=True, kw_only=True)
class Filtered(RetrieverWrapper):
    """Another retriever on a part of the pool: by domain, label, question, group or similarity to the query.

    A retriever on a part of the pool: by domain, label, a common question or group, or similarity to the query.

        {name: filtered, of: knn, domain: other, max_similarity: 0.95}

    The retriever inside is fitted on the filtered pool, so greedy selection and quotas do not see the other members.
    Queries with the same filtered pool share one fit. The leak policy applies with and without this filter.
    """

    of: Annotated[Retriever, NestedComponent("retriever")]  # the retriever that is fitted on the filtered pool
    domain: Literal["any", "same", "other"] = "any"  # keep members of the query's own domain, or of all other domains
    same: Literal["nothing", "question", "group"] = later_parameter("nothing")  # keep members with the query's own one
    labels: tuple[str, ...] = ()  # keep members with one of these labels; empty: all
    max_similarity: Fraction | None = None  # drop members whose image has a larger cosine with the query's image
    embedder: Annotated[Embedder, NestedComponent("embedder")] = field(
        default_factory=Encoder
    )  # compares the images for `max_similarity`

    def __post_init__(self) -> None:
        if self.max_similarity is not None and "image" not in reads(self.embedder):
            raise ConfigError(f"max_similarity compares images, and {self.embedder!r} reads texts only. Use 'encoder'.")

    def fit(self, pool: Pool, resources: Resources) -> "FittedFiltered":
        """Raises ConfigError if `domain` or `same` filters and no example of the pool has a domain or a group."""
        if self.domain != "any" and all(example.domain is None for example in pool.examples):
            raise ConfigError(f"retriever 'filtered': domain is '{self.domain}', and no example of the pool has one.")
        if self.same == "group" and all(example.group is None for example in pool.examples):
            raise ConfigError("retriever 'filtered': same is 'group', and no example of the pool has one.")
        return FittedFiltered(self, pool, resources, {})


@dataclass(frozen=True)
class FittedFiltered:
    """The retriever inside, fitted once for each different filtered pool."""

    retriever: Filtered
    pool: Pool
    resources: Resources
    parts: dict[frozenset[int], tuple[Pool, FittedRetriever]]

    def retrieve(self, queries: Sequence[Query], k: int, policy: LeakPolicy = EXCLUDE_LEAKS) -> RetrievedDemos:
        results: list[tuple[RetrievedExample, ...]] = [()] * len(queries)
        queries_by_pool: dict[frozenset[int], list[int]] = {}
        for i, dropped_rows in enumerate(self._dropped_rows(queries) if k else ()):
            queries_by_pool.setdefault(dropped_rows, []).append(i)
        for dropped_rows, indices in queries_by_pool.items():
            part, fitted = self._part(dropped_rows)
            try:
                of_part = fitted.retrieve([queries[i] for i in indices], k, policy)
            except PlanError as error:
                raise PlanError(f"{error} (Filters left {len(part)} of the pool's {len(self.pool)}.)") from error
            for i, demos in zip(indices, of_part, strict=True):
                results[i] = demos
        return results

    def _part(self, dropped_rows: frozenset[int]) -> tuple[Pool, FittedRetriever]:
        if dropped_rows not in self.parts:
            examples = (example for i, example in enumerate(self.pool.examples) if i not in dropped_rows)
            part = Pool(tuple(examples)) if dropped_rows else self.pool
            self.parts[dropped_rows] = part, self.retriever.fit_inner(part, self.resources)
        return self.parts[dropped_rows]

    def _dropped_rows(self, queries: Sequence[Query]) -> list[frozenset[int]]:
        duplicates: Sequence[Any] = [()] * len(queries)
        if self.retriever.max_similarity is not None:
            source = open_source(self.retriever.embedder, self.resources.cache, self.pool)
            images = source.embed_images(self.pool.examples)
            scores = source.embed_images(queries) @ images.T
            duplicates = [np.flatnonzero(row > self.retriever.max_similarity).tolist() for row in scores]
        return [
            frozenset(rows).union(i for i, example in enumerate(self.pool.examples) if not matches(example))
            for rows, matches in zip(duplicates, map(self._label_filter, queries), strict=True)
        ]

    def _label_filter(self, query: Query) -> Callable[[Example], bool]:
        domain, labels = self.retriever.domain, self.retriever.labels

        def matches(example: Example) -> bool:
            domain_matches = domain == "any" or (example.domain == query.domain) == (domain == "same")
            same = self.retriever.same == "nothing" or _common(example, query, self.retriever.same)
            return domain_matches and same and (not labels or example.class_name in labels)

        return matches


def _common(example: Example, query: Query, name: str) -> bool:
    """Whether the two have the same value of an attribute."""
    value = getattr(query, name)
    return value is not None and getattr(example, name) == value


SWAPPED = "neighbor_swap: place"
NO_REPLACEMENT = "neighbor_swap: nothing to swap for"


@component("retriever", "neighbor_swap")
@dataclass(frozen=True, kw_only=True)
class NeighborSwap(RetrieverWrapper):
    """Another retriever with one demonstration replaced by its nearest neighbor in the pool.

    One demonstration replaced by its nearest neighbor: how much does the exact choice matter? (disruption gap)

        S = the demonstrations of the retriever inside
        S_i = S with its i-th replaced by its nearest member of the pool

    The replacement is not in S, is not the query, and shares no image with either. It has the position and the score of
    the demonstration that it replaces, and a mark with the cosine between the two. Positions count from the best (0)
    and can be an axis: `retriever.position: [0, 1, 2, 3]`. `icl analyze RUN disruption` measures the gap to the
    retriever inside.

    S does not change if it has fewer demonstrations than the position (no mark), or if the pool has no replacement (a
    mark says so). The analysis excludes these samples.
    """

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
        digests = image_digests(*(self.pool.by_id[demo.id] for demo in demos))

        def can_replace(row: int) -> bool:
            example = examples[row]
            return example.id not in ids and not image_digests(example) & digests and is_allowed(example)

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


@component("retriever", "query_dropout")
@dataclass(frozen=True, kw_only=True)
class QueryDropout(RetrieverWrapper):
    """Another retriever that searches without some words of the question.

    Query dropout (Yasunaga et al., RA-CM3, ICML 2023): the search uses only a part of the query's words.

    floor(share n) of the n words of the question are dropped at random, from the query's own stream. At least one word
    remains. In training, dropout prevents retrieved documents that copy the query. At inference it is off by default
    (share 0). Only the search changes: the prompt shows the whole query.

    No released code.
    """

    of: Annotated[Retriever, NestedComponent("retriever")]  # the retriever that searches
    share: Fraction = 0.0  # of the words that are dropped; RA-CM3 trains with .2

    def fit(self, pool: Pool, resources: Resources) -> "FittedQueryDropout":
        return FittedQueryDropout(self.fit_inner(pool, resources), self.share, resources.seed)


@dataclass(frozen=True)
class FittedQueryDropout:
    """The fitted retriever inside."""

    of: FittedRetriever
    share: float
    seed: int

    def retrieve(self, queries: Sequence[Query], k: int, policy: LeakPolicy = EXCLUDE_LEAKS) -> RetrievedDemos:
        shortened: list[Any] = [replace(query, question=self._drop_words(query)) for query in queries]
        return self.of.retrieve(shortened, k, policy)

    def _drop_words(self, query: Query) -> str:
        words = query.question.split()
        count = min(int(self.share * len(words) + 1e-9), len(words) - 1)
        if count <= 0:
            return query.question
        dropped = set(stream(self.seed, query.id, "query_dropout").permutation(len(words))[:count].tolist())
        return " ".join(word for i, word in enumerate(words) if i not in dropped)


WARNING = (
    "demonstrations may be the query itself or have its image, which inflates accuracy. Samples that leak are marked "
    "(icl analyze RUN leakage)."
)
MARK = "leak: {id} is the query or has its image"


@component("retriever", "with_leaks")
@dataclass(frozen=True, kw_only=True)
class WithLeaks(RetrieverWrapper):
    """Another retriever that may return the query itself and its images. Each leak is marked in its sample.

    Another retriever without leak protection, to measure how much leaks inflate accuracy.

    A query may then get itself, or a demonstration with one of its images. Each such demonstration marks its sample. A
    run with this retriever prints a warning before it starts, and `icl analyze RUN leakage` counts the marks. No other
    component allows leaks.
    """

    warning: ClassVar[str] = WARNING

    leaks: ClassVar[bool] = True

    of: Annotated[Retriever, NestedComponent("retriever")]  # the retriever that may leak

    def fit(self, pool: Pool, resources: Resources) -> "FittedWithLeaks":
        return FittedWithLeaks(pool, self.fit_inner(pool, resources))


@dataclass(frozen=True)
class FittedWithLeaks:
    """The retriever inside, fitted on one pool."""

    pool: Pool
    of: FittedRetriever

    def retrieve(self, queries: Sequence[Query], k: int, policy: LeakPolicy = EXCLUDE_LEAKS) -> RetrievedDemos:
        """The demonstrations of the retriever inside without leak protection, regardless of the caller's policy."""
        results = self.of.retrieve(queries, k, ALLOW_LEAKS)
        return [self._with_marks(query, demos) for query, demos in zip(queries, results, strict=True)]

    def _with_marks(self, query: Query, demos: Sequence[RetrievedExample]) -> tuple[RetrievedExample, ...]:
        is_allowed = EXCLUDE_LEAKS.allowed_for(query)
        return tuple(
            demo if is_allowed(self.pool.by_id[demo.id]) else replace(demo, mark=_leak_mark(demo)) for demo in demos
        )


def _leak_mark(demo: RetrievedExample) -> str:
    return "; ".join(filter(None, (demo.mark, MARK.format(id=demo.id))))

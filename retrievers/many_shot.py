"""Many-shot prompts at the price of a few: demonstrations that all queries share, and a few similar ones behind them.

    {name: hybrid, of: knn, similar: 2}                       16 shots: 14 common ones, then the 2 nearest
    {name: hybrid, of: knn, similar: 2, common: k_means}      the common ones cover the pool
    {name: hybrid, of: knn, similar: 2, part: similar}        the control: the same 2 nearest alone

In the default order the prompt ends with the nearest demonstration:

    common 1 ... common 14 | second nearest, nearest | query
    read once for all      | read for each query
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from icl import (
    ConfigError,
    ICLError,
    NestedComponent,
    PlanError,
    Pool,
    PositiveInt,
    Query,
    RetrievedExample,
    class_name,
    component,
    scipy,
    stream,
)
from retrievers import (
    ALLOW_LEAKS,
    EXCLUDE_LEAKS,
    MODALITIES_OF,
    Encoder,
    FittedRetriever,
    LeakPolicy,
    Resources,
    RetrievedDemos,
    check_modalities,
    embed_by_modality,
    open_source,
)
from retrievers.base import Embedder, Retriever, RetrieverWrapper, Vectors, declared
from retrievers.baselines import RandomRetriever

NO_QUERY = Query("", (), "")
"""What the retriever of the common demonstrations is asked with."""

LEAKS = "hybrid: {count} of the common ones would leak"


@component("retriever", "hybrid")
@dataclass(frozen=True, kw_only=True)
class Hybrid(RetrieverWrapper):
    """The demonstrations of another retriever behind common ones that all queries share.

    Many-shot prompts with a cached part (Golchin et al. 2025): few similar demonstrations after many common ones.

    Of k shots, `similar` come from the retriever inside, and k - `similar` are the same for all queries of a pool and a
    seed. The model reads the common ones once. The order `reversed`, the default, writes them first and the nearest
    demonstration last; other orders lose the common beginning. A member that is both common and similar stays common,
    and the next nearest takes its place, because a hole would end what prompts share. A common member that would leak
    is replaced by the next nearest, with a mark. The retriever inside is asked for all k.

    Always run the control `part: similar` too: the common part costs context, and may add nothing.

    No released code was compared. The paper takes centroids of the test queries; `common: k_means` takes those of the
    pool.
    """

    ranked: ClassVar[bool] = False

    of: Annotated[Retriever, NestedComponent("retriever")]  # finds the similar demonstrations
    similar: PositiveInt = 2  # how many of the shots are similar ones, all if there are no more shots
    common: Annotated[Retriever, NestedComponent("retriever")] = field(
        default_factory=RandomRetriever
    )  # chooses the common ones without a query, such as random, balanced, k_means, fixed
    part: Literal["both", "similar", "common"] = "both"  # what is shown; the controls show one part alone

    def __post_init__(self) -> None:
        if not declared(self.common, "reads_pool_only"):
            raise ConfigError(
                f"common: {class_name(type(self.common))} reads the query, and all queries share the common ones. Use "
                "random, balanced, k_means or fixed, or a retriever that declares reads_pool_only = True."
            )

    @property
    def needs(self) -> frozenset[str]:
        return self.of.needs | self.common.needs

    @property
    def nested(self) -> bool:
        """More shots are more common ones, which rank last."""
        return False

    @property
    def returns_k(self) -> bool:
        return self.part == "both" and super().returns_k

    def fit(self, pool: Pool, resources: Resources) -> "FittedHybrid":
        return FittedHybrid(self, pool, self.fit_inner(pool, resources), self.common.fit(pool, resources), {})


@dataclass(frozen=True)
class FittedHybrid:
    """Both retrievers, fitted on one pool. chosen: number of common demonstrations -> their ids."""

    retriever: Hybrid
    pool: Pool
    of: FittedRetriever
    common: FittedRetriever
    chosen: dict[int, tuple[str, ...]]

    def retrieve(self, queries: Sequence[Query], k: int, policy: LeakPolicy = EXCLUDE_LEAKS) -> RetrievedDemos:
        rankings = self.of.retrieve(queries, k, policy)  # first: it raises if the pool is too small
        common = self._common(max(k - self.retriever.similar, 0))
        return [self._joined(query, demos, common, k, policy) for query, demos in zip(queries, rankings, strict=True)]

    def _common(self, count: int) -> tuple[str, ...]:
        """The ids of the common demonstrations in the order of the prompt."""
        if count not in self.chosen:
            try:
                (demos,) = self.common.retrieve([NO_QUERY], count, ALLOW_LEAKS) if count else [()]
            except ICLError as error:
                raise PlanError(
                    f"retriever 'hybrid': {count} common demonstrations cannot be chosen: {error}"
                ) from error
            self.chosen[count] = tuple(demo.id for demo in demos)
        return self.chosen[count]

    def _joined(
        self, query: Query, ranking: Sequence[RetrievedExample], common: Sequence[str], k: int, policy: LeakPolicy
    ) -> tuple[RetrievedExample, ...]:
        is_allowed, part = policy.allowed_for(query), self.retriever.part
        remaining = [id_ for id_ in common if is_allowed(self.pool.by_id[id_])]
        mark = LEAKS.format(count=len(common) - len(remaining)) if len(remaining) < len(common) else ""
        similar = [demo for demo in ranking if demo.id not in remaining][: k - len(remaining)]
        last_to_first = [RetrievedExample(id_, mark=mark) for id_ in reversed(remaining)]
        return (*(similar if part != "common" else ()), *(last_to_first if part != "similar" else ()))


@component("retriever", "k_means")
@dataclass(frozen=True)
class KMeans:
    """One set for all queries that covers the pool: the members nearest to the centers of k clusters.

    k-means of the pool's vectors (Lloyd 1982, seeded by k-means++): the nearest member of each center, large clusters
    first. All queries get the same set, so it suits the common part of `hybrid`. A member that would leak is replaced
    by the next member of its center. The set depends on the number of shots and on the seed.

    No released code was compared.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"embedder"})
    ranked: ClassVar[bool] = False
    reads_pool_only: ClassVar[bool] = True

    by: Literal["image", "question", "both"] = "image"  # what is compared
    embedder: Annotated[Embedder, NestedComponent("embedder")] = field(default_factory=Encoder)  # makes the vectors

    def __post_init__(self) -> None:
        check_modalities(self.embedder, MODALITIES_OF[self.by], f"by is '{self.by}', and ")

    def fit(self, pool: Pool, resources: Resources) -> "FittedKMeans":
        source = open_source(self.embedder, resources.cache, pool)
        return FittedKMeans(pool, embed_by_modality(pool.examples, source, self.by), resources.seed, {})


@dataclass(frozen=True)
class FittedKMeans:
    """The vectors of one pool [N, D]. similarities: number of centers -> [centers, N]."""

    pool: Pool
    vectors: Vectors
    seed: int
    similarities: dict[int, NDArray[np.float64]]

    def retrieve(self, queries: Sequence[Query], k: int, policy: LeakPolicy = EXCLUDE_LEAKS) -> RetrievedDemos:
        return [self._retrieve_one(query, k, policy) for query in queries] if k else [() for _ in queries]

    def _retrieve_one(self, query: Query, k: int, policy: LeakPolicy) -> tuple[RetrievedExample, ...]:
        is_allowed, examples = policy.allowed_for(query), self.pool.examples
        if k > len(examples):
            raise policy.too_few(self.pool, query, k)
        if k not in self.similarities:
            centers = k_means(self.vectors, k, stream(self.seed, "", "k_means"))
            self.similarities[k] = -scipy.spatial.distance.cdist(centers, self.vectors, "sqeuclidean")
        chosen: dict[int, float] = {}
        for row in self.similarities[k]:
            members = (int(i) for i in np.argsort(-row, kind="stable"))
            member = next((i for i in members if i not in chosen and is_allowed(examples[i])), None)
            if member is None:
                raise policy.too_few(self.pool, query, k)
            chosen[member] = float(row[member])
        return tuple(RetrievedExample(examples[i].id, score) for i, score in chosen.items())


STEPS = 50
"""Steps of k-means, which usually stand still earlier."""


def k_means(vectors: Vectors, k: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """The centers [k, D] of the clusters of vectors [N, D], k <= N; large clusters first.

    Drawn here and not by scipy: with fewer distinct vectors than centers, copies of all of them are centers.
    """
    rows = vectors.astype(np.float64)
    centers = rows[[int(rng.integers(len(rows)))]]
    while len(centers) < k:
        gaps = scipy.spatial.distance.cdist(centers, rows, "sqeuclidean").min(0)
        weights = gaps / gaps.sum() if gaps.sum() > 0 else np.full(len(rows), 1 / len(rows))
        centers = np.vstack([centers, rows[int(rng.choice(len(rows), p=weights))]])
    with warnings.catch_warnings(action="ignore"):  # of empty clusters, whose centers stay
        centers, nearest = scipy.cluster.vq.kmeans2(rows, centers, iter=STEPS, minit="matrix", missing="warn")
    return np.asarray(centers[np.argsort(-np.bincount(nearest, minlength=k), kind="stable")])

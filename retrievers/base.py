"""The interfaces of embedders, retrievers and rerankers.

A retriever is fitted on a pool. The fitted retriever returns the demonstrations of each query, best first.

The leak policy says whether a query may get itself, or a demonstration that has one of its images. Every `retrieve`
takes the policy as an argument, and `LeakPolicy.allowed_for` is the only filter. Two images are equal if the digests of
their unedited pixels are equal, so neither another file name nor an edit hides a leak. Images are compared only for
candidates that would otherwise be retrieved.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from itertools import islice
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from icl import DataError, Example, Image, Model, PlanError, Pool, Query, RetrievedExample
from icl.tasks import image_digests


@dataclass(frozen=True)
class LeakPolicy:
    """The rule for demonstrations that leak: the query itself, and examples that have one of its images."""

    exclude: bool

    def allowed_for(self, query: Query) -> Callable[[Example], bool]:
        """A filter: whether an example may be a demonstration of the query."""
        if not self.exclude:
            return lambda example: True
        query_images = image_digests(query)

        def is_allowed(example: Example) -> bool:
            return example.id != query.id and not image_digests(example) & query_images

        return is_allowed

    def too_few(self, pool: Pool, query: Query, k: int) -> PlanError:
        """The error for a pool with fewer than k allowed examples, with the counts."""
        is_allowed = self.allowed_for(query)
        itself = query.id in pool.by_id and not is_allowed(pool.by_id[query.id])
        shared = sum(not is_allowed(example) for example in pool.examples) - itself
        left = len(pool) - itself - shared
        return PlanError(
            f"{k} demonstrations for query '{query.id}' from a pool of {len(pool)}: {left} are left after taking out "
            f"{'the query itself and ' if itself else ''}{shared} with one of its images. Use at most {left} "
            f"shots, or give the task a larger pool."
        )


EXCLUDE_LEAKS: LeakPolicy = LeakPolicy(exclude=True)
"""The default of every `retrieve`."""

ALLOW_LEAKS = LeakPolicy(exclude=False)
"""Only the retriever `with_leaks` uses it, to measure what a leak is worth."""


def check_takes_policy(fitted: Any) -> None:
    """Raises PlanError if `retrieve` of a fitted retriever has no parameter for the leak policy."""
    retrieve = getattr(fitted, "retrieve", None)
    if retrieve is None:
        return  # the call of `retrieve` raises an error that names the component
    try:
        inspect.signature(retrieve).bind((), 1, EXCLUDE_LEAKS)
    except TypeError:
        raise PlanError(
            f"{type(fitted).__name__}.retrieve does not take the leak policy. Define retrieve(queries, k, policy), or "
            f"derive from retrievers.FittedRanking, which applies the policy."
        ) from None


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
    model: Model | None = None
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


OPTIONAL_ATTRIBUTES: Mapping[str, bool | str] = {
    "nested": False,
    "ranked": True,
    "returns_k": True,
    "leaks": False,
    "reads_pool_only": False,
    "warning": "",
    "model_ability": "logits",
}
"""Optional attribute of a retriever or reranker -> its default."""


def declared(component: object, name: str) -> Any:
    """The value of one of OPTIONAL_ATTRIBUTES, or its default. Raises KeyError for another name."""
    return getattr(component, name, OPTIONAL_ATTRIBUTES[name])


@runtime_checkable
class Retriever(Protocol):
    """A component of kind `retriever`. `needs` may contain 'embedder', 'model', 'labels' and 'gold'.

    Optional attributes (OPTIONAL_ATTRIBUTES, read with `declared`): `model_ability`, the ability of the model that it
    needs; `warning`, a text that is printed before a run; `reads_pool_only`, whether it chooses without looking at
    what a query asks and shows, as `hybrid` asks of its common part; `nested`, `ranked`, `returns_k`, `leaks` (see
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


@dataclass(frozen=True, kw_only=True)
class RetrieverWrapper:
    """Base of retrievers that wrap a retriever `of`."""

    of: Retriever

    @property
    def needs(self) -> frozenset[str]:
        return self.of.needs

    @property
    def nested(self) -> bool:
        return bool(declared(self.of, "nested"))

    @property
    def ranked(self) -> bool:
        return bool(declared(self.of, "ranked"))

    @property
    def returns_k(self) -> bool:
        return bool(declared(self.of, "returns_k"))

    @property
    def leaks(self) -> bool:
        return bool(declared(self.of, "leaks"))

    @property
    def warning(self) -> str:
        return str(declared(self.of, "warning"))

    @property
    def model_ability(self) -> str:
        return str(declared(self.of, "model_ability"))

    def fit_inner(self, pool: Pool, resources: Resources) -> FittedRetriever:
        """Fit the retriever inside. Raises PlanError if it does not take the leak policy."""
        fitted = self.of.fit(pool, resources)
        check_takes_policy(fitted)
        return fitted

    def prepare(self, items: Sequence[Query | Example], resources: Resources) -> None:
        """Embed the members of many small pools at once, if the retriever inside can."""
        prepare: Any = getattr(self.of, "prepare", None)
        if prepare is not None:
            prepare(items, resources)


def run_preflight(component: Any) -> None:
    """Check a component and the components inside it. Raises the ICLError that the first use would raise.

    A component with files of its own has a method `preflight` that raises. An embedder is checked by its digest.
    """
    for part in component_parts(component):
        if (preflight := getattr(part, "preflight", None)) is not None:
            preflight()
        elif hasattr(part, "embed_images") and hasattr(part, "embed_texts"):
            part.digest  # noqa: B018


def component_parts(component: Any) -> Iterator[Any]:
    """The component and all components inside it, without tasks and models, which have their own checks."""
    if isinstance(component, tuple):
        for element in component:
            yield from component_parts(element)
    elif is_dataclass(component) and not hasattr(component, "queries") and not hasattr(component, "abilities"):
        yield component
        for field in fields(component):
            yield from component_parts(getattr(component, field.name))


Vectors = NDArray[np.float32]


def normalize_rows(vectors: NDArray[np.floating]) -> Vectors:
    """Divide each row by its L2 norm. A zero row stays zero."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.ascontiguousarray(vectors / np.where(norms > 0, norms, 1), dtype=np.float32)


def stack_batches(batches: Sequence[NDArray[np.floating]]) -> Vectors:
    """The unit rows of all batches of an encoder, [N, D]; [0, 0] without batches."""
    return normalize_rows(np.concatenate(batches)) if batches else np.zeros((0, 0), np.float32)


def all_images(items: Sequence[Query | Example]) -> list[Image]:
    """All images of the items, in order. Raises DataError if an item has no image."""
    without = next((item for item in items if not item.images), None)
    if without is not None:
        raise DataError(f"'{without.id}' has no image to embed. Retrieve by question, or give it an image.")
    return [image for item in items for image in item.images]


def mean_per_item(items: Sequence[Query | Example], rows: Vectors) -> Vectors:
    """The mean vector of each item, normalized: [P, D], one row per image in the order of `all_images` -> [N, D]."""
    if len(rows) == len(items):
        return rows
    counts = [len(item.images) for item in items]
    starts = np.cumsum([0, *counts[:-1]])
    return normalize_rows(np.add.reduceat(rows, starts, axis=0))

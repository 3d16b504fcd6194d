"""The conformance checks of retrievers and rerankers.

    check_retriever(Mine(k=3))
    check_reranker(Mine())

A retriever declares its properties as class attributes:

    nested = True     the k-shot set is the beginning of larger sets
    returns_k = False  it may return fewer than k demonstrations
    ranked = False    the scores need not decrease: demonstrations are in the order of selection
    reads_pool_only = True  the set depends on the pool, the seed and the id of a query alone
    leaks = True      it may return the query and its images, with a mark that contains "leak"

The default pool contains traps: each query itself, its image under another id, and its image with an edit. Queries have
no gold answer unless the retriever needs 'gold'.
"""

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import numpy as np

from icl import PIL, Example, ICLError, Image, PlanError, Pool, Query, RetrievedExample
from icl.edits import Blank
from icl.testing.require import accepts_class
from retrievers.base import (
    ALLOW_LEAKS,
    EXCLUDE_LEAKS,
    Embedder,
    FittedRetriever,
    Reranker,
    Resources,
    RetrievedDemos,
    Retriever,
    check_takes_policy,
    declared,
)
from retrievers.machinery.embeddings import open_source, reads

NEEDS = frozenset({"embedder", "model", "labels", "gold"})
COLORS = {"red": (220, 40, 30), "green": (40, 180, 60), "blue": (40, 70, 210)}


def sample_pool() -> Pool:
    """A pool of 24 colored images with three labels, and three traps for each sample query.

    The traps are the query itself, a copy of its image, and an edit of its image.
    """
    plain = [_example(f"pool-{i}", list(COLORS)[i % 3], i) for i in range(24)]
    traps: list[Example] = []
    for query in sample_queries():
        copied = Image.from_pil(query.images[0].open().copy(), f"copy of {query.id}")
        traps += [
            query,
            Example(f"copy-{query.id}", (copied,), "Which color, again?", query.answers, label=query.label),
            Example(f"edit-{query.id}", (copied.edit(Blank()),), "Which color?", query.answers, label=query.label),
        ]
    return Pool(tuple(plain[:12] + traps + plain[12:]))


def sample_queries() -> list[Example]:
    """Three queries with gold answers. `check_retriever` removes them for retrievers that do not need 'gold'."""
    return [_example(f"query-{color}", color, 100 + i) for i, color in enumerate(COLORS)]


@accepts_class
def check_retriever(
    retriever: Retriever,
    pool: Pool | None = None,
    queries: Sequence[Example] | None = None,
    resources: Resources | None = None,
    shots: Sequence[int] = (0, 1, 2, 4, 8),
) -> None:
    """Check that a retriever does what runs rely on.

    Args:
        queries: At least two queries with their gold answers.
        resources: With a model for a retriever that needs one. By default the cache is a temporary folder.
        shots: The numbers of demonstrations to try.

    Raises:
        AssertionError: A sentence that says what is wrong.
    """
    pool, examples = pool or sample_pool(), list(queries or sample_queries())
    assert len(examples) > 1, "give at least two queries, or batches cannot be compared."
    unknown = retriever.needs - NEEDS
    assert not unknown, f"needs contains {sorted(unknown)}. A retriever can need {sorted(NEEDS)}."
    inputs: list[Any] = examples if "gold" in retriever.needs else [example.query for example in examples]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache:
        resources = resources or Resources(cache=cache)
        _check_policy(retriever.fit(pool, resources))
        num_allowed, max_shots = _num_allowed(retriever, pool, inputs), max(shots)
        assert num_allowed >= max_shots, (
            f"the pool has {num_allowed} allowed demonstrations for a query; {max_shots} shots cannot be tried."
        )
        by_k = {k: _check_results(retriever, pool, inputs, resources, k) for k in sorted({*shots, num_allowed})}
        _check_repeats(retriever.fit(pool, resources), inputs, by_k[max_shots], max_shots)
        if declared(retriever, "nested"):
            _check_nested(by_k, inputs)
        if declared(retriever, "returns_k"):
            _check_too_many(retriever, pool, inputs, resources)
        if declared(retriever, "reads_pool_only"):
            others = [dataclasses.replace(other, id=one.id) for one, other in zip(inputs, inputs[::-1], strict=True)]
            fitted = retriever.fit(pool, resources)
            own, of_others = (fitted.retrieve(queries, max_shots, ALLOW_LEAKS) for queries in (inputs, others))
            _check_equal(own, of_others, inputs, "asked for another query, although reads_pool_only is declared")


@accepts_class
def check_reranker(
    reranker: Reranker,
    pool: Pool | None = None,
    queries: Sequence[Example] | None = None,
    resources: Resources | None = None,
) -> None:
    """Check that a reranker does what runs rely on.

    The candidates are all allowed members of the pool in its order, with decreasing scores from 1. A reranker that may
    keep fewer than k declares `returns_k = False`. Raises AssertionError with a sentence that says what is wrong.
    """
    pool, examples = pool or sample_pool(), list(queries or sample_queries())
    assert reranker.needs <= NEEDS, (
        f"needs contains {sorted(reranker.needs - NEEDS)}. A reranker can need {sorted(NEEDS)}."
    )
    inputs: list[Any] = examples if "gold" in reranker.needs else [example.query for example in examples]
    candidates = []
    for query in inputs:
        ids = [example.id for example in pool.examples if EXCLUDE_LEAKS.allowed_for(query)(example)]
        candidates.append(tuple(RetrievedExample(id_, 1 - i / len(ids)) for i, id_ in enumerate(ids)))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache:
        fitted = reranker.fit(pool, resources or Resources(cache=cache))
        for k in (0, 1, 4, 8):
            results = fitted.rerank(inputs, candidates, k)
            assert len(results) == len(inputs), f"{len(results)} results for {len(inputs)} queries."
            for query, before, after in zip(inputs, candidates, results, strict=True):
                where, ids = f"query '{query.id}', k = {k}", [demo.id for demo in after]
                returns_k = declared(reranker, "returns_k")
                assert len(ids) == k if returns_k else len(ids) <= k, f"{where}: {len(ids)} candidates kept."
                assert len(set(ids)) == len(ids), f"{where}: a candidate is given twice."
                assert {*ids} <= {demo.id for demo in before}, f"{where}: a result is not one of the candidates."
            reordered = fitted.rerank(inputs[::-1], candidates[::-1], k)[::-1]
            _check_equal(results, reordered, inputs, "asked in another order")
            one_by_one = [fitted.rerank([query], [own], k)[0] for query, own in zip(inputs, candidates, strict=True)]
            _check_equal(results, one_by_one, inputs, "asked one at a time")


def _check_results(
    retriever: Retriever, pool: Pool, queries: list[Query], resources: Resources, k: int
) -> RetrievedDemos:
    results = retriever.fit(pool, resources).retrieve(queries, k, EXCLUDE_LEAKS)
    assert len(results) == len(queries), f"{len(results)} results for {len(queries)} queries."
    for query, demos in zip(queries, results, strict=True):
        wrong = next((d for d in demos if not isinstance(d, RetrievedExample)), None)
        assert wrong is None, f"query '{query.id}': a {type(wrong).__name__} is returned, not a RetrievedExample."
        where, ids, scores = f"query '{query.id}', k = {k}", [d.id for d in demos], [d.score for d in demos]
        returns_k = declared(retriever, "returns_k")
        assert len(demos) == k if returns_k else len(demos) <= k, f"{where}: {len(demos)} demonstrations."
        assert len(set(ids)) == len(ids), f"{where}: a demonstration is given twice."
        unknown = [i for i in ids if i not in pool.by_id]
        assert not unknown, f"{where}: {unknown} are not in the pool."
        if declared(retriever, "ranked"):
            assert scores == sorted(scores, reverse=True), f"{where}: the best is not first."
        unmarked = [d.id for d in demos if not (declared(retriever, "leaks") and "leak" in d.mark)]
        leaked = [i for i in unmarked if not EXCLUDE_LEAKS.allowed_for(query)(pool.by_id[i])]
        assert not leaked, f"{where}: {leaked} are the query itself or have its image."
    return results


def _num_allowed(retriever: Retriever, pool: Pool, queries: Sequence[Query]) -> int:
    """The number of demonstrations that the pool has for each of the queries."""
    if declared(retriever, "leaks"):
        return len(pool)
    return min(sum(map(EXCLUDE_LEAKS.allowed_for(query), pool.examples)) for query in queries)


def _check_policy(fitted: FittedRetriever) -> None:
    try:
        check_takes_policy(fitted)
    except PlanError as error:
        raise AssertionError(str(error)) from None


def _check_repeats(fitted: FittedRetriever, queries: list[Query], first: RetrievedDemos, k: int) -> None:
    _check_equal(first, fitted.retrieve(queries, k, EXCLUDE_LEAKS), queries, "asked again after another fit")
    _check_equal(
        first, [fitted.retrieve([query], k, EXCLUDE_LEAKS)[0] for query in queries], queries, "asked one at a time"
    )
    _check_equal(first, fitted.retrieve(queries[::-1], k, EXCLUDE_LEAKS)[::-1], queries, "asked in another order")
    doubled = fitted.retrieve([*queries, *queries], k, EXCLUDE_LEAKS)
    _check_equal(first, doubled[len(queries) :], queries, "asked in a larger batch")


def _check_equal(first: RetrievedDemos, second: RetrievedDemos, queries: list[Query], when: str) -> None:
    for query, one, two in zip(queries, first, second, strict=True):
        message = f"query '{query.id}', {when}: {[d.id for d in two]} instead of {[d.id for d in one]}."
        assert [d.id for d in one] == [d.id for d in two], message
        difference = max((abs(a.score - b.score) for a, b in zip(one, two, strict=True)), default=0.0)
        assert difference < 1e-4, f"query '{query.id}', {when}: a score differs by {difference}."


def _check_nested(by_k: dict[int, RetrievedDemos], queries: list[Query]) -> None:
    for fewer, more in zip(sorted(by_k), sorted(by_k)[1:], strict=False):
        for query, small, large in zip(queries, by_k[fewer], by_k[more], strict=True):
            is_nested = [d.id for d in large][: len(small)] == [d.id for d in small]
            assert is_nested, f"query '{query.id}': the {fewer}-shot set does not begin the {more}-shot set."


def _check_too_many(retriever: Retriever, pool: Pool, queries: list[Query], resources: Resources) -> None:
    count, message = _num_allowed(retriever, pool, queries[:1]), ""
    try:
        retriever.fit(pool, resources).retrieve(queries[:1], count + 1, EXCLUDE_LEAKS)
    except ICLError as error:
        message = str(error)
    assert message, f"{count + 1} demonstrations from {count} allowed ones raised no ICLError."
    missing = [number for number in (count, count + 1) if str(number) not in message]
    assert not missing, f"the error for too many shots does not name {missing}: {message}"


def _example(name: str, color: str, place: int) -> Example:
    """An example with a distinct image: one color, with a gray bar at a position that depends on `place`."""
    image = PIL.Image.new("RGB", (32, 32), COLORS[color])
    PIL.ImageDraw.Draw(image).rectangle(
        (place % 28, place // 28, place % 28 + 3, place // 28 + 9), fill=(128, 128, 128)
    )
    question = f"Which color is image {place}?"
    return Example(name, (Image.from_pil(image, name),), question, (color,), tuple(COLORS), label=color)


# The conformance check of embedders (`icl check embedder`).
#
#     check_embedder(Mine(bins=4))
#
# The rows are float32 with length 1, one for each item, and do not depend on the batch or the order of items. A
# modality that the embedder does not read is an ICLError. Embedders that need a model are not covered.


TEXTS = ("which red ?", "count the blue shape", "which red ?", "what")
UNIT, ORDER, BATCH = 1e-5, 1e-5, 1e-4  # tolerances: length, order of items, other batch


@accepts_class
def check_embedder(embedder: Embedder, pool: Pool | None = None) -> None:
    """Check that an embedder does what retrievers rely on. Every call has an empty cache.

    Args:
        pool: The pool. Its images are embedded, and a transform is fitted on it. By default a small pool of
            generated images.

    Raises:
        AssertionError: A sentence that says what is wrong.
    """
    name, pool = type(embedder).__name__, pool or sample_pool()
    duplicate: Any = dataclasses.replace(embedder)  # type: ignore[type-var]
    assert embedder.digest == duplicate.digest, f"{name}.digest is not the same in another instance."
    assert isinstance(embedder.digest, str), f"{name}.digest is {embedder.digest!r}, not a text."
    unknown = reads(embedder) - {"image", "text"}
    assert not unknown, f"{name}.reads has {sorted(unknown)}; it may have image and text."
    assert reads(embedder), f"{name} reads neither images nor texts."
    if not hasattr(embedder, "open"):  # a transform embeds through its source only
        calls: list[tuple[str, Callable[[Any], Any], Sequence[Any]]] = [
            ("image", embedder.embed_images, pool.examples[:5]),
            ("text", embedder.embed_texts, TEXTS),
        ]
        for what, embed, items in calls:
            if what in reads(embedder):
                _check_shape(f"{name}, {what}s", embed(items), len(items))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as root:
        folders = (f"{root}/{number}" for number in count())

        def images(items: Any) -> Any:
            return open_source(embedder, next(folders), pool).embed_images(items)

        def texts(items: Any) -> Any:
            return open_source(embedder, next(folders), pool).embed_texts(items)

        _check(name, "image", images, pool.examples[:5], embedder)
        _check(name, "text", texts, TEXTS, embedder)


def _check(name: str, what: str, embed: Callable[[Any], Any], items: Sequence[Any], embedder: Embedder) -> None:
    where = f"{name}, {what}s"
    if what not in reads(embedder):
        try:
            embed(items)
        except ICLError:
            return
        raise AssertionError(f"{where}: it declares that it does not read them, but returns vectors.")
    rows = embed(items)
    _check_shape(where, rows, len(items))
    assert np.isfinite(rows).all(), f"{where}: rows have numbers that are not finite."
    longest = float(np.abs(np.linalg.norm(rows, axis=1) - 1).max())
    assert longest <= UNIT, f"{where}: rows are not of length 1, by up to {longest:.2g}."
    reordered = embed(items[::-1])[::-1]
    assert np.allclose(reordered, rows, atol=ORDER), f"{where}: the order of items changes vectors."
    one_by_one = np.vstack([embed([item]) for item in items])
    assert np.allclose(one_by_one, rows, atol=BATCH), f"{where}: the other items of a batch change an item's vector."


def _check_shape(where: str, rows: Any, count: int) -> None:
    assert rows.dtype == np.float32, f"{where}: rows are {rows.dtype}, not float32."
    assert rows.shape == (count, rows.shape[-1]), f"{where}: shape {rows.shape} for {count} items."

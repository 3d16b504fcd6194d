"""What every retriever and reranker must do, as calls for our tests and for anyone's own.

    check_retriever(Mine(k=3))
    check_reranker(Mine())

A retriever says `nested = True` where the k-shot set begins the larger ones, `exact = False` where it may give fewer
than k, and `ranked = False` where it gives its choices in the order of picking, whatever their scores. One that says
`leaks = True` may give the query and its images, with a mark that says so. Without arguments it is tried on a small
pool made for its traps: the query itself stands in it, and the query's image under another id and with an edit.
Queries carry no gold unless the retriever declares the need.
"""

import inspect
import tempfile
from collections.abc import Sequence
from typing import Any

from icl.edits import Blank
from icl.errors import ICLError
from icl.images import Image
from icl.tasks.base import Pool
from icl.types import Example, Query, RetrievedExample
from retrievers.base import FittedRetriever, Reranker, Resources, Retriever
from retrievers.leak_policy import ALLOW_LEAKS, EXCLUDE_LEAKS

NEEDS = frozenset({"embedder", "model", "labels", "gold"})
COLORS = {"red": (220, 40, 30), "green": (40, 180, 60), "blue": (40, 70, 210)}
Given = list[tuple[RetrievedExample, ...]]


def sample_pool() -> Pool:
    """24 colored images in three labels, and the traps: each sample query, its image again, its image edited."""
    plain = [_example(f"pool-{i}", list(COLORS)[i % 3], i) for i in range(24)]
    traps: list[Example] = []
    for query in _asked():
        again = Image.from_pil(query.images[0].open().copy(), f"copy of {query.id}")
        traps += [
            query,
            Example(f"copy-{query.id}", (again,), "Which color, again?", query.answers, label=query.label),
            Example(f"edit-{query.id}", (again.edit(Blank()),), "Which color?", query.answers, label=query.label),
        ]
    return Pool(tuple(plain[:12] + traps + plain[12:]))


def sample_queries() -> list[Example]:
    """Three queries with their gold; `check_retriever` takes the gold away where no need for it is declared."""
    return _asked()


def check_retriever(
    retriever: Retriever,
    pool: Pool | None = None,
    queries: Sequence[Example] | None = None,
    resources: Resources | None = None,
    shots: Sequence[int] = (0, 1, 2, 4, 8),
) -> None:
    """Raises AssertionError with a sentence where the retriever breaks a promise.

    queries: at least two, with their gold. resources: with a model for a retriever that needs one; the cache is a
    temporary folder unless one is given.
    """
    pool, asked = pool or sample_pool(), list(queries or sample_queries())
    assert len(asked) > 1, "give at least two queries, or batches cannot be compared."
    unknown = retriever.needs - NEEDS
    assert not unknown, f"needs names {sorted(unknown)}; it may name {sorted(NEEDS)}."
    given: list[Any] = asked if "gold" in retriever.needs else [example.query for example in asked]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache:
        resources = resources or Resources(cache=cache)
        _check_policy(retriever.fit(pool, resources), given)
        left = _left(retriever, pool, given)
        most = max(shots)
        assert left >= most, f"the pool has {left} allowed demonstrations for a query; {most} shots cannot be tried."
        by_k = {k: _tried(retriever, pool, given, resources, k) for k in sorted({*shots, left})}
        _check_repeats(retriever.fit(pool, resources), given, by_k[most], most)
        if getattr(retriever, "nested", False):
            _check_nested(by_k, given)
        if getattr(retriever, "exact", True):
            _check_too_many(retriever, pool, given, resources)


def check_reranker(
    reranker: Reranker,
    pool: Pool | None = None,
    queries: Sequence[Example] | None = None,
    resources: Resources | None = None,
) -> None:
    """Raises AssertionError with a sentence where the reranker breaks a promise.

    It is given every allowed member of the pool, scored from 1 downwards in the pool's order. `exact = False` where it
    may keep fewer than k.
    """
    pool, asked = pool or sample_pool(), list(queries or sample_queries())
    assert reranker.needs <= NEEDS, f"needs names {sorted(reranker.needs - NEEDS)}; it may name {sorted(NEEDS)}."
    given: list[Any] = asked if "gold" in reranker.needs else [example.query for example in asked]
    found = []
    for query in given:
        fair_ones = [example.id for example in pool.examples if EXCLUDE_LEAKS.allowed_for(query)(example)]
        found.append(tuple(RetrievedExample(name, 1 - i / len(fair_ones)) for i, name in enumerate(fair_ones)))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache:
        fitted = reranker.fit(pool, resources or Resources(cache=cache))
        for k in (0, 1, 4, 8):
            kept = fitted.rerank(given, found, k)
            assert len(kept) == len(given), f"{len(kept)} results for {len(given)} queries."
            for query, before, after in zip(given, found, kept, strict=True):
                at, ids = f"query '{query.id}', k = {k}", [one.id for one in after]
                exact = getattr(reranker, "exact", True)
                assert len(ids) == k if exact else len(ids) <= k, f"{at}: {len(ids)} candidates kept."
                assert len(set(ids)) == len(ids), f"{at}: a candidate is given twice."
                assert {*ids} <= {one.id for one in before}, f"{at}: what it gives was not among the candidates."
            _same(kept, fitted.rerank(given[::-1], found[::-1], k)[::-1], given, "asked in another order")
            alone = [fitted.rerank([query], [own], k)[0] for query, own in zip(given, found, strict=True)]
            _same(kept, alone, given, "asked one at a time")


def _tried(retriever: Retriever, pool: Pool, queries: list[Query], resources: Resources, k: int) -> Given:
    given = retriever.fit(pool, resources).retrieve(queries, k, EXCLUDE_LEAKS)
    assert len(given) == len(queries), f"{len(given)} results for {len(queries)} queries."
    for query, demos in zip(queries, given, strict=True):
        at, ids, scores = f"query '{query.id}', k = {k}", [d.id for d in demos], [d.score for d in demos]
        exact = getattr(retriever, "exact", True)
        assert len(demos) == k if exact else len(demos) <= k, f"{at}: {len(demos)} demonstrations."
        assert len(set(ids)) == len(ids), f"{at}: a demonstration is given twice."
        strange = [i for i in ids if i not in pool.by_id]
        assert not strange, f"{at}: {strange} are not in the pool."
        if getattr(retriever, "ranked", True):
            assert scores == sorted(scores, reverse=True), f"{at}: the best is not first."
        silent = [d.id for d in demos if not (getattr(retriever, "leaks", False) and "leak" in d.mark)]
        leaked = [i for i in silent if not EXCLUDE_LEAKS.allowed_for(query)(pool.by_id[i])]
        assert not leaked, f"{at}: {leaked} are the query itself or have its image."
    return given


def _left(retriever: Retriever, pool: Pool, queries: Sequence[Query]) -> int:
    """How many demonstrations the pool has for any of the queries."""
    if getattr(retriever, "leaks", False):
        return len(pool)
    return min(sum(map(EXCLUDE_LEAKS.allowed_for(query), pool.examples)) for query in queries)


def _check_policy(fitted: FittedRetriever, queries: list[Query]) -> None:
    try:
        inspect.signature(fitted.retrieve).bind(queries, 1, ALLOW_LEAKS)
    except TypeError:
        raise AssertionError(
            f"{type(fitted).__name__}.retrieve does not take the leak policy. Define retrieve(queries, k, policy), or "
            f"derive from retrievers.FittedRanking, which applies the policy."
        ) from None


def _check_repeats(fitted: FittedRetriever, queries: list[Query], first: Given, k: int) -> None:
    _same(first, fitted.retrieve(queries, k, EXCLUDE_LEAKS), queries, "asked again after another fit")
    _same(first, [fitted.retrieve([query], k, EXCLUDE_LEAKS)[0] for query in queries], queries, "asked one at a time")
    _same(first, fitted.retrieve(queries[::-1], k, EXCLUDE_LEAKS)[::-1], queries, "asked in another order")
    doubled = fitted.retrieve([*queries, *queries], k, EXCLUDE_LEAKS)
    _same(first, doubled[len(queries) :], queries, "asked in a larger batch")


def _same(first: Given, second: Given, queries: list[Query], when: str) -> None:
    for query, one, two in zip(queries, first, second, strict=True):
        told = f"query '{query.id}', {when}: {[d.id for d in two]} instead of {[d.id for d in one]}."
        assert [d.id for d in one] == [d.id for d in two], told
        moved = max((abs(a.score - b.score) for a, b in zip(one, two, strict=True)), default=0.0)
        assert moved < 1e-4, f"query '{query.id}', {when}: a score moved by {moved}."


def _check_nested(by_k: dict[int, Given], queries: list[Query]) -> None:
    for fewer, more in zip(sorted(by_k), sorted(by_k)[1:], strict=False):
        for query, small, large in zip(queries, by_k[fewer], by_k[more], strict=True):
            begins = [d.id for d in large][: len(small)] == [d.id for d in small]
            assert begins, f"query '{query.id}': the {fewer}-shot set does not begin the {more}-shot set."


def _check_too_many(retriever: Retriever, pool: Pool, queries: list[Query], resources: Resources) -> None:
    left, told = _left(retriever, pool, queries[:1]), ""
    try:
        retriever.fit(pool, resources).retrieve(queries[:1], left + 1, EXCLUDE_LEAKS)
    except ICLError as error:
        told = str(error)
    assert told, f"{left + 1} demonstrations from {left} allowed ones raised no ICLError."
    lacking = [count for count in (left, left + 1) if str(count) not in told]
    assert not lacking, f"the error for too many shots does not say {lacking}: {told}"


def _asked() -> list[Example]:
    return [_example(f"query-{color}", color, 100 + i) for i, color in enumerate(COLORS)]


def _example(name: str, color: str, place: int) -> Example:
    """An image of its own in one color with a gray bar whose place tells it from the others."""
    from PIL import Image as PILImage
    from PIL import ImageDraw

    image = PILImage.new("RGB", (32, 32), COLORS[color])
    ImageDraw.Draw(image).rectangle((place % 28, place // 28, place % 28 + 3, place // 28 + 9), fill=(128, 128, 128))
    question = f"Which color is image {place}?"
    return Example(name, (Image.from_pil(image, name),), question, (color,), tuple(COLORS), label=color)

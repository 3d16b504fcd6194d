"""The cost of retrieval: exact search against FAISS, the overhead of a query, and savings of the embedding cache.

Ratios and counters of one run on this machine. Times are CPU seconds: the median over rounds, with minimum and
maximum. `python -m lab.bench.retrieval` prints them.
"""

import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from icl.images import Image
from icl.tasks.base import Pool
from icl.types import Example
from lab.bench import Row
from lab.bench.timing import cpu_rounds, round_ratios, with_spread
from retrievers.base import Resources, normalize_rows
from retrievers.baselines import RandomRetriever
from retrievers.embedders.image_statistics import Histogram
from retrievers.machinery.embeddings import num_embedded
from retrievers.machinery.greedy_selection import PartMatches, dpp, mmr
from retrievers.machinery.multi_vector import PoolParts
from retrievers.machinery.similarity import VectorIndex, build_index
from retrievers.nearest import KNN

ROWS, DIM, QUERIES, SHOTS = 100_000, 128, 1_000, 8
CANDIDATES, PICKED, PARTS = 1_000, 16, 8
IMAGES, EPISODES, EPISODE = 500, 300, 16


def rows() -> list[Row]:
    """All figures of this file."""
    return [*_search(), *_approximate(), *_diverse(), *_cache(), *_episodes()]


def _search() -> list[Row]:
    """The index against IndexFlatIP on the same vectors, in turn, and whether both return the same scores."""
    import faiss

    rng = np.random.default_rng(0)
    vectors, queries = (normalize_rows(rng.standard_normal((n, DIM), dtype=np.float32)) for n in (ROWS, QUERIES))
    bare = faiss.IndexFlatIP(DIM)
    bare.add(vectors)
    index = VectorIndex(vectors)
    ours, theirs = cpu_rounds([lambda: index.nearest(queries, SHOTS), lambda: bare.search(queries, SHOTS)])
    table = index.nearest(queries, SHOTS)
    scores, _ = bare.search(queries, SHOTS)
    same = np.allclose([[score for _, score in one] for one in table], scores, atol=1e-5)
    what = f"knn, {QUERIES:,} queries over {ROWS:,} x {DIM}, k = {SHOTS}"
    return [
        (
            f"{what}: time over FAISS flat",
            f"{with_spread(round_ratios(ours, theirs))}, {with_spread(ours, ' s')}",
            "<= 1.10",
        ),
        (f"{what}: scores equal FAISS", "yes" if same else "NO", "yes"),
    ]


def _approximate() -> list[Row]:
    """The approximate indexes against the exact one on the same clustered vectors."""
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((200, DIM), dtype=np.float32)
    noise = rng.standard_normal((ROWS // 4 + QUERIES, DIM), dtype=np.float32)
    rows = normalize_rows(centers[rng.integers(200, size=len(noise))] + 0.5 * noise)
    vectors, queries = rows[QUERIES:], rows[:QUERIES]
    exact, each = VectorIndex(vectors).nearest(queries, SHOTS), VectorIndex(vectors)
    out: list[Row] = []
    for search in ("hnsw", "ivf"):
        start = time.process_time()
        index = build_index(vectors, search)
        built = time.process_time() - start
        table = index.nearest(queries, SHOTS)
        shared = [len({r for r, _ in a} & {r for r, _ in b}) / SHOTS for a, b in zip(exact, table, strict=True)]
        fast, plain = cpu_rounds([partial(index.nearest, queries, SHOTS), partial(each.nearest, queries, SHOTS)])
        what = f"{search}, {QUERIES:,} queries over {len(vectors):,} x {DIM}"
        figure = f"{with_spread(round_ratios(fast, plain))} of exact, built in {built:.1f} s"
        out += [(f"{what}: time", figure, "< 1"), (f"{what}: recall", f"{np.mean(shared):.3f}", ">= 0.95")]
    return out


def _diverse() -> list[Row]:
    """Sets of 16 from 1,000 precomputed candidates, for 1,000 queries."""
    rng = np.random.default_rng(0)
    vectors, queries = (normalize_rows(rng.standard_normal((n, DIM), dtype=np.float32)) for n in (20_000, QUERIES))
    near = np.argpartition(-(queries @ vectors.T), CANDIDATES, axis=1)[:, :CANDIDATES]
    parts = normalize_rows(rng.standard_normal((CANDIDATES * PARTS, DIM), dtype=np.float32))
    members = PoolParts.of(parts.reshape(CANDIDATES, PARTS, DIM))
    query_vectors = normalize_rows(rng.standard_normal((QUERIES * PARTS, DIM), dtype=np.float32)).reshape(
        QUERIES, PARTS, DIM
    )
    weights = np.full(PARTS, 1 / PARTS)

    def greedy(choose: Callable[..., list[int]], *more: float) -> None:
        for query, rows in zip(queries, near, strict=True):
            some = vectors[rows]
            assert len(choose(some @ query, some, PICKED, *more)) == PICKED

    def coverage() -> None:
        for some in np.split(query_vectors, QUERIES // 10):
            for matches in np.split(members.matches(np.concatenate(some)), len(some)):
                assert len(PartMatches(matches, weights).greedy_cover(PICKED)) == PICKED

    out: list[Row] = []
    runs: dict[str, Callable[[], None]] = {
        "mmr": partial(greedy, mmr, 0.5),
        "dpp": partial(greedy, dpp),
        "set coverage, matching included": coverage,
    }
    for name, run in runs.items():
        (taken,) = cpu_rounds([run], 3)
        what = f"{name}: {PICKED} of {CANDIDATES:,} candidates for {QUERIES:,} queries"
        out.append((what, with_spread(taken, " s"), "< 5 s"))
    return out


def _cache() -> list[Row]:
    """Fitting a pool for the first time, then again from the cache on disk."""
    from retrievers.machinery import embeddings as cache

    pool = Pool(tuple(_example(f"e{i}", i) for i in range(IMAGES)))
    counts, times = [], []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for _ in range(2):
            for example in pool.examples:
                _ = example.images[0].digest  # reading images does not count
            cache.clear_memory()
            before, start = num_embedded()["image"], time.process_time()
            KNN(embedder=Histogram()).fit(Pool(pool.examples), Resources(cache=folder))
            times.append(time.process_time() - start)
            counts.append(num_embedded()["image"] - before)
    return [
        (f"images embedded, first fit of {IMAGES}", f"{counts[0]} ({times[0] * 1e3:.0f} ms)", f"{IMAGES}"),
        ("images embedded, second fit from disk", f"{counts[1]} ({times[1] * 1e3:.0f} ms)", "0"),
    ]


def _episodes() -> list[Row]:
    """fit and retrieve for a query with its own pool, whose images are embedded."""
    pools = [Pool(tuple(_example(f"p{n}-{i}", EPISODE * n + i) for i in range(EPISODE))) for n in range(EPISODES)]
    queries = [_example(f"q{n}", 100_000 + n).query for n in range(EPISODES)]
    out: list[Row] = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for name, retriever in (("random", RandomRetriever()), ("knn", KNN(embedder=Histogram()))):

            def episodes(retriever: Any = retriever) -> None:
                for pool, query in zip(pools, queries, strict=True):
                    retriever.fit(Pool(pool.examples), Resources(cache=folder)).retrieve([query], 4)

            (seconds,) = cpu_rounds([episodes], 3)
            each = with_spread([1e3 * one / EPISODES for one in seconds], " ms")
            out.append((f"{name}: fit and retrieve, a pool of {EPISODE} a query", each, "<= 1 ms"))
    return out


def _example(name: str, number: int) -> Example:
    from PIL import Image as PILImage

    pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return Example(name, (Image.from_pil(PILImage.fromarray(pixels), name),), "which?", ("a",))


if __name__ == "__main__":
    for what, figure, goal in rows():
        print(f"{what:<72} {figure:>40}   {goal}")

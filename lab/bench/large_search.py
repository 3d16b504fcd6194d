"""Exact search over a million vectors: time and memory next to FAISS flat, each in a process of its own.

    python -m lab.bench large_search                 10,000 queries over 1,000,000 x 512: 2 GiB, minutes
    python -m lab.bench.large_search 500 1000000     500 queries

Vectors are sampled in blocks from one seed. Time is CPU seconds of the search alone, in ROUNDS equal parts of the
queries: the ratio is the median over the parts, with minimum and maximum. Memory is the peak of the process minus the
peak before any vector. A quick benchmark searches a hundredth of the queries in a hundredth of the vectors.
"""

import json
import subprocess
import sys
import time

from lab.bench import Row, rounds
from lab.bench.timing import ROUNDS, round_ratios, with_spread

ROWS, DIM, QUERIES, SHOTS, BLOCK = 1_000_000, 512, 10_000, 8, 50_000
ENGINES = ("ours", "faiss")


def rows() -> list[Row]:
    """All rows; skipped if less than twice the memory of the vectors is free."""
    import psutil  # type: ignore[import-untyped]

    share = 100 if rounds(2) == 1 else 1
    size = ROWS // share
    if psutil.virtual_memory().available < 2 * 4 * size * DIM:
        return [(f"knn over {size:,} x {DIM}", "skipped: too little memory is free", "")]
    return measured(QUERIES // share, size)


def measured(queries: int, size: int) -> list[Row]:
    """The rows for these sizes. Raises CalledProcessError if a process runs out of memory."""
    figures = {}
    for engine in ENGINES:
        command = [sys.executable, "-m", "lab.bench.large_search", engine, str(queries), str(size)]
        figures[engine] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    ours, theirs = figures["ours"], figures["faiss"]
    what = f"knn, {queries:,} queries over {size:,} x {DIM}, k = {SHOTS}"
    seconds = f"{sum(ours['seconds']):.1f} s, {sum(theirs['seconds']):.1f} s"
    ratio = with_spread(round_ratios(ours["seconds"], theirs["seconds"]))
    memory = f"{ours['mib']:,.0f} MiB, {theirs['mib']:,.0f} MiB"
    relative_memory = f"{ours['mib'] / theirs['mib']:.2f} ({memory})" if theirs["mib"] else "not measured: no growth"
    return [
        (f"{what}: time over FAISS flat", f"{ratio}, {seconds}", "<= 1.10"),
        (f"{what}: memory over FAISS flat", relative_memory, "<= 1.20"),
        (f"{what}: scores equal FAISS", "yes" if ours["scores"] == theirs["scores"] else "NO", "yes"),
    ]


def _search(engine: str, queries: int, size: int) -> dict[str, object]:
    import resource

    import numpy as np

    from retrievers.base import normalize_rows
    from retrievers.machinery.similarity import VectorIndex

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    def block(seed: int, count: int) -> "np.ndarray":
        return normalize_rows(np.random.default_rng(seed).standard_normal((count, DIM), dtype=np.float32))

    import faiss

    query_vectors = block(10**6, queries)
    normalize_rows(block(0, 100))
    before = peak()
    if engine == "faiss":
        flat = faiss.IndexFlatIP(DIM)
        for start in range(0, size, BLOCK):
            flat.add(block(start, min(BLOCK, size - start)))
    else:
        vectors = np.empty((size, DIM), np.float32)
        for start in range(0, size, BLOCK):
            vectors[start : start + BLOCK] = block(start, min(BLOCK, size - start))
        index = VectorIndex(vectors)
    taken, best = [], []
    for part in np.array_split(query_vectors, ROUNDS):
        begin = time.process_time()
        if engine == "faiss":
            best.append(flat.search(part, SHOTS)[0])
        else:
            best.append(np.array([[score for _, score in own] for own in index.nearest(part, SHOTS)]))
        taken.append(time.process_time() - begin)
    scores = np.round(np.concatenate(best)[:20].astype(np.float64), 4).tolist()
    return {"seconds": taken, "mib": peak() - before, "scores": scores}


if __name__ == "__main__":
    words = sys.argv[1:]
    if words[:1] and words[0] in ENGINES:
        print(json.dumps(_search(words[0], int(words[1]), int(words[2]))))
    else:
        queries, size = map(int, words or (QUERIES, ROWS))
        for what, figure, goal in measured(queries, size):
            print(f"{what:<72} {figure:>36}   {goal}")

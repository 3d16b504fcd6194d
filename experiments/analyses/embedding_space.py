"""What is the space of an encoder like: modality gap, hubs, near-duplicates? One row per encoder and pool

    gap          distance of the centroids of images and texts (Liang et al., NeurIPS 2022)
    alignment    mean squared distance of an image and its own text: smaller is better (Wang and Isola, ICML 2020)
    uniform_img  uniformity of images, and uniform_txt of texts: more negative is better (the same)
    hubness      skewness of how often an image is among the 10 nearest of others (Radovanovic, JMLR 2010)
    duplicates   pairs of images with a cosine above .95
    images       in the pool; texts: texts in the pool

The encoders come from the run's retrievers, and the pool is the first query's. An example's text is its
question and its answer. A gap says nothing about retrieval by itself ("It's Not a Modality Gap", 2405.18570): compare
it with the precision of `retrieval`. Vectors come from the cache of embeddings.
"""

from typing import Any

import numpy as np

from experiments import RunView, answered_samples, build_retriever, make_table, read_cells
from icl import DataFrame, Embedder, PlanError, Pool, build, class_name
from retrievers import SimilarityRetriever, TextField, VectorIndex, Vectors, demo_text, for_text, open_source, reads


def analyze(view: RunView) -> DataFrame:
    """One row per encoder and task. Raises ConfigError if no retriever of the run compares vectors."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for cell in read_cells(view, answered_samples(view, with_demos=False)).values():
        retriever = build_retriever(cell)
        if not isinstance(retriever, SimilarityRetriever):
            continue
        task = build("task", cell["task"])
        key = (task.title, retriever.embedder.digest)
        if key in rows:
            continue
        rows[key] = {
            "task": task.title,
            "encoder": class_name(type(retriever.embedder)),
            **diagnose(task.pool(task.queries[0].id), retriever.embedder),
        }
    return make_table(
        list(rows.values()),
        "Spaces of the encoders",
        note="alignment, uniformity: smaller is better",
        missing=f"{view.path}: no retriever of the run compares vectors. Use knn or another similarity.",
    )


# Properties of an embedding space: modality gap, alignment, uniformity, hubness, near-duplicates.
#
#     gap         || mean of unit images - mean of unit texts ||                          (Liang et al., NeurIPS 2022)
#     alignment   mean || x_i - y_i ||^2 over matched pairs: smaller is better              (Wang and Isola, ICML 2020)
#     uniformity  ln mean over i < j of exp(-2 || x_i - x_j ||^2): more negative is better  (the same)
#     hubness     skewness of how often a row is among the k nearest of others, k = 10      (Radovanovic, JMLR 2010)
#
# All functions take unit rows. Logarithms are natural, the skewness is the population skewness, and a row is not its
# own neighbor.

BLOCK = 1024
"""Rows per matrix product. It bounds the memory."""


def modality_gap(images: Vectors, texts: Vectors) -> float:
    """The distance between the two centroids. Raises PlanError if the dimensions differ or one side is empty."""
    _check_comparable(images, texts)
    return float(np.linalg.norm(images.mean(axis=0, dtype=np.float64) - texts.mean(axis=0, dtype=np.float64)))


def alignment(one: Vectors, other: Vectors) -> float:
    """The mean squared distance between row i of `one` and row i of `other`."""
    _check_comparable(one, other)
    if len(one) != len(other):
        raise PlanError(f"alignment compares pairs, and there are {len(one)} and {len(other)} rows.")
    return float(((one.astype(np.float64) - other) ** 2).sum(axis=1).mean())


def uniformity(rows: Vectors) -> float:
    """The logarithm of the mean potential over pairs. Raises PlanError for fewer than two rows."""
    if len(rows) < 2:
        raise PlanError(f"uniformity compares pairs, and there are {len(rows)} rows.")
    exact, total = rows.astype(np.float64), 0.0
    squares = (exact**2).sum(axis=1)
    for start in range(0, len(exact), BLOCK):
        block = exact[start : start + BLOCK]
        distances = squares[start : start + BLOCK, None] + squares - 2 * block @ exact.T
        later = np.arange(len(exact)) > np.arange(start, start + len(block))[:, None]
        total += float(np.exp(-2 * distances.clip(0))[later].sum())
    return float(np.log(total / (len(exact) * (len(exact) - 1) / 2)))


def hubness(rows: Vectors, k: int = 10) -> float:
    """The skewness of neighbor counts. 0: all rows are neighbors equally often; above 1: a few rows are hubs."""
    if len(rows) <= k:
        raise PlanError(f"hubness with k = {k} needs more than {k} rows, and there are {len(rows)}.")
    others: list[Any] = [lambda row, own=own: row != own for own in range(len(rows))]
    counts = np.zeros(len(rows))
    for hits in VectorIndex(rows).nearest(rows, k, others):
        counts[[row for row, _ in hits]] += 1
    differences = counts - counts.mean()
    deviation = np.sqrt((differences**2).mean())
    return float((differences**3).mean() / deviation**3) if deviation > 0 else 0.0


def near_duplicates(rows: Vectors, threshold: float = 0.95) -> list[tuple[int, int, float]]:
    """Pairs i < j with a cosine strictly above the threshold, the largest cosine first."""
    pairs: list[tuple[int, int, float]] = []
    for start in range(0, len(rows), BLOCK):
        scores = rows[start : start + BLOCK] @ rows.T
        for i, j in np.argwhere(scores > threshold).tolist():
            if start + i < j:
                pairs.append((start + i, j, float(scores[i, j])))
    return sorted(pairs, key=lambda pair: (-pair[2], pair[:2]))


def _check_comparable(one: Vectors, other: Vectors) -> None:
    if not len(one) or not len(other):
        raise PlanError(f"there are {len(one)} and {len(other)} rows to compare. Give at least one of each.")
    if one.shape[1] != other.shape[1]:
        raise PlanError(f"rows with {one.shape[1]} and {other.shape[1]} dimensions are not in one space.")


def diagnose(pool: Pool, embedder: Embedder, text: TextField = "both") -> dict[str, Any]:
    """The columns of an embedder on a pool. The pairs are the images and the texts of the kind `text`.

    A value is None if the embedder reads only one modality, or if the pool is too small.
    """
    source, modalities = open_source(for_text(embedder, text), None, pool), reads(embedder)
    examples = [example for example in pool.examples if example.images]
    images = source.embed_images(examples) if "image" in modalities and examples else None
    texts = (
        source.embed_texts([demo_text(example, text) for example in examples])
        if "text" in modalities and examples
        else None
    )
    both = images is not None and texts is not None and images.shape[1] == texts.shape[1]
    return {
        "gap": modality_gap(images, texts) if both and images is not None and texts is not None else None,
        "alignment": alignment(images, texts) if both and images is not None and texts is not None else None,
        "uniform_img": uniformity(images) if images is not None and len(images) > 1 else None,
        "uniform_txt": uniformity(texts) if texts is not None and len(texts) > 1 else None,
        "hubness": hubness(images) if images is not None and len(images) > 10 else None,
        "duplicates": 0 if images is None else len(near_duplicates(images)),
        "images": 0 if images is None else len(images),
        "texts": 0 if texts is None else len(texts),
    }

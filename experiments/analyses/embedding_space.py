"""What is the space of an encoder like: modality gap, hubs, near-duplicates? One row per encoder and pool

    gap          distance of the centroids of images and texts (Liang et al., NeurIPS 2022)
    alignment    mean squared distance of an image and its own text: smaller is better (Wang and Isola, ICML 2020)
    uniform_img  uniformity of images, and uniform_txt of texts: more negative is better (the same)
    hubness      skewness of how often an image is among the 10 nearest of others (Radovanovic, JMLR 2010)
    duplicates   pairs of images with a cosine above .95
    images       in the pool; texts: likewise

The encoders are those of the run's retrievers, the pool is that of the first query, and an example's text is its
question and its answer. A gap says nothing about retrieval by itself ("It's Not a Modality Gap", 2405.18570): compare
it with the precision of `retrieval`. Vectors come from the cache of embeddings.
"""

from typing import TYPE_CHECKING, Any

from experiments.analyses.shared import answered_samples, build_retriever, make_table, read_cells
from icl.errors import ConfigError
from icl.registry import build
from retrievers.diagnostics.embedding_space import diagnose
from retrievers.machinery.similarity import SimilarityRetriever

if TYPE_CHECKING:
    from pandas import DataFrame

    from experiments.results.run_view import RunView


def analyze(view: "RunView") -> "DataFrame":
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
        diagnosis = diagnose(task.pool(task.queries[0].id), retriever.embedder)
        rows[key] = {
            "task": task.title,
            "encoder": getattr(type(retriever.embedder), "component", ("", type(retriever.embedder).__name__))[1],
            "gap": diagnosis.gap,
            "alignment": diagnosis.alignment,
            "uniform_img": diagnosis.uniformity_images,
            "uniform_txt": diagnosis.uniformity_texts,
            "hubness": diagnosis.hubness_images,
            "duplicates": len(diagnosis.near_duplicates),
            "images": diagnosis.images,
            "texts": diagnosis.texts,
        }
    if not rows:
        raise ConfigError(f"{view.path}: no retriever of the run compares vectors. Use knn or another similarity.")
    return make_table(list(rows.values()), "Spaces of the encoders", note="alignment, uniformity: smaller is better")

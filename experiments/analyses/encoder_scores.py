"""Does a score of an encoder without a task foretell its retrieval? Alignment, correspondence, and precision@k

    mutual     alignment: share of the 10 nearest neighbors of an image that its text has, too; chance is 10 / (n - 1)
    cka        alignment: linear centered kernel alignment of images and texts; cka_chance: of texts in another order
    pck        correspondence: patches that are matched rightly in a crop, a mirror image and a rotation of their image;
               the mean, and each of the three
    precision  share of demonstrations with the query's gold answer, in the arms of the run that use the encoder
    images     of the pool of the first query, at most 500, the first 50 for correspondence
    n          samples of the precision, which alone has an interval

An example's text is its question and its answer. All encoders are compared with the same texts, those of the first
encoder of the run that reads texts. Encoders without vectors of patches have no correspondence. The note has the rank
correlation of each score with precision over the encoders (Law of Vision Representation, 2408.16357, fits a
polynomial). `retrievers.diagnostics.encoder_scores` has the formulas.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.analyses.retrieval import retrieval_statistics
from experiments.analyses.shared import answered_samples, build_retriever, interval_columns, make_table, read_cells
from experiments.stats.sample_rows import to_records, unit_labels
from icl.errors import ConfigError
from icl.registry import build
from icl.streams import StreamKey
from retrievers.base import Embedder
from retrievers.diagnostics.encoder_scores import WARPS, correspondence, linear_cka, mutual_neighbors
from retrievers.machinery.embeddings import demo_text, open_source, reads
from retrievers.machinery.similarity import SimilarityRetriever

if TYPE_CHECKING:
    from pandas import DataFrame

    from experiments.results.run_view import RunView
    from icl.tasks.base import Task
    from icl.types import Example

IMAGES, WARPED = 500, 50
"""The largest numbers of images for alignment and for correspondence."""
CORRELATED = 3
"""The smallest number of encoders whose scores are correlated with precision."""
SCORES = ("mutual", "cka", "pck")


@dataclass(frozen=True)
class _Arms:
    """An encoder and the cells that retrieve by it."""

    task: "Task"
    embedder: Embedder
    cells: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return str(getattr(type(self.embedder), "component", ("", type(self.embedder).__name__))[1])


def analyze(view: "RunView") -> "DataFrame":
    """One row per encoder and task. Raises ConfigError if no retriever of the run compares images."""
    rows = answered_samples(view)
    arms = _arms(read_cells(view, rows))
    if not arms:
        raise ConfigError(f"{view.path}: no retriever of the run compares vectors of images. Use knn with by: image.")
    table_rows: list[dict[str, Any]] = []
    for task in {one.task.title: one.task for one in arms}.values():
        own = [one for one in arms if one.task.title == task.title]
        examples = [example for example in task.pool(task.queries[0].id).examples if example.images][:IMAGES]
        texts = _texts(own, examples)
        for one in own:
            samples = to_records(rows[rows["cell"].isin(one.cells)].drop_duplicates(["cell", "query", "seed"]))
            each = [retrieval_statistics(row, int(row["shots"]))["precision"] for row in samples]
            table_rows.append(
                {
                    "task": task.title,
                    "encoder": one.name,
                    **_alignment(one, examples, texts),
                    **_correspondence(one, examples[:WARPED]),
                    **interval_columns(each, unit_labels(samples), "precision"),
                    "images": len(examples),
                    "n": len(samples),
                }
            )
    without = sorted({str(row["encoder"]) for row in table_rows if np.isnan(row["pck"])})
    notes = [correlations(table_rows), *([f"without vectors of patches: {', '.join(without)}"] if without else [])]
    table = make_table(table_rows, "Scores of encoders, and their retrieval", note="; ".join(notes))
    table.attrs["figure"] = {"x": "encoder", "y": ("precision", *SCORES), "measure": "share", "n": "samples"}
    return table


def correlations(rows: Sequence[Mapping[str, Any]]) -> str:
    """A sentence with Spearman's correlation of each score with precision over the encoders."""
    from scipy.stats import spearmanr

    parts = []
    for score in SCORES:
        pairs = [(row[score], row["precision"]) for row in rows if not np.isnan(row[score])]
        if len(pairs) >= CORRELATED and all(len(set(values)) > 1 for values in zip(*pairs, strict=True)):
            rank = spearmanr([value for value, _ in pairs], [value for _, value in pairs]).statistic
            parts.append(f"{score} {rank:+.2f} over {len(pairs)}")
    return f"rank correlation with precision: {', '.join(parts) or f'needs {CORRELATED} different encoders'}"


def _arms(cells: Mapping[str, Mapping[str, Any]]) -> list[_Arms]:
    """The encoders of the retrievers that compare images, each with its cells."""
    arms: dict[tuple[str, str], _Arms] = {}
    for digest, cell in cells.items():
        retriever = build_retriever(cell)
        if not isinstance(retriever, SimilarityRetriever) or getattr(retriever, "by", "image") != "image":
            continue
        if "image" in reads(retriever.embedder):
            task = build("task", cell["task"])
            arms.setdefault((task.title, retriever.embedder.digest), _Arms(task, retriever.embedder)).cells.append(
                digest
            )
    return list(arms.values())


def _texts(arms: Sequence[_Arms], examples: "Sequence[Example]") -> Any:
    """Vectors of the examples' texts by the first encoder that reads texts. None if none does."""
    one = next((one for one in arms if "text" in reads(one.embedder)), None)
    if one is None:
        return None
    pool = one.task.pool(one.task.queries[0].id)
    return open_source(one.embedder, None, pool).embed_texts([demo_text(example, "both") for example in examples])


def _alignment(one: _Arms, examples: "Sequence[Example]", texts: Any) -> dict[str, float]:
    """The columns of alignment; NaN without texts."""
    if texts is None:
        return {"mutual": np.nan, "cka": np.nan, "cka_chance": np.nan}
    images = open_source(one.embedder, None, one.task.pool(one.task.queries[0].id)).embed_images(examples)
    order = StreamKey(0, one.task.title).order("encoder_scores", [example.id for example in examples])
    return {
        "mutual": mutual_neighbors(images, texts),
        "cka": linear_cka(images, texts),
        "cka_chance": linear_cka(images, texts[list(order)]),
    }


def _correspondence(one: _Arms, examples: "Sequence[Example]") -> dict[str, float]:
    """The columns of correspondence; NaN without vectors of patches."""
    if getattr(one.embedder, "embed_patches", None) is None:
        return dict.fromkeys(("pck", *WARPS), np.nan)
    shares = correspondence(one.embedder, [example.images[0] for example in examples])
    return {"pck": float(np.mean(list(shares.values()))), **shares}

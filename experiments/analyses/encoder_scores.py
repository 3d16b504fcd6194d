"""Does a score of an encoder without a task foretell its retrieval? Alignment, correspondence, and precision@k

    mutual     alignment: share of the 10 nearest neighbors of an image that its text has, too; chance is 10 / (n - 1)
    cka        alignment: linear centered kernel alignment of images and texts; cka_chance: of texts in another order
    pck        correspondence: patches that are matched rightly in a crop, a mirror image and a rotation of their image;
               the mean, and each of the three
    precision  share of demonstrations with the query's gold answer, in the arms of the run that use the encoder
    images     of the pool of the first query, at most 500, the first 50 for correspondence
    n          samples of the precision, which alone has an interval

An example's text is its question and its answer. All encoders are compared with the same texts. They come from the
run's first encoder that reads texts. Encoders without vectors of patches have no correspondence. The note has the rank
correlation of each score with precision over the encoders (Law of Vision Representation, 2408.16357, fits a
polynomial). `experiments.analyses.encoder_scores` has the formulas.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments import RunView, answered_samples, build_retriever, interval_columns, make_table, read_cells
from experiments.analyses.retrieval import retrieval_statistics
from experiments.stats import to_records, unit_labels
from icl import ConfigError, DataFrame, Example, Image, PlanError, StreamKey, Task, build, class_name, scipy
from icl.edits import Crop, Edit, Flip, Rotate
from retrievers import Embedder, SimilarityRetriever, Vectors, demo_text, open_source, reads

IMAGES, WARPED = 500, 50
"""The largest numbers of images for alignment and for correspondence."""
CORRELATED = 3
"""Scores are correlated with precision if there are at least this many encoders."""
SCORES = ("mutual", "cka", "pck")


@dataclass(frozen=True)
class _Arms:
    """An encoder and the cells that retrieve by it."""

    task: Task
    embedder: Embedder
    cells: list[str] = field(default_factory=list)


def analyze(view: RunView) -> DataFrame:
    """One row per encoder and task. Raises ConfigError if no retriever of the run compares images."""
    rows = answered_samples(view)
    arms = _arms(read_cells(view, rows))
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
                    "encoder": class_name(type(one.embedder)),
                    **_alignment(one, examples, texts),
                    **_correspondence(one, examples[:WARPED]),
                    **interval_columns(each, unit_labels(samples), "precision"),
                    "images": len(examples),
                    "n": len(samples),
                }
            )
    without = sorted({str(row["encoder"]) for row in table_rows if np.isnan(row["pck"])})
    notes = [correlations(table_rows), *([f"without vectors of patches: {', '.join(without)}"] if without else [])]
    return make_table(
        table_rows,
        "Scores of encoders, and their retrieval",
        note="; ".join(notes),
        missing=f"{view.path}: no retriever of the run compares vectors of images. Use knn with by: image.",
        figure={"x": "encoder", "y": ("precision", *SCORES), "measure": "share", "n": "samples"},
    )


def correlations(rows: Sequence[Mapping[str, Any]]) -> str:
    """A sentence with Spearman's correlation of each score with precision over the encoders."""
    parts = []
    for score in SCORES:
        pairs = [(row[score], row["precision"]) for row in rows if not np.isnan(row[score])]
        if len(pairs) >= CORRELATED and all(len(set(values)) > 1 for values in zip(*pairs, strict=True)):
            rank = scipy.stats.spearmanr([value for value, _ in pairs], [value for _, value in pairs]).statistic
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


def _texts(arms: Sequence[_Arms], examples: Sequence[Example]) -> Any:
    """Vectors of the examples' texts by the first encoder that reads texts. None if none does."""
    one = next((one for one in arms if "text" in reads(one.embedder)), None)
    if one is None:
        return None
    pool = one.task.pool(one.task.queries[0].id)
    return open_source(one.embedder, None, pool).embed_texts([demo_text(example, "both") for example in examples])


def _alignment(one: _Arms, examples: Sequence[Example], texts: Any) -> dict[str, float]:
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


def _correspondence(one: _Arms, examples: Sequence[Example]) -> dict[str, float]:
    """The columns of correspondence; NaN without vectors of patches."""
    if getattr(one.embedder, "embed_patches", None) is None:
        return dict.fromkeys(("pck", *WARPS), np.nan)
    shares = correspondence(one.embedder, [example.images[0] for example in examples])
    return {"pck": float(np.mean(list(shares.values()))), **shares}


# Scores of encoders without a task: alignment of images with texts, and correspondence of patches under warps.
#
#     mutual          share of the k nearest neighbors that a row has in both spaces   (Huh et al., 2405.07987)
#     cka             |Y'X|^2 / (|X'X| |Y'Y|), columns centered, Frobenius norms        (Kornblith et al., ICML 2019)
#     correspondence  PCK: share of patches whose most similar patch in a warped copy of the image is where the warp put
#                     them, at most .1 of the side away in x and in y, or half a patch if that is more
#
# After the AC score of Law of Vision Representation (Yang et al., 2408.16357), whose alignment needs the projector of
# each model and whose correspondence needs SPair-71k. Here images are compared with texts of a pool, and with their
# own crops, mirror images and rotations. Patches that the same image has again elsewhere, such as a plain background,
# have no single right answer and are left out. No released code was compared.

NEIGHBORS = 10
REACH = 0.1
"""The largest distance of a right match, as a share of the side of the image."""
EQUAL = 1 - 1e-4
"""The cosine from which two patches count as equal."""


def mutual_neighbors(one: Vectors, other: Vectors, k: int = NEIGHBORS) -> float:
    """The share of neighbors in common, of unit rows [N, D] and [N, E]. 1 for equal spaces, k / (N - 1) by chance.

    Rows at the same distance as the k-th count in part, so that equal texts are no advantage of the first.

    Raises:
        PlanError: There are as many neighbors as other rows, or the numbers of rows differ.
    """
    if len(one) != len(other) or len(one) <= k + 1:
        raise PlanError(
            f"{k} neighbors in common need more than {k + 1} pairs, and there are {len(one)} and {len(other)} rows."
        )
    shares = np.minimum(_neighbor_shares(one, k), _neighbor_shares(other, k))
    return float(shares.sum() / (k * len(one)))


def linear_cka(one: Vectors, other: Vectors) -> float:
    """Linear centered kernel alignment of rows [N, D] and [N, E]: 1 for equal spaces up to rotation and scale."""
    x, y = (rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64) for rows in (one, other))
    scale = float(np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))
    return float(np.linalg.norm(y.T @ x) ** 2) / scale if scale else 0.0


def _neighbor_shares(rows: Vectors, k: int) -> Any:
    """How much each row is among the k nearest of each other row, [N, N]; every line sums to k."""
    cosines = np.round(rows.astype(np.float64) @ rows.T, 6)
    np.fill_diagonal(cosines, -np.inf)
    kth = -np.sort(-cosines, axis=1)[:, k - 1 : k]
    nearer, tied = cosines > kth, cosines == kth
    return nearer + tied * (k - nearer.sum(axis=1, keepdims=True)) / tied.sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class Warp:
    """An edit that moves the points of an image.

    Attributes:
        edit: The edit.
        move: Points [N, 2] in pixels from the upper left corner, and (width, height) -> points in the edited image.
    """

    edit: Edit
    move: Callable[[Any, tuple[int, int]], Any]


def crop(left: float, top: float, right: float, bottom: float) -> Warp:
    """A part of the image at its size."""
    low, size = np.array([left, top]), np.array([right - left, bottom - top])
    return Warp(Crop(left, top, right, bottom), lambda points, side: (points - low * side) / size)


def mirror() -> Warp:
    """The image from right to left."""
    return Warp(Flip(), lambda points, side: np.stack([side[0] - points[:, 0], points[:, 1]], axis=1))


def rotation(degrees: float) -> Warp:
    """The image turned counterclockwise around its center."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn = np.array([[cos, -sin], [sin, cos]])  # rows are (x, y) and y points down
    return Warp(Rotate(degrees), lambda points, side: (points - np.array(side) / 2) @ turn + np.array(side) / 2)


WARPS: Mapping[str, Warp] = {"crop": crop(0.2, 0.2, 0.9, 0.9), "flip": mirror(), "rotate": rotation(30)}


def correspondence(embedder: Any, images: Sequence[Image], warps: Mapping[str, Warp] = WARPS) -> dict[str, float]:
    """The share of right matches (PCK) of each warp, over all patches of all images.

    Args:
        embedder: An embedder with `embed_patches`. Its patches are a square grid over the image, line by line.
        images: The images.
        warps: Name -> warp.

    Raises:
        ConfigError: The embedder has no patches, or they are not a square grid.
    """
    if getattr(embedder, "embed_patches", None) is None:
        raise ConfigError(f"{embedder!r} has no vectors of patches. Use encoder, efficientnet or histogram.")
    before = _unit_patches(embedder, images)
    cells = math.isqrt(before.shape[1])
    centers = (np.stack(np.meshgrid(np.arange(cells), np.arange(cells)), axis=-1).reshape(-1, 2) + 0.5) / cells
    reach = max(REACH, 0.5 / cells) + 1e-9
    shares = {}
    for name, warp in warps.items():
        after = _unit_patches(embedder, [image.edit(warp.edit) for image in images])
        right = [
            _is_right(one, other, image.open().size, warp, centers=centers, reach=reach)
            for image, one, other in zip(images, before, after, strict=True)
        ]
        every = np.concatenate(right) if right else np.zeros(0)
        shares[name] = float(every.mean()) if len(every) else np.nan
    return shares


def _is_right(
    before: Any, after: Any, size: tuple[int, int], warp: Warp, *, centers: Any, reach: float
) -> NDArray[np.bool_]:
    """Whether each patch is matched rightly: those that are single in the image and stay inside it."""
    targets = warp.move(centers * size, size) / size
    inside = ((targets >= 0) & (targets <= 1)).all(axis=1)
    far = np.abs(centers[:, None] - centers).max(axis=-1) > reach
    single = ~((before @ before.T > EQUAL) & far).any(axis=1)
    matched = centers[np.argmax(before @ after.T, axis=1)]
    right: NDArray[np.bool_] = (np.abs(matched - targets).max(axis=1) <= reach)[inside & single]
    return right


def _unit_patches(embedder: Any, images: Sequence[Image]) -> Any:
    """[N, P, D] with unit rows. Raises ConfigError if P is no square."""
    patches = np.asarray(embedder.embed_patches(images), dtype=np.float64)
    if math.isqrt(patches.shape[1]) ** 2 != patches.shape[1]:
        raise ConfigError(f"{embedder!r} has {patches.shape[1]} patches, which are not a square grid.")
    norms = np.linalg.norm(patches, axis=-1, keepdims=True)
    return patches / np.where(norms > 0, norms, 1)

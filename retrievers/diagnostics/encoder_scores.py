"""Scores of encoders without a task: alignment of images with texts, and correspondence of patches under warps.

    mutual          share of the k nearest neighbors that a row has in both spaces   (Huh et al., 2405.07987)
    cka             |Y'X|^2 / (|X'X| |Y'Y|), columns centered, Frobenius norms        (Kornblith et al., ICML 2019)
    correspondence  PCK: share of patches whose most similar patch in a warped copy of the image is where the warp puts
                    them, at most .1 of the side away in x and in y, or half a patch if that is more

After the AC score of Law of Vision Representation (Yang et al., 2408.16357), whose alignment needs the projector of
each model and whose correspondence needs SPair-71k. Here images are compared with texts of a pool, and with their own
crops, mirror images and rotations. Patches that the same image has again elsewhere, such as a plain background, have no
single right answer and are left out. No released code was compared.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from icl.edits import Crop, Edit, Flip, Rotate
from icl.errors import ConfigError, PlanError
from icl.images import Image
from retrievers.machinery.vector_math import Vectors

if TYPE_CHECKING:
    from numpy.typing import NDArray

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
        embedder: An embedder with `embed_patches`, whose patches are a square grid over the image, line by line.
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
) -> "NDArray[np.bool_]":
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

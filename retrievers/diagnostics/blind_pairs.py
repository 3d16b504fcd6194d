"""Pairs of images that one encoder confuses and another encoder distinguishes (MMVP, Tong et al., CVPR 2024).

    cos(a, b) > high for the blind encoder (CLIP, .95),    cos(a, b) < low for the other one (DINOv2, .6)

Both inequalities are strict. All pairs are compared, and the largest difference is first. With `disjoint`, an image is
in at most one pair.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from icl.errors import ConfigError
from icl.tasks.base import Pool
from icl.types import Example
from retrievers.base import Embedder
from retrievers.machinery.embeddings import open_source

BLOCK = 1024
"""Rows per matrix product. It bounds the memory."""


@dataclass(frozen=True)
class BlindPair:
    """Two examples whose images are similar only for the blind encoder."""

    one: Example
    other: Example
    blind: float  # the blind encoder's cosine
    reference: float  # the reference encoder's cosine


def blind_pairs(
    examples: Sequence[Example],
    blind: Embedder,
    reference: Embedder,
    *,
    high: float = 0.95,
    low: float = 0.6,
    disjoint: bool = False,
    cache: str | None = None,
) -> list[BlindPair]:
    """Find all blind pairs. Raises ConfigError if `high` is below `low`."""
    if high < low:
        raise ConfigError(f"a pair is above {high} for one encoder and below {low} for the other: high is below low.")
    pool = Pool(tuple(examples))
    blind_rows, reference_rows = (
        open_source(embedder, cache, pool).embed_images(examples) for embedder in (blind, reference)
    )
    pairs: list[BlindPair] = []
    for start in range(0, len(examples), BLOCK):
        cosines = blind_rows[start : start + BLOCK] @ blind_rows.T
        references = reference_rows[start : start + BLOCK] @ reference_rows.T
        for i, j in np.argwhere((cosines > high) & (references < low)).tolist():
            if start + i < j:
                pairs.append(BlindPair(examples[start + i], examples[j], float(cosines[i, j]), float(references[i, j])))
    pairs.sort(key=lambda pair: pair.reference - pair.blind)
    return _disjoint(pairs) if disjoint else pairs


def _disjoint(pairs: list[BlindPair]) -> list[BlindPair]:
    used: set[str] = set()
    selected = []
    for pair in pairs:
        if not {pair.one.id, pair.other.id} & used:
            used |= {pair.one.id, pair.other.id}
            selected.append(pair)
    return selected

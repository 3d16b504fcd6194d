"""Pairs of images that one encoder confuses and another tells apart (MMVP, Tong et al., CVPR 2024).

    cos(a, b) > high for the blind encoder (CLIP, .95),    cos(a, b) < low for the seeing one (DINOv2, .6)

Both strict, over all pairs, the widest difference first. `disjoint` keeps each image's first pair alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from icl.errors import ConfigError
from icl.tasks.base import Pool
from icl.types import Example
from retrievers.base import Embedder
from retrievers.machinery.embedding_source import open_source

BLOCK = 1024
"""Rows compared at once: bounds the memory."""


@dataclass(frozen=True)
class BlindPair:
    """Two examples whose images look alike to the blind encoder only."""

    one: Example
    other: Example
    blind: float  # the blind encoder's cosine
    seeing: float  # the seeing encoder's cosine


def blind_pairs(
    examples: Sequence[Example],
    blind: Embedder,
    seeing: Embedder,
    *,
    high: float = 0.95,
    low: float = 0.6,
    disjoint: bool = False,
    cache: str | None = None,
) -> list[BlindPair]:
    """Raises ConfigError where no pair could be: high below low."""
    if high < low:
        raise ConfigError(f"a pair is above {high} for one encoder and below {low} for the other: high is below low.")
    pool = Pool(tuple(examples))
    alike, unlike = (open_source(embedder, cache, pool).embed_images(examples) for embedder in (blind, seeing))
    found: list[BlindPair] = []
    for start in range(0, len(examples), BLOCK):
        near = alike[start : start + BLOCK] @ alike.T
        far = unlike[start : start + BLOCK] @ unlike.T
        for i, j in np.argwhere((near > high) & (far < low)).tolist():
            if start + i < j:
                found.append(BlindPair(examples[start + i], examples[j], float(near[i, j]), float(far[i, j])))
    found.sort(key=lambda pair: pair.seeing - pair.blind)
    return _disjoint(found) if disjoint else found


def _disjoint(pairs: list[BlindPair]) -> list[BlindPair]:
    used: set[str] = set()
    kept = []
    for pair in pairs:
        if not {pair.one.id, pair.other.id} & used:
            used |= {pair.one.id, pair.other.id}
            kept.append(pair)
    return kept

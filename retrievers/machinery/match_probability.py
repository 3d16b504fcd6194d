"""Match probability of probabilistic embeddings (PCME, Chun et al., CVPR 2021).

    p(match) = mean over all pairs of samples of  sigmoid(-a || z_q - z_d || + b),    z = mu + exp(s) eps

s is a log standard deviation, the distance is sqrt(sum of squares + 1e-6), and each side has 7 samples. The sigmoid of
the released code is exp(x) / (exp(x) + exp(-x)) = logistic(2x), not logistic(x); `released` selects it. a and b are
learned and have no defaults. The normals come from a stream of each item, so they do not depend on the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from icl.streams import stream
from retrievers.machinery.vector_math import Vectors

SAMPLES = 7

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class GaussianEmbedding:
    """The Gaussian embedding of an item.

    name: of the stream of its normals. mean, log_deviation: [D].
    """

    name: str
    mean: Vectors
    log_deviation: Vectors

    def samples(self, count: int = SAMPLES, seed: int = 0) -> Floats:
        """Samples of the Gaussian, [count, D]."""
        normals = stream(seed, self.name, "pcme").standard_normal((count, len(self.mean)))
        return np.asarray(self.mean + np.exp(self.log_deviation.astype(np.float64)) * normals)


@dataclass(frozen=True, eq=False)
class GaussianEmbeddings:
    """The Gaussian embeddings of several items. means, log_deviations: [N, D]."""

    means: Vectors
    log_deviations: Vectors

    def __len__(self) -> int:
        return len(self.means)

    @property
    def uncertainty(self) -> Floats:
        """The geometric mean of each item's standard deviations, [N]."""
        return np.asarray(np.exp(self.log_deviations.astype(np.float64).mean(axis=1)))

    def samples(self, names: Sequence[str]) -> Vectors:
        """Samples of each item, [N, SAMPLES, D]. names: of the streams of the rows."""
        rows = zip(names, self.means, self.log_deviations, strict=True)
        samples = [GaussianEmbedding(*row).samples() for row in rows]
        return np.asarray(samples, dtype=np.float32).reshape(len(self), SAMPLES, self.means.shape[1])


def match_probabilities(query: Vectors, documents: Vectors, a: float, b: float, *, released: bool = True) -> Floats:
    """The match probability of a query with each document, [N].

    query: [S, D] samples. documents: [N, S, D] samples. There is one matrix product per query, so other queries cannot
    change a score.
    """
    flat = documents.reshape(-1, documents.shape[-1])
    squares = (flat.astype(np.float64) ** 2).sum(axis=1)
    distances = (query.astype(np.float64) ** 2).sum(axis=1)[:, None] + squares - 2.0 * (query @ flat.T)
    logits = (b - a * np.sqrt(distances.clip(0) + 1e-6)) * (2 if released else 1)
    return np.asarray(_logistic(logits).reshape(len(query), *documents.shape[:2]).mean(axis=(0, 2)))


def _logistic(logits: Floats) -> Floats:
    """The logistic function without overflow."""
    return np.asarray(np.exp(-np.logaddexp(0, -logits)))

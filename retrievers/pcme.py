"""Match probability of probabilistic embeddings (PCME, Chun et al., CVPR 2021).

    p(match) = mean over all pairs of samples of  sigmoid(-a || z_q - z_d || + b),    z = mu + exp(s) eps

s is a log standard deviation, the distance is sqrt(sum of squares + 1e-6), and there are 7 samples of each side. The
released code's sigma is exp(x) / (exp(x) + exp(-x)) = logistic(2x), not logistic(x); `released` takes that reading. a
and b are learned and have no defaults. The normals are an item's own, so that what stands beside it
changes nothing.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from icl.streams import stream
from retrievers.vectors import Vectors

SAMPLES = 7


@dataclass(frozen=True, eq=False)
class Gaussian:
    """An item's embedding. name: whose stream its normals come from; mean, log_deviation: [D]."""

    name: str
    mean: Vectors
    log_deviation: Vectors

    def samples(self, count: int = SAMPLES, seed: int = 0) -> NDArray[np.float64]:
        """[count, D]"""
        normals = stream(seed, self.name, "pcme").standard_normal((count, len(self.mean)))
        return np.asarray(self.mean + np.exp(self.log_deviation.astype(np.float64)) * normals)


def match_probability(
    query: Gaussian, document: Gaussian, a: float, b: float, *, released: bool = True, samples: int = SAMPLES
) -> float:
    """In (0, 1). a, b: learned with the embeddings."""
    one, other = query.samples(samples), document.samples(samples)
    distances = np.sqrt(((one[:, None] - other) ** 2).sum(axis=2) + 1e-6)
    logits = (b - a * distances) * (2 if released else 1)
    return float((1 / (1 + np.exp(-logits))).mean())

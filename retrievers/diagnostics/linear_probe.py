"""A linear probe on a pool, with label texts as extra shots (Lin et al., CVPR 2023): a baseline that uses no prompt.

    logits = 100 W x,    loss = (mean CE(images) + mean CE(texts)) / 2 + decay ||W||^2,    no bias, unit x

Images and texts weigh half and half whatever their numbers; summed over all rows instead, the more numerous decide.
Solved to convergence from zero, so it is deterministic; with fewer rows than entries in the rows' own span, where the
best weights lie. What a model adds is what it
scores beyond such a probe and beyond the vote of its demonstrations.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from icl.errors import PlanError
from retrievers.machinery.vector_math import Vectors

SCALE, DECAY = 100.0, 1e-4

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Probe:
    """labels: the classes in order; weights: [C, D]."""

    labels: tuple[str, ...]
    weights: Floats

    def probabilities(self, rows: Vectors) -> Floats:
        """[N, D] unit rows -> [N, C]."""
        return np.exp(_log_softmax(SCALE * rows @ self.weights.T))

    def predict(self, rows: Vectors) -> list[str]:
        """The likeliest class of each row; the first in order of equals."""
        return [self.labels[i] for i in self.probabilities(rows).argmax(axis=1)]


def fit_probe(
    images: Vectors, labels: Sequence[str], texts: Vectors | None = None, text_labels: Sequence[str] = ()
) -> Probe:
    """images: [N, D]; texts: [M, D] in the same space, with the classes that they name.

    Raises PlanError where there is one class, or a text of a class without images.
    """
    from scipy.optimize import minimize

    classes = tuple(dict.fromkeys(labels))
    if len(classes) < 2:
        raise PlanError(f"a probe needs two labels or more, and all {len(labels)} examples have {classes}.")
    strange = sorted(set(text_labels) - set(classes))
    if strange:
        raise PlanError(f"there are texts of {strange[:3]} and no image with such a label.")
    groups = [(images, labels)] if texts is None or not len(texts) else [(images, labels), (texts, text_labels)]
    place = {name: i for i, name in enumerate(classes)}
    known = [(rows.astype(np.float64), np.array([place[label] for label in own])) for rows, own in groups]
    basis = np.eye(images.shape[1])
    if sum(len(rows) for rows, _ in known) < images.shape[1]:
        basis = np.linalg.qr(np.vstack([rows for rows, _ in known]).T)[0]
        known = [(rows @ basis, own) for rows, own in known]
    shape = len(classes), basis.shape[1]

    def loss(flat: Floats) -> tuple[float, Floats]:
        weights = flat.reshape(shape)
        total, slope = DECAY * float((weights**2).sum()), 2 * DECAY * weights
        for rows, own in known:
            told, each = _log_softmax(SCALE * rows @ weights.T), np.arange(len(rows))
            total -= float(told[each, own].mean()) / len(known)
            miss = np.exp(told)
            miss[each, own] -= 1
            slope = slope + SCALE * miss.T @ rows / len(rows) / len(known)
        return total, slope.ravel()

    found = minimize(loss, np.zeros(shape[0] * shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 2000})
    return Probe(classes, np.asarray(found.x, dtype=np.float64).reshape(shape) @ basis.T)


def _log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))

"""A linear probe on a pool, with label texts as extra shots (Lin et al., CVPR 2023): a baseline without a prompt.

    logits = 100 W x,    loss = (mean CE(images) + mean CE(texts)) / 2 + decay ||W||^2,    no bias, unit x

Images and texts have equal weights for any numbers of rows; in a sum over all rows, the larger group would decide. The
optimization starts at zero and converges, so it is deterministic. With fewer rows than entries, it runs in the span of
the rows, which contains the optimum. A model's contribution is its score beyond this probe and beyond the vote of its
demonstrations.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from icl import PlanError, scipy
from retrievers import Vectors, normalize_rows

SCALE, DECAY = 100.0, 1e-4

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Probe:
    """A trained linear probe. labels: the classes in order; weights: [C, D]."""

    labels: tuple[str, ...]
    weights: Floats

    def probabilities(self, rows: Vectors) -> Floats:
        """Class probabilities: [N, D] unit rows -> [N, C]."""
        return np.exp(scipy.special.log_softmax(SCALE * rows @ self.weights.T, axis=1))

    def predict(self, rows: Vectors) -> list[str]:
        """The most probable class of each row; of equals, the first."""
        return [self.labels[i] for i in self.probabilities(rows).argmax(axis=1)]


def fit_probe(
    images: Vectors, labels: Sequence[str], texts: Vectors | None = None, text_labels: Sequence[str] = ()
) -> Probe:
    """Train a probe.

    Args:
        images: [N, D], unit rows with their labels.
        texts: [M, D], unit rows in the same space with their labels.

    Raises:
        PlanError: There is only one class, or a text has a class without images.
    """
    classes = tuple(dict.fromkeys(labels))
    if len(classes) < 2:
        raise PlanError(f"a probe needs two labels or more, and all {len(labels)} examples have {classes}.")
    unknown = sorted(set(text_labels) - set(classes))
    if unknown:
        raise PlanError(f"there are texts of {unknown[:3]} and no image with such a label.")
    groups = [(images, labels)] if texts is None or not len(texts) else [(images, labels), (texts, text_labels)]
    class_index = {name: i for i, name in enumerate(classes)}
    data = [(rows.astype(np.float64), np.array([class_index[label] for label in own])) for rows, own in groups]
    basis = np.eye(images.shape[1])
    if sum(len(rows) for rows, _ in data) < images.shape[1]:
        basis = np.linalg.qr(np.vstack([rows for rows, _ in data]).T)[0]
        data = [(rows @ basis, targets) for rows, targets in data]
    shape = len(classes), basis.shape[1]

    def loss(flat: Floats) -> tuple[float, Floats]:
        weights = flat.reshape(shape)
        total, gradient = DECAY * float((weights**2).sum()), 2 * DECAY * weights
        for rows, targets in data:
            logprobs, indices = scipy.special.log_softmax(SCALE * rows @ weights.T, axis=1), np.arange(len(rows))
            total -= float(logprobs[indices, targets].mean()) / len(data)
            errors = np.exp(logprobs)
            errors[indices, targets] -= 1
            gradient = gradient + SCALE * errors.T @ rows / len(rows) / len(data)
        return total, gradient.ravel()

    optimum = scipy.optimize.minimize(
        loss, np.zeros(shape[0] * shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 2000}
    )
    return Probe(classes, np.asarray(optimum.x, dtype=np.float64).reshape(shape) @ basis.T)


def cross_validated(rows: Vectors, labels: Sequence[str], folds: Sequence[int]) -> list[str]:
    """The label that a probe on the other folds gives each row.

    Rows are centered on the mean of those other folds and scaled to unit length, so that neither a large common part
    nor the length decides.

    Args:
        rows: [N, D].
        labels: The label of each row.
        folds: The fold of each row.

    Raises:
        PlanError: The other folds of one have only one label.
    """
    predicted = np.empty(len(rows), dtype=object)
    own = np.asarray(folds)
    for fold in sorted(set(folds)):
        fitted = own != fold
        unit = normalize_rows(rows - rows[fitted].mean(axis=0))
        probe = fit_probe(unit[fitted], [label for label, chosen in zip(labels, fitted, strict=True) if chosen])
        predicted[~fitted] = probe.predict(unit[~fitted])
    return list(predicted)

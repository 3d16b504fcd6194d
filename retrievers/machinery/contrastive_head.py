"""A class-conditioned contrastive head over frozen embeddings (after CCI, Zhou et al. 2024).

    z = unit(W x),    W = I before training
    L_i = - mean over p in P(i) of  log[ exp(z_i z_p / t) / sum over a in A(i) of exp(z_i z_a / t) ]

P(i) are rows of i's class from another domain, or of its class at all where no other domain has it. A(i) is P(i) and
the other classes: rows of i's class that are not in P(i) would be pushed away by the sum. Anchors without a positive
are left out of the mean. A reconstruction: the paper's negatives, temperature and schedule are not published. Other
readings: positives `class` (all of the class), sum over `all_rows`; both together are the supervised contrastive loss.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from icl.errors import DataError, PlanError
from retrievers.machinery.trained_heads import check_width
from retrievers.machinery.vector_math import Vectors, normalize_rows

if TYPE_CHECKING:
    from torch import Tensor

Positives = Literal["other_domains", "class"]
Sum = Literal["positives_and_others", "all_rows"]


@dataclass(frozen=True)
class HeadTraining:
    """How a head is trained. Full gradients up to `batch` rows, else batches drawn from the seed."""

    steps: int = 100
    rate: float = 1e-3
    temperature: float = 0.1
    positives: Positives = "other_domains"
    sum_over: Sum = "positives_and_others"
    pull: float = 0.0  # weight of ||W - I||^2, which holds the head near the identity
    batch: int = 1024
    seed: int = 0


@dataclass(frozen=True, eq=False)
class ContrastiveHead:
    """weights: [D, D]. embedder: the digest of what it was trained on. domains: that it saw."""

    weights: Vectors
    embedder: str
    domains: tuple[str, ...] = ()

    def __call__(self, vectors: Vectors) -> Vectors:
        """[N, D] unit rows -> [N, D] unit rows."""
        check_width("the head", self.weights.shape[1], vectors)
        if np.array_equal(self.weights, np.eye(len(self.weights))):
            return vectors
        return normalize_rows(vectors @ self.weights.T)

    def save(self, path: str | Path) -> None:
        """One safetensors file with the embedder's digest and the domains in its metadata."""
        from safetensors.numpy import save_file

        told = {"embedder": self.embedder, "domains": json.dumps(self.domains), "format": "mm-icl head 1"}
        save_file({"weights": np.ascontiguousarray(self.weights)}, path, metadata=told)

    @classmethod
    def load(cls, path: str | Path) -> "ContrastiveHead":
        """Raises DataError where the file is no head."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                told = file.metadata() or {}
                weights = np.asarray(file.get_tensor("weights"), dtype=np.float32)
            return cls(weights, told["embedder"], tuple(json.loads(told["domains"])))
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise DataError(f"{path} is not a saved head ({type(error).__name__}: {error}).") from error


def train_head(
    vectors: Vectors,
    labels: Sequence[str],
    domains: Sequence[str | None],
    embedder: str = "",
    training: HeadTraining | None = None,
) -> ContrastiveHead:
    """Raises PlanError where no two rows share a label, or all do. vectors: [N, D] unit rows."""
    import torch

    training = training or HeadTraining()
    if len(set(labels)) < 2:
        raise PlanError(f"a head needs two labels or more to tell apart, and its {len(labels)} examples have one.")
    if len(set(labels)) == len(labels):
        raise PlanError(f"a head needs labels with two examples or more; each of the {len(labels)} has its own.")
    classes, places = _numbers(labels), _numbers(domains)
    rows = torch.from_numpy(np.ascontiguousarray(vectors))
    identity = torch.eye(vectors.shape[1])
    weights = identity.clone().requires_grad_()
    optimizer = torch.optim.Adam([weights], lr=training.rate)
    rng = np.random.Generator(np.random.Philox(training.seed))
    for _ in range(training.steps):
        some = _batch(rng, len(rows), training.batch)
        projected = torch.nn.functional.normalize(rows[some] @ weights.T, dim=1)
        loss = contrastive_loss(projected, classes[some], places[some], training)
        optimizer.zero_grad()
        (loss + training.pull * (weights - identity).square().sum()).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    seen = tuple(sorted({domain for domain in domains if domain is not None}))
    return ContrastiveHead(weights.detach().numpy().astype(np.float32), embedder, seen)


def contrastive_loss(rows: "Tensor", classes: "Tensor", domains: "Tensor", training: HeadTraining) -> "Tensor":
    """rows: [N, D] unit; classes, domains: [N] long. The mean over anchors with a positive; 0 where there is none."""
    import torch

    same = classes[:, None] == classes
    itself = torch.eye(len(rows), dtype=torch.bool)
    across = same & (domains[:, None] != domains)
    crossed = across.any(dim=1, keepdim=True) & (training.positives == "other_domains")
    positives = torch.where(crossed, across, same & ~itself)
    counted = positives | ~same if training.sum_over == "positives_and_others" else ~itself
    scores = rows @ rows.T / training.temperature
    below = scores.masked_fill(~counted, -torch.inf).logsumexp(dim=1, keepdim=True)
    told = torch.where(positives, below - scores, 0.0).sum(dim=1)
    count = positives.sum(dim=1)
    kept = count > 0
    return (told[kept] / count[kept]).mean() if bool(kept.any()) else rows.sum() * 0


def _numbers(values: Sequence[str | None]) -> "Tensor":
    import torch

    order = {value: i for i, value in enumerate(dict.fromkeys(values))}
    return torch.tensor([order[value] for value in values])


def _batch(rng: np.random.Generator, size: int, limit: int) -> "Tensor":
    import torch

    return torch.arange(size) if size <= limit else torch.from_numpy(rng.permutation(size)[:limit])

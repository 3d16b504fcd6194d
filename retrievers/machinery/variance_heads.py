"""Variance heads: the uncertainty of embeddings over frozen vectors (PCME, Chun et al., CVPR 2021).

    z = mu + exp(s) eps,    mu = x,    s = V x + c (within -20 and 5),    V = 0 and c = `start` before training

    loss = half the mean of -log p over pairs that match + half the mean of -log(1 - p) over those that do not
           + prior * KL,    KL = -mean(1 + s - mu^2 - exp(s)) / 2

p is the match probability below (`GaussianEmbeddings`). Its a and b are parameters, or are learned with
the heads. The means come from the encoder, so with small and equal deviations the ranking equals the cosine's. The
KL term treats s as a log variance, as the released code does.

This is a reconstruction: the paper trains the encoders too. The equal weight of matches and non-matches, the steps, the
learning rate and the start values are not from the paper.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icl import DataError, PlanError, Tensor, stream, torch
from retrievers.base import Vectors
from retrievers.machinery.trained_heads import check_width, load_head, save_head

FORMAT = "mm-icl spreads 2"
A, B = 10.0, 10.0
"""The start values of a and b."""

MIN_A = 1e-3
"""The lower bound of a. A member farther away is never a more probable match."""

MIN_LOG_DEVIATION, MAX_LOG_DEVIATION = -20.0, 5.0
"""Bounds of s: a point, and more than the whole sphere. Values beyond them only risk an overflow."""

AB_RATE_FACTOR = 10.0
"""The learning rate of a and b, relative to the heads' learning rate."""


@dataclass(frozen=True)
class VarianceTraining:
    """The settings of training. a, b: fixed values; None: learned. batch: pairs per step."""

    steps: int = 100
    rate: float = 0.01
    start: float = -4.0
    a: float | None = None
    b: float | None = None
    released: bool = True
    prior: float = 1e-5
    batch: int = 128
    seed: int = 0


# Match probability of probabilistic embeddings (PCME, Chun et al., CVPR 2021).
#
#     p(match) = mean over all pairs of samples of  sigmoid(-a || z_q - z_d || + b),    z = mu + exp(s) eps
#
# s is a log standard deviation, the distance is sqrt(sum of squares + 1e-6), and each side has 7 samples. The sigmoid
# of the released code is exp(x) / (exp(x) + exp(-x)) = logistic(2x), not logistic(x); `released` selects it. a and b
# are learned and have no defaults. The normals come from a stream of each item, so they do not depend on the batch.


Floats = NDArray[np.float64]


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


@dataclass(frozen=True, eq=False)
class VarianceHead:
    """The variance head of one modality. weights: [D, D]; bias: [D]."""

    weights: Vectors
    bias: Vectors

    def __call__(self, rows: Vectors) -> GaussianEmbeddings:
        """Gaussian embeddings with these means: [N, D] unit rows."""
        check_width("the variance head", len(self.bias), rows)
        exact = rows.astype(np.float64)  # row by row: other items cannot change a row
        log_deviations = (
            np.array([self.weights.astype(np.float64) @ row for row in exact]).reshape(rows.shape) + self.bias
        )
        return GaussianEmbeddings(rows, log_deviations.clip(MIN_LOG_DEVIATION, MAX_LOG_DEVIATION).astype(np.float32))


@dataclass(frozen=True, eq=False)
class VarianceHeads:
    """The variance heads of images and texts, and the parameters of the match probability.

    texts: None if images were paired with images. embedder: the digest of the embedder of the training data.
    """

    images: VarianceHead
    texts: VarianceHead | None
    a: float
    b: float
    released: bool
    embedder: str

    def save(self, path: str | Path) -> None:
        """Write a safetensors file with a, b and the embedder's digest in its metadata."""
        metadata = {"embedder": self.embedder, "format": FORMAT}
        metadata["said"] = json.dumps({"a": self.a, "b": self.b, "released": self.released})
        parts = {"images": self.images, "texts": self.texts}
        tensors = {
            f"{name}.{what}": getattr(part, what)
            for name, part in parts.items()
            if part is not None
            for what in ("weights", "bias")
        }
        save_head(path, tensors, metadata)

    @classmethod
    def load(cls, path: str | Path) -> "VarianceHeads":
        """Read a file that `save` wrote. Raises DataError if it has no variance heads, or is damaged."""
        tensors, metadata = load_head(path, "a file of variance heads")
        try:
            parts = [
                VarianceHead(tensors[f"{name}.weights"], tensors[f"{name}.bias"])
                for name in ("images", "texts")
                if name == "images" or f"{name}.bias" in tensors
            ]
            if metadata["format"] != FORMAT:
                raise ValueError(f"its format is {metadata['format']!r}")
            parameters = json.loads(metadata["said"])
            texts = parts[1] if len(parts) > 1 else None
            return cls(parts[0], texts, parameters["a"], parameters["b"], parameters["released"], metadata["embedder"])
        except (KeyError, ValueError, TypeError) as error:
            raise DataError(f"{path} has no variance heads ({type(error).__name__}: {error}).") from error


def fit_variance_heads(
    images: Vectors,
    names: Sequence[str],
    texts: Vectors | None = None,
    embedder: str = "",
    training: VarianceTraining | None = None,
) -> VarianceHeads:
    """Train heads on pairs of an image and its text, or without texts on pairs of images.

    Args:
        images: [N, D], unit rows.
        names: [N]; two rows match if their names are equal.
        texts: [N, D], unit rows in the space of the images.
        embedder: The digest of the embedder.

    Raises:
        PlanError: All pairs match, or (without texts) none does.
    """
    training = training or VarianceTraining()
    _check(names, alone=texts is None)
    numbers = {name: i for i, name in enumerate(dict.fromkeys(names))}
    classes = torch.tensor([numbers[name] for name in names])
    sides = [torch.from_numpy(np.ascontiguousarray(rows)) for rows in (images, texts) if rows is not None]
    dim = images.shape[1]
    heads = [(torch.zeros(dim, dim), torch.full((dim,), training.start)) for _ in sides]
    weights = [part.requires_grad_() for head in heads for part in head]
    scale = [
        torch.tensor(A if training.a is None else training.a),
        torch.tensor(B if training.b is None else training.b),
    ]
    learned = [
        parameter.requires_grad_()
        for parameter, fixed in zip(scale, (training.a, training.b), strict=True)
        if fixed is None
    ]
    groups: list[dict[str, Any]] = [{"params": weights}]
    groups += [{"params": learned, "lr": AB_RATE_FACTOR * training.rate}] if learned else []
    optimizer = torch.optim.Adam(groups, lr=training.rate)
    rng = np.random.Generator(np.random.Philox(training.seed))
    for _ in range(training.steps):
        batch = torch.from_numpy(np.sort(rng.permutation(len(classes))[: training.batch]))
        rows = [
            (side[batch], (side[batch] @ head[0].T + head[1]).clamp(MIN_LOG_DEVIATION, MAX_LOG_DEVIATION))
            for side, head in zip(sides, heads, strict=True)
        ]
        samples = [
            _sample(mean, log_deviation, rng) for mean, log_deviation in (rows if texts is not None else rows * 2)
        ]
        loss = soft_contrastive(samples[0], samples[1], classes[batch], scale, training.released, alone=texts is None)
        prior = sum(-(1 + s - mean.square() - s.exp()).mean() / 2 for mean, s in rows)
        optimizer.zero_grad()
        (loss + training.prior * prior).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        scale[0].detach().clamp_(min=MIN_A)
    trained = [VarianceHead(weight.detach().numpy(), bias.detach().numpy()) for weight, bias in heads]
    a, b = (float(parameter.detach()) for parameter in scale)
    return VarianceHeads(trained[0], trained[1] if len(trained) > 1 else None, a, b, training.released, embedder)


def soft_contrastive(
    one: Tensor, other: Tensor, classes: Tensor, scale: Sequence[Tensor], released: bool, *, alone: bool
) -> Tensor:
    """The soft contrastive loss over all pairs of rows.

    one, other: [N, S, D] samples; classes: [N]. alone: both are the same rows, and no row is paired with itself.
    """
    (count, samples, dim), (a, b) = one.shape, scale
    flat = one.reshape(-1, dim), other.reshape(-1, dim)
    squares = flat[0].square().sum(1)[:, None] + flat[1].square().sum(1) - 2 * flat[0] @ flat[1].T
    logits = (b - a * (squares.clamp(min=0) + 1e-6).sqrt()) * (2 if released else 1)
    by_pair = logits.reshape(count, samples, count, samples).permute(0, 2, 1, 3).flatten(2)
    yes, no = (torch.nn.functional.logsigmoid(sign * by_pair).logsumexp(2) for sign in (1, -1))
    matched = classes[:, None] == classes
    counted = ~torch.eye(count, dtype=torch.bool) if alone else torch.ones_like(matched)
    losses = [-logprobs[which & counted] for logprobs, which in ((yes, matched), (no, ~matched))]
    pairs = float(np.log(samples * samples))
    return sum((part.mean() + pairs) / 2 for part in losses if len(part)) + by_pair.sum() * 0


def _sample(mean: Tensor, log_deviation: Tensor, rng: np.random.Generator) -> Tensor:
    """Samples of Gaussians: [N, D] and [N, D] -> [N, SAMPLES, D]."""
    normals = torch.from_numpy(rng.standard_normal((len(mean), SAMPLES, mean.shape[1]), dtype=np.float32))
    return mean[:, None] + log_deviation.exp()[:, None] * normals


def _check(names: Sequence[str], *, alone: bool) -> None:
    if len(set(names)) < 2:
        raise PlanError(
            f"variance heads learn from pairs that match and pairs that do not, and all {len(names)} examples with an "
            f"image say the same ({next(iter(names), 'there are none')!r}). Use the retriever 'knn'."
        )
    if alone and len(set(names)) == len(names):
        raise PlanError(
            f"variance heads over labels need labels with two examples or more; each of the {len(names)} has its own. "
            f"Pair images with their answers."
        )


SAMPLES = 7


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

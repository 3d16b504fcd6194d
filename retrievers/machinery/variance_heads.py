"""How uncertain an embedding is: variance heads over frozen vectors (PCME, Chun et al., CVPR 2021).

    z = mu + exp(s) eps,    mu = x,    s = V x + c (within -20 and 5),    V = 0 and c = `start` before training

    loss = half the mean of -log p over pairs that match + half the mean of -log(1 - p) over those that do not
           + prior * KL,    KL = -mean(1 + s - mu^2 - exp(s)) / 2

p is the match probability of `retrievers.machinery.match_probability`; its a and b are learned beside the heads, or
given. The means stay those of the encoder, so that with all spreads small and alike the ranking is that of cosine. The
KL term reads s as a log variance, as the released code does. A reconstruction: the paper trains the encoders too, and
how it weighs matches against the far more numerous rest, the steps, the rate and the starts are not its own.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from icl.errors import DataError, PlanError
from retrievers.machinery.match_probability import SAMPLES, GaussianEmbeddings
from retrievers.machinery.trained_heads import check_width
from retrievers.machinery.vector_math import Vectors

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = "mm-icl spreads 1"
A, B = 10.0, 10.0
"""Where learning of a and b starts."""

SMALLEST = 1e-3
"""Of a: what is farther is never the more probable match."""

LEAST, MOST = -20.0, 5.0
"""Bounds of s: a point, and more than the whole sphere. Beyond them nothing changes but the risk of an overflow."""

FASTER = 10.0
"""The rate of a and b, in rates of the heads."""


@dataclass(frozen=True)
class VarianceTraining:
    """How heads are trained. a, b: given instead of learned. batch: pairs drawn for a step."""

    steps: int = 100
    rate: float = 0.01
    start: float = -4.0
    a: float | None = None
    b: float | None = None
    released: bool = True
    prior: float = 1e-5
    batch: int = 128
    seed: int = 0


@dataclass(frozen=True, eq=False)
class VarianceHead:
    """The head of one modality. weights: [D, D]; bias: [D]."""

    weights: Vectors
    bias: Vectors

    def __call__(self, rows: Vectors) -> GaussianEmbeddings:
        """[N, D] unit rows -> as many GaussianEmbeddings around them."""
        check_width("the variance head", len(self.bias), rows)
        exact = rows.astype(np.float64)  # row by row, so that what stands beside an item changes nothing
        spread = np.array([self.weights.astype(np.float64) @ row for row in exact]).reshape(rows.shape) + self.bias
        return GaussianEmbeddings(rows, spread.clip(LEAST, MOST).astype(np.float32))


@dataclass(frozen=True, eq=False)
class VarianceHeads:
    """texts: None where images were paired with images. embedder: the digest of what they were trained on."""

    images: VarianceHead
    texts: VarianceHead | None
    a: float
    b: float
    released: bool
    embedder: str

    def save(self, path: str | Path) -> None:
        """One safetensors file, with a, b and the embedder's digest in its metadata."""
        from safetensors.numpy import save_file

        told = {"embedder": self.embedder, "format": FORMAT}
        told["said"] = json.dumps({"a": self.a, "b": self.b, "released": self.released})
        parts = {"images": self.images, "texts": self.texts}
        tensors = {
            f"{name}.{what}": np.ascontiguousarray(getattr(part, what))
            for name, part in parts.items()
            if part is not None
            for what in ("weights", "bias")
        }
        save_file(tensors, path, metadata=told)

    @classmethod
    def load(cls, path: str | Path) -> "VarianceHeads":
        """Raises DataError where the file holds no variance heads."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                told, names = file.metadata() or {}, set(file.keys())
                parts = [
                    VarianceHead(file.get_tensor(f"{name}.weights"), file.get_tensor(f"{name}.bias"))
                    for name in ("images", "texts")
                    if name == "images" or f"{name}.bias" in names
                ]
            if told["format"] != FORMAT:
                raise ValueError(f"its format is {told['format']!r}")
            said = json.loads(told["said"])
            texts = parts[1] if len(parts) > 1 else None
            return cls(parts[0], texts, said["a"], said["b"], said["released"], told["embedder"])
        except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
            raise DataError(f"{path} holds no variance heads ({type(error).__name__}: {error}).") from error


def fit_variance_heads(
    images: Vectors,
    names: Sequence[str],
    texts: Vectors | None = None,
    embedder: str = "",
    fitting: VarianceTraining | None = None,
) -> VarianceHeads:
    """Heads from pairs of an image and its text, or without texts from images of one name.

    images, texts: [N, D] unit rows of one space, a row a pair; names: what tells whether two rows match. Raises
    PlanError where all pairs match, or (without texts) none does.
    """
    import torch

    fitting = fitting or VarianceTraining()
    _check(names, alone=texts is None)
    numbers = {name: i for i, name in enumerate(dict.fromkeys(names))}
    classes = torch.tensor([numbers[name] for name in names])
    sides = [torch.from_numpy(np.ascontiguousarray(rows)) for rows in (images, texts) if rows is not None]
    dim = images.shape[1]
    heads = [(torch.zeros(dim, dim), torch.full((dim,), fitting.start)) for _ in sides]
    weights = [part.requires_grad_() for head in heads for part in head]
    scale = [torch.tensor(A if fitting.a is None else fitting.a), torch.tensor(B if fitting.b is None else fitting.b)]
    learned = [one.requires_grad_() for one, given in zip(scale, (fitting.a, fitting.b), strict=True) if given is None]
    groups: list[dict[str, Any]] = [{"params": weights}]
    groups += [{"params": learned, "lr": FASTER * fitting.rate}] if learned else []
    optimizer = torch.optim.Adam(groups, lr=fitting.rate)
    rng = np.random.Generator(np.random.Philox(fitting.seed))
    for _ in range(fitting.steps):
        some = torch.from_numpy(np.sort(rng.permutation(len(classes))[: fitting.batch]))
        rows = [
            (side[some], (side[some] @ head[0].T + head[1]).clamp(LEAST, MOST))
            for side, head in zip(sides, heads, strict=True)
        ]
        drawn = [_drawn(mean, spread, rng) for mean, spread in (rows if texts is not None else rows * 2)]
        loss = soft_contrastive(drawn[0], drawn[1], classes[some], scale, fitting.released, alone=texts is None)
        prior = sum(-(1 + s - mean.square() - s.exp()).mean() / 2 for mean, s in rows)
        optimizer.zero_grad()
        (loss + fitting.prior * prior).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        scale[0].detach().clamp_(min=SMALLEST)
    told = [VarianceHead(weight.detach().numpy(), bias.detach().numpy()) for weight, bias in heads]
    a, b = (float(one.detach()) for one in scale)
    return VarianceHeads(told[0], told[1] if len(told) > 1 else None, a, b, fitting.released, embedder)


def soft_contrastive(
    one: "Tensor", other: "Tensor", classes: "Tensor", scale: "Sequence[Tensor]", released: bool, *, alone: bool
) -> "Tensor":
    """one, other: [N, S, D] samples; classes: [N]. alone: both are the same rows, and no row pairs with itself."""
    import torch

    (count, samples, dim), (a, b) = one.shape, scale
    flat = one.reshape(-1, dim), other.reshape(-1, dim)
    squares = flat[0].square().sum(1)[:, None] + flat[1].square().sum(1) - 2 * flat[0] @ flat[1].T
    logits = (b - a * (squares.clamp(min=0) + 1e-6).sqrt()) * (2 if released else 1)
    by_pair = logits.reshape(count, samples, count, samples).permute(0, 2, 1, 3).flatten(2)
    yes, no = (torch.nn.functional.logsigmoid(sign * by_pair).logsumexp(2) for sign in (1, -1))
    matched = classes[:, None] == classes
    counted = ~torch.eye(count, dtype=torch.bool) if alone else torch.ones_like(matched)
    each = [-told[which & counted] for told, which in ((yes, matched), (no, ~matched))]
    pairs = float(np.log(samples * samples))
    return sum((part.mean() + pairs) / 2 for part in each if len(part)) + by_pair.sum() * 0


def _drawn(mean: "Tensor", spread: "Tensor", rng: np.random.Generator) -> "Tensor":
    """[N, D] and [N, D] -> [N, SAMPLES, D]"""
    import torch

    normals = torch.from_numpy(rng.standard_normal((len(mean), SAMPLES, mean.shape[1]), dtype=np.float32))
    return mean[:, None] + spread.exp()[:, None] * normals


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

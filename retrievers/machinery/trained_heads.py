"""Trained heads: their files, checks that a head matches an embedder, and the contrastive head."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from icl import DataError, PlanError, Tensor, safetensors, torch
from retrievers.base import Vectors, normalize_rows

CHECKSUM = "checksum"
"""Metadata key of the sha256 of everything else in the file."""


def check_embedder(what: str, trained_on: str, embedder: str) -> None:
    """Checks that a head was trained on this embedder.

    Args:
        what: The head and its file, for the error message.
        trained_on: Digest of the embedder that the head was trained on.
        embedder: Digest of the embedder.

    Raises:
        PlanError: The digests differ.
    """
    if trained_on != embedder:
        raise PlanError(
            f"{what} was trained with another embedder ({trained_on[:24]}, not {embedder[:24]}). Train a head with "
            "this embedder."
        )


def save_head(path: str | Path, tensors: Mapping[str, Vectors], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file. Its metadata contain a checksum of the tensors and of the other metadata.

    The library writes the metadata in a random order. Here equal content is an equal file.
    """
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    content = safetensors.numpy.save(dict(tensors), metadata={**metadata, CHECKSUM: _checksum(tensors, metadata)})
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:start]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    Path(path).write_bytes(len(header).to_bytes(8, "little") + header + content[start:])


def load_head(
    path: str | Path, what: str, remedy: str = "Copy it or train it again."
) -> tuple[dict[str, Vectors], dict[str, str]]:
    """The tensors and the metadata of a file that `save_head` wrote.

    Args:
        what: What the file should be, for the error: 'a saved head'.
        remedy: What to do about a damaged file, for the error.

    Raises:
        DataError: It is another file, or its content does not match its checksum.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata: dict[str, str] = dict(file.metadata() or {})
            tensors = {name: np.asarray(file.get_tensor(name), dtype=np.float32) for name in file.keys()}  # noqa: SIM118
        checksum = metadata.pop(CHECKSUM)
    except (OSError, safetensors.SafetensorError, KeyError, ValueError) as error:
        raise DataError(f"{path} is not {what} ({type(error).__name__}: {error}). {remedy}") from error
    if checksum != _checksum(tensors, metadata):
        raise DataError(f"{path} is damaged: its content does not match its checksum. {remedy}")
    return tensors, metadata


def _checksum(tensors: Mapping[str, Vectors], metadata: Mapping[str, str]) -> str:
    digest = sha256(repr(sorted(metadata.items())).encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tensors[name].shape}".encode())
        digest.update(tensors[name].tobytes())
    return digest.hexdigest()


def check_width(what: str, dimensions: int, vectors: Vectors) -> None:
    """Raises DataError if the vectors do not have the number of dimensions that a head expects."""
    if vectors.shape[1] != dimensions:
        raise DataError(
            f"{what} expects vectors with {dimensions} dimensions, but the embedder returns {vectors.shape[1]}. "
            "Train a head with this embedder."
        )


# A class-conditioned contrastive head over frozen embeddings (after CCI, Zhou et al. 2024).
#
#     z = unit(W x),    W = I before training
#     L_i = - mean over p in P(i) of  log[ exp(z_i z_p / t) / sum over a in A(i) of exp(z_i z_a / t) ]
#
# P(i) are the rows of i's class from other domains, or all rows of its class if no other domain has the class. A(i)
# is P(i) and all other classes; other rows of i's class are excluded, because the sum would push them away. The mean
# excludes anchors without a positive. This is a reconstruction: the paper does not publish its negatives, temperature
# and schedule. The alternatives are positives `class` (all of the class) and sum over `all_rows`; both together are
# the supervised contrastive loss.


Positives = Literal["other_domains", "class"]
Sum = Literal["positives_and_others", "all_rows"]


@dataclass(frozen=True)
class HeadTraining:
    """The settings of training. Gradients are full up to `batch` rows; above, batches are drawn from the seed."""

    steps: int = 100
    rate: float = 1e-3
    temperature: float = 0.1
    positives: Positives = "other_domains"
    sum_over: Sum = "positives_and_others"
    pull: float = 0.0  # weight of ||W - I||^2, which keeps the head near the identity
    batch: int = 1024
    seed: int = 0


@dataclass(frozen=True, eq=False)
class ContrastiveHead:
    """A linear head over unit vectors.

    weights: [D, D]. embedder: the digest of the embedder of the training data. domains: the training domains.
    """

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
        """Write a safetensors file with the embedder's digest and the domains in its metadata."""
        metadata = {"embedder": self.embedder, "domains": json.dumps(self.domains), "format": "mm-icl head 2"}
        save_head(path, {"weights": self.weights}, metadata)

    @classmethod
    def load(cls, path: str | Path) -> "ContrastiveHead":
        """Read a file that `save` wrote. Raises DataError if it is not a head, or is damaged."""
        tensors, metadata = load_head(path, "a saved head")
        try:
            return cls(tensors["weights"], metadata["embedder"], tuple(json.loads(metadata["domains"])))
        except (KeyError, ValueError) as error:
            raise DataError(f"{path} is not a saved head ({type(error).__name__}: {error}).") from error


def train_head(
    vectors: Vectors,
    labels: Sequence[str],
    domains: Sequence[str | None],
    embedder: str = "",
    training: HeadTraining | None = None,
) -> ContrastiveHead:
    """Train a head on vectors [N, D], unit rows. Raises PlanError if no two rows share a label, or all do."""
    training = training or HeadTraining()
    if len(set(labels)) < 2:
        raise PlanError(f"a head needs two labels or more to tell apart, and its {len(labels)} examples have one.")
    if len(set(labels)) == len(labels):
        raise PlanError(f"a head needs labels with two examples or more; each of the {len(labels)} has its own.")
    class_ids, domain_ids = _numbers(labels), _numbers(domains)
    rows = torch.from_numpy(np.ascontiguousarray(vectors))
    identity = torch.eye(vectors.shape[1])
    weights = identity.clone().requires_grad_()
    optimizer = torch.optim.Adam([weights], lr=training.rate)
    rng = np.random.Generator(np.random.Philox(training.seed))
    for _ in range(training.steps):
        batch = _batch(rng, len(rows), training.batch)
        projected = torch.nn.functional.normalize(rows[batch] @ weights.T, dim=1)
        loss = contrastive_loss(projected, class_ids[batch], domain_ids[batch], training)
        optimizer.zero_grad()
        (loss + training.pull * (weights - identity).square().sum()).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    training_domains = tuple(sorted({domain for domain in domains if domain is not None}))
    return ContrastiveHead(weights.detach().numpy().astype(np.float32), embedder, training_domains)


def contrastive_loss(rows: Tensor, classes: Tensor, domains: Tensor, training: HeadTraining) -> Tensor:
    """The mean loss over anchors with a positive; 0 without such anchors.

    rows: [N, D], unit rows. classes, domains: [N] long.
    """
    same = classes[:, None] == classes
    itself = torch.eye(len(rows), dtype=torch.bool)
    cross_domain = same & (domains[:, None] != domains)
    use_cross_domain = cross_domain.any(dim=1, keepdim=True) & (training.positives == "other_domains")
    positives = torch.where(use_cross_domain, cross_domain, same & ~itself)
    counted = positives | ~same if training.sum_over == "positives_and_others" else ~itself
    scores = rows @ rows.T / training.temperature
    denominators = scores.masked_fill(~counted, -torch.inf).logsumexp(dim=1, keepdim=True)
    losses = torch.where(positives, denominators - scores, 0.0).sum(dim=1)
    count = positives.sum(dim=1)
    has_positive = count > 0
    return (losses[has_positive] / count[has_positive]).mean() if bool(has_positive.any()) else rows.sum() * 0


def _numbers(values: Sequence[str | None]) -> Tensor:
    order = {value: i for i, value in enumerate(dict.fromkeys(values))}
    return torch.tensor([order[value] for value in values])


def _batch(rng: np.random.Generator, size: int, limit: int) -> Tensor:
    return torch.arange(size) if size <= limit else torch.from_numpy(rng.permutation(size)[:limit])


# The Banzhaf value of each demonstration, from scores of sets (Banzhaf 1965; Wang and Jia, AISTATS 2023).
#
#     value of e = mean over the sets S without e of  v(S + e) - v(S)
#
# Over all sets this equals the mean score of the sets with e minus the mean score of the sets without it. Random sets
# estimate both means, and each score is used for every member (maximum sample reuse).


def banzhaf_values(is_member: NDArray[np.bool_], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """The estimated values, [E]. NaN for a member that is in every set or in none.

    Args:
        is_member: [sets, E] whether a member is in a set.
        scores: [sets] finite scores.
    """
    with np.errstate(invalid="ignore"):
        with_member, without = (scores @ own / own.sum(axis=0) for own in (is_member, ~is_member))
    return np.asarray(with_member - without)


def complementary_sets(members: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Random sets and their complements, [sets, members]: about `members` sets, and each member is in half of them."""
    rows = rng.random((max(members // 2, 1), members)) < 0.5
    return np.vstack([rows, ~rows])

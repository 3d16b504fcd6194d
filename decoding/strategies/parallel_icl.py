"""Parallel-ICL (2603.16092): clusters of demonstrations read in parallel, weighted by their similarity to the query.

    chunks = k-means of the demonstrations' image vectors
    w = softmax(s / tau),      s_n = mean cosine of chunk n's images to the query's image
    scores = sum_n w_n l(y | chunk n, query)

The weights are multiples of 1 / `resolution`, because a chunk has as many branches as its share: that needs no state
and runs wherever `moicl` does. Equal branches share one prefill. The whole prompt is branch 0, for traces and controls,
and has no weight. Controls: `chunks: random`, `share: equal` (one branch per chunk, which is `moicl` with clustered
groups), `share: nearest` and the vote. One group is the whole prompt.

No released code: a reconstruction from the abstract. tau, the vectors and the number of chunks are not the paper's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from decoding.base import Note, Strategy, unit_strength
from decoding.prompt_edits import demonstrations, keep_demonstrations
from icl.constraints import Positive, PositiveInt
from icl.errors import PlanError
from icl.lru_cache_bytes import LRUByteCache
from icl.registry import build, component
from icl.types import Prompt, Query

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float64]

_VECTORS = LRUByteCache[tuple[str, tuple[str, ...]], Floats](32 * 2**20, lambda vector: vector.nbytes + 400)
"""The latest vectors of this process by embedder and images."""


def quantized_shares(weights: Floats, resolution: int) -> list[int]:
    """Whole numbers that sum to `resolution`, by the largest remainder. weights: [n], sum to one."""
    exact = weights * resolution
    counts = np.floor(exact + 1e-9).astype(int)
    missing = resolution - int(counts.sum())
    for place in np.argsort(-(exact - counts), kind="stable")[:missing]:
        counts[place] += 1
    return [int(count) for count in counts]


@component("strategy", "parallel_icl")
@dataclass(frozen=True)
class ParallelICL(Strategy):
    """Mixture of clusters of demonstrations, weighted by their similarity to the query's image."""

    groups: PositiveInt = 2  # number of chunks
    chunks: Literal["clustered", "consecutive", "random"] = "clustered"  # how demonstrations are divided
    share: Literal["similarity", "equal", "nearest"] = "similarity"  # weights of the chunks
    tau: Positive = 0.1  # temperature of the weights; small: the nearest chunk alone
    resolution: PositiveInt = 8  # branches in all, unless share is equal; weights are multiples of 1 / resolution
    embedder: Any = "encoder"  # embedder of the images: its name, or a mapping

    def __post_init__(self) -> None:
        build("embedder", self.embedder)  # refuses an unknown name

    @property
    def weights(self) -> None:
        """None, because they depend on the number of demonstrations."""
        return None

    def strength(self, logits: "Tensor", step: int) -> "Tensor":
        return unit_strength(logits)

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, ...]:
        """The prompt, and `resolution` prompts with a chunk each. With `share: equal`, one prompt per chunk.

        Raises:
            PlanError: A demonstration or the query has no image to compare.
        """
        numbers = demonstrations(prompt)
        if not numbers or self.groups == 1:
            return prompt, prompt
        needs_vectors = self.chunks == "clustered" or self.share != "equal"
        vectors = self._vectors(prompt, numbers) if needs_vectors else np.zeros((len(numbers) + 1, 1))
        chunks = self._chunks(prompt, numbers, vectors[:-1])
        prompts = [keep_demonstrations(prompt, [numbers[i] for i in chunk]) for chunk in chunks]
        if self.share == "equal":
            return prompt, *prompts
        similarity = np.array([float((vectors[:-1][chunk] @ vectors[-1]).mean()) for chunk in chunks])
        counts = quantized_shares(self._weights(similarity), max(self.resolution, len(chunks)))
        return prompt, *(one for one, count in zip(prompts, counts, strict=True) for _ in range(count))

    def combine(self, logits: "Tensor", step: int) -> "Tensor":
        scores: Tensor = logits[1:].log_softmax(-1).mean(0)
        return scores

    def _weights(self, similarity: Floats) -> Floats:
        scaled = similarity / (self.tau if self.share == "similarity" else 1e-9)
        weights = np.exp(scaled - scaled.max())
        return np.asarray(weights / weights.sum())

    def _chunks(self, prompt: Prompt, numbers: Sequence[int], vectors: Floats) -> list[list[int]]:
        """Places of the demonstrations of each chunk, in prompt order."""
        count = min(self.groups, len(numbers))
        if self.chunks == "clustered":
            from scipy.cluster.vq import kmeans2

            labels = kmeans2(vectors, count, minit="++", seed=prompt.key.numpy("parallel_icl/clusters"))[1].tolist()
        else:
            order = list(range(len(numbers)))
            if self.chunks == "random":
                order = prompt.key.order("parallel_icl/chunks", [str(number) for number in numbers])
            labels = [place * count // len(numbers) for place in np.argsort(order).tolist()]
        chunks = [[i for i, label in enumerate(labels) if label == chunk] for chunk in range(count)]
        return [chunk for chunk in chunks if chunk]

    def _vectors(self, prompt: Prompt, numbers: Sequence[int]) -> Floats:
        """Unit vectors of the images of each demonstration, then of the query: [demonstrations + 1, D]."""
        owners: list[int | None] = [*numbers, None]
        images = {owner: [p.image for p in prompt.parts() if p.image and p.demo == owner] for owner in owners}
        bare = [owner for owner, own in images.items() if not own]
        if bare and bare[0] is not None:
            raise PlanError(f"parallel_icl compares images, and demonstration {bare[0]} has none.")
        if bare:
            raise PlanError(
                "parallel_icl compares images, and the query has none. Set chunks: consecutive and share: equal."
            )
        items = [Query(str(owner), tuple(images[owner]), "") for owner in owners]
        embedder = build("embedder", self.embedder)
        keys = [(embedder.digest, tuple(image.digest for image in item.images)) for item in items]
        vectors = {key: vector for key in keys if (vector := _VECTORS.get(key)) is not None}
        new = {key: item for key, item in zip(keys, items, strict=True) if key not in vectors}
        if new:
            rows = np.asarray(embedder.embed_images(list(new.values())), dtype=np.float64)
            vectors |= {key: _VECTORS.put(key, row) for key, row in zip(new, rows, strict=True)}
        return np.stack([vectors[key] for key in keys])

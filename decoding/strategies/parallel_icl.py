"""Parallel-ICL (2603.16092): clusters of demonstrations read in parallel, weighted by their similarity to the query.

    chunks = k-means of the demonstrations' image vectors
    w = softmax(s / tau),      s_n = mean cosine of chunk n's images to the query's image
    scores = sum_n w_n l(y | chunk n, query)

The chunks and their weights are the prompt's note. A chunk whose weight is 0 is not read. The whole prompt is branch 0,
for traces and controls, and has no weight. Controls: `chunks: random`, `share: equal` (`moicl` with clustered groups),
`share: nearest` and the vote. One group is the whole prompt.

No released code: a reconstruction from the abstract. tau, the vectors and the number of chunks are not the paper's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from decoding import Generate, Note, StatefulStrategy, StepState, Traits, unit_strength
from decoding.prompt_edits import demonstrations, keep_demonstrations
from icl import PlanError, Positive, PositiveInt, Prompt, Query, Tensor, build, component
from icl.lru_cache_bytes import LRUByteCache

Floats = NDArray[np.float64]

_VECTORS = LRUByteCache[tuple[str, tuple[str, ...]], Floats](32 * 2**20, lambda vector: vector.nbytes + 400)
"""The latest vectors of this process by embedder and images."""

Chunks = tuple[Sequence[Sequence[int]], Sequence[float]]
"""A note: the numbers of the demonstrations of each chunk, and the weight of each chunk."""


@component("strategy", "parallel_icl")
@dataclass(frozen=True)
class ParallelICL(StatefulStrategy):
    """Mixture of clusters of demonstrations, weighted by their similarity to the query's image."""

    groups: PositiveInt = 2  # number of chunks
    chunks: Literal["clustered", "consecutive", "random"] = "clustered"  # how demonstrations are divided
    share: Literal["similarity", "equal", "nearest"] = "similarity"  # weights of the chunks
    tau: Positive = 0.1  # temperature of the weights; small: the nearest chunk alone
    embedder: Any = "encoder"  # embedder of the images: its name, or a mapping

    def __post_init__(self) -> None:
        build("embedder", self.embedder)  # refuses an unknown name

    traits = Traits(combines_notes=True)

    @property
    def weights(self) -> None:
        """None, because they depend on the number of demonstrations."""
        return None

    def strength(self, logits: Tensor, step: int) -> Tensor:
        return unit_strength(logits)

    def prepare(self, prompts: Sequence[Prompt], generate: Generate) -> list[Note]:
        """The chunks of each prompt and their weights.

        Raises:
            PlanError: A demonstration or the query has no image to compare.
        """
        return [self._chunks_and_weights(prompt) for prompt in prompts]

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt, ...]:
        """The prompt, and one prompt for each chunk."""
        chunks, _ = cast("Chunks", self._chunks_and_weights(prompt) if note is None else note)
        return prompt, *(keep_demonstrations(prompt, chunk) for chunk in chunks)

    def combine_stateful(self, logits: Tensor, step: int, states: Sequence[StepState]) -> Tensor:
        """logits: [1 + chunks, B, V] float32 -> scores [B, V]. Without notes, as in measurements, weights are equal."""
        count = len(logits) - 1
        notes = [cast("Chunks | None", state.note) for state in states]
        weights = logits.new_tensor([[1 / count] * count if note is None else note[1] for note in notes])
        scores: Tensor = (weights.T[..., None] * logits[1:].log_softmax(-1)).sum(0)
        return scores

    def _chunks_and_weights(self, prompt: Prompt) -> Chunks:
        numbers = demonstrations(prompt)
        if not numbers or self.groups == 1:
            return [numbers], [1.0]
        needs_vectors = self.chunks == "clustered" or self.share != "equal"
        vectors = self._vectors(prompt, numbers) if needs_vectors else np.zeros((len(numbers) + 1, 1))
        chunks = self._chunks(prompt, numbers, vectors[:-1])
        weights = np.full(len(chunks), 1 / len(chunks))
        if self.share != "equal":
            weights = self._weights(np.array([float((vectors[:-1][chunk] @ vectors[-1]).mean()) for chunk in chunks]))
        pairs = [(chunk, float(weight)) for chunk, weight in zip(chunks, weights, strict=True) if weight > 0]
        return [[numbers[i] for i in chunk] for chunk, _ in pairs], [weight for _, weight in pairs]

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

"""Set coverage (Set-BSR, Gupta et al., EMNLP 2023): together the demonstrations show every part of the query.

    argmax over sets Z of  sum over the parts t of q of  w_t  max over z in Z, j in z of  cos(t, j)
    with idf: w_t = log((N + 1) / (df_t + 1)), N the members of the pool, df_t those that have the word t

Greedy, in the order of picking; when no member adds anything, coverage starts anew with those that are left. Parts are
words, patches, or both, half the weight to each modality (576 patches would drown eight words); patches weigh alike,
and so do words unless `idf` is asked for. Special tokens take no part. A score is what the demonstration covers by
itself.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from icl.errors import ConfigError, DataError
from icl.registry import component
from icl.tasks.base import Pool
from icl.types import Query
from retrievers.base import Resources
from retrievers.machinery.greedy_selection import Array, PartMatches
from retrievers.machinery.multi_vector import FittedMultiVector, MultiVectorRetriever


@component("retriever", "set_coverage")
@dataclass(frozen=True)
class SetCoverage(MultiVectorRetriever):
    """Demonstrations that together match every patch or word of the query (Set-BSR)."""

    ranked: ClassVar[bool] = False

    idf: bool = False  # words weigh by how few members of the pool have them, not alike

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.idf and self.by == "image":
            raise ConfigError("idf weighs words, and by is 'image'. Use by: question or by: both, or leave idf out.")
        if self.idf and not hasattr(self.embedder, "tokens"):
            raise ConfigError(
                f"idf counts words, and the embedder {self.embedder!r} does not tell its words. "
                f"Use the embedder 'encoder'."
            )

    def fit(self, pool: Pool, resources: Resources) -> FittedMultiVector:
        fitted = super().fit(pool, resources)
        if not self.idf:
            return fitted
        having = Counter[int]()
        for words in self.embedder.tokens([example.question for example in pool.examples]):  # type: ignore[attr-defined]
            having.update(set(words))
        return FittedCoverage(fitted.retriever, pool, fitted.source, fitted.parts, having)

    def choose(self, matches: PartMatches, k: int) -> list[int]:
        return matches.pick(k)


@dataclass(frozen=True)
class FittedCoverage(FittedMultiVector):
    """having: of each word, how many members of the pool have it."""

    having: Mapping[int, int]

    def weighed(self, query: Query, weights: Array) -> Array:
        """Raises DataError where every word of the query is in every member: none would weigh anything."""
        (words,) = self.retriever.embedder.tokens([query.question])  # type: ignore[attr-defined]
        rarity = np.array([np.log((len(self.pool) + 1) / (self.having.get(word, 0) + 1)) for word in words])
        if not rarity.any():
            raise DataError(
                f"query '{query.id}': every word of {query.question!r} is in every member of the pool, so idf gives "
                f"none a weight. Leave idf out of set_coverage."
            )
        share = self.retriever.shares()[-1]
        return np.concatenate([weights[: len(weights) - len(words)], share * rarity / rarity.sum()])

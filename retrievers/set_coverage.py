"""Set coverage (Set-BSR, Gupta et al., EMNLP 2023): demonstrations that together cover the parts of the query.

    argmax over sets Z of  sum over the parts t of q of  w_t  max over z in Z, j in z of  cos(t, j)
    with idf: w_t = log((N + 1) / (df_t + 1)), N the members of the pool, df_t those that have the word t

The search is greedy, and the result is in the order of selection. When no member improves the coverage, coverage starts
again from zero with the remaining members. Parts are words, patches, or both; with both, each modality has half of the
weight (576 patches would outweigh eight words). Patches have equal weights, and words too unless `idf` is set. Special
tokens are not parts. A score is what the demonstration covers by itself.

Differs from the released code in the order (there the reverse of the selection), in special tokens, which count there,
in the idf, which is off by default, and with fewer members than shots (there the search does not end).
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

    idf: bool = False  # weight words by inverse document frequency in the pool, not equally

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.idf and self.by == "image":
            raise ConfigError("idf weighs words, and by is 'image'. Use by: question or by: both, or remove idf.")
        if self.idf and not hasattr(self.embedder, "tokens"):
            raise ConfigError(
                f"idf counts words, and the embedder {self.embedder!r} gives no words. Use the embedder 'encoder'."
            )

    def fit(self, pool: Pool, resources: Resources) -> FittedMultiVector:
        fitted = super().fit(pool, resources)
        if not self.idf:
            return fitted
        counts = Counter[int]()
        for words in self.embedder.tokens([example.question for example in pool.examples]):  # type: ignore[attr-defined]
            counts.update(set(words))
        return FittedSetCoverage(fitted.retriever, pool, fitted.source, fitted.parts, counts)

    def select(self, matches: PartMatches, k: int) -> list[int]:
        return matches.greedy_cover(k)


@dataclass(frozen=True)
class FittedSetCoverage(FittedMultiVector):
    """The parts of one pool, and for each word the number of members that have it."""

    document_counts: Mapping[int, int]

    def part_weights(self, query: Query, weights: Array) -> Array:
        """Weights with idf. Raises DataError if every word of the query is in every member, so all weights are 0."""
        (words,) = self.retriever.embedder.tokens([query.question])  # type: ignore[attr-defined]
        idf = np.array([np.log((len(self.pool) + 1) / (self.document_counts.get(word, 0) + 1)) for word in words])
        if not idf.any():
            raise DataError(
                f"query '{query.id}': every word of {query.question!r} is in every member of the pool, so idf gives "
                f"none a weight. Remove idf from set_coverage."
            )
        share = self.retriever.modality_weights()[-1]
        return np.concatenate([weights[: len(weights) - len(words)], share * idf / idf.sum()])

"""Sets chosen together among the nearest members: diverse, covering, or by the entropy of the model's label."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Ge, Le

from icl import ConfigError, DataError, Fraction, Pool, Positive, Query, RetrievedExample, component
from retrievers import CandidateSetRetriever, Neighbors, Resources
from retrievers.machinery.greedy_selection import Array, PartMatches, SubsetRetriever, dpp, mmr, most_diverse_subset
from retrievers.machinery.multi_vector import FittedMultiVector, MultiVectorRetriever


@component("retriever", "mmr")
@dataclass(frozen=True, kw_only=True)
class MMR(CandidateSetRetriever):
    """Demonstrations near to the query and far from each other (maximal marginal relevance).

    Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998): near to the query, far from selected members.

        next = argmax over x not in S of   l cos(q, x) - (1 - l) max over s in S of cos(x, s)

    The first member is the most relevant one (the maximum over an empty set is 0). Both terms are the same cosine. A
    score is the relevance. The set is selected from the nearest `candidates`; if there are fewer than k, the next
    nearest follow.

    No released code.
    """

    ranked: ClassVar[bool] = False

    balance: Fraction  # l: 1 is knn; 0 is only diversity after the first

    def choose_set(self, neighbors: Neighbors, k: int) -> Sequence[RetrievedExample]:
        return neighbors.retrieved(mmr(neighbors.scores, neighbors.vectors, k, self.balance))


MARK = "dpp: filled by relevance"


@component("retriever", "dpp")
@dataclass(frozen=True, kw_only=True)
class DPP(CandidateSetRetriever):
    """The greedy set with the largest determinant of relevance and diversity (CEIL without training).

    A determinantal point process at inference (Ye et al., CEIL, ICML 2023; greedy: Chen et al., NeurIPS 2018).

        L_ij = r_i S_ij r_j,  S = (1 + cos) / 2,  r = exp(rel / (2 scale)),    rel = (1 + relevance) / 2 - its maximum

    The greedy maximum of det(L_S) among the nearest `candidates`, in the order of selection. A score is the relevance.
    If no candidate is independent of the selected ones (determinant ratio 1e-12), the nearest candidates follow with a
    mark.

    Differs from the released code in the order (there by relevance), and for members that depend on the selected ones
    (there the search divides by zero and goes on with NaN).
    """

    ranked: ClassVar[bool] = False

    scale: Positive = 0.1  # of the relevance; a smaller scale gives relevance more weight against diversity

    def choose_set(self, neighbors: Neighbors, k: int) -> Sequence[RetrievedExample]:
        selected = dpp(neighbors.scores, neighbors.vectors, k, self.scale)
        rest = [position for position in range(len(neighbors)) if position not in selected][: k - len(selected)]
        return [*neighbors.retrieved(selected), *neighbors.retrieved(rest, MARK)]


@component("retriever", "diverse_subset")
@dataclass(frozen=True, kw_only=True)
class DiverseSubset(CandidateSetRetriever):
    """The most diverse subset of the nearest candidates, by comparing all subsets.

    The most diverse subset of the nearest members (Li and Qiu, 2023; Qin et al., NeurIPS 2024: top 10, keep 3).

    Among all subsets of k of the nearest `candidates`, the one with the smallest sum of pairwise cosines, ordered by
    relevance. The sets are not nested: the best pair need not be part of the best triple.

    No released code was compared.
    """

    nested: ClassVar[bool] = False

    candidates: Annotated[int, Ge(1), Le(16)] = 10  # all their subsets of k are compared

    def choose_set(self, neighbors: Neighbors, k: int) -> Sequence[RetrievedExample]:
        return neighbors.retrieved(most_diverse_subset(neighbors.vectors, k))


@component("retriever", "set_coverage")
@dataclass(frozen=True)
class SetCoverage(MultiVectorRetriever):
    """Demonstrations that together match every patch or word of the query (Set-BSR).

    Set coverage (Set-BSR, Gupta et al., EMNLP 2023): demonstrations that together cover the parts of the query.

        argmax over sets Z of  sum over the parts t of q of  w_t  max over z in Z, j in z of  cos(t, j)
        with idf: w_t = log((N + 1) / (df_t + 1)), N the members of the pool, df_t those that have the word t

    The search is greedy, and the result is in the order of selection. When no member improves the coverage, coverage
    starts again from zero with the remaining members. Parts are words, patches, or both; with both, each modality has
    half of the weight (576 patches would outweigh eight words). Patches have equal weights, and words too unless `idf`
    is set. Special tokens are not parts. A score is what the demonstration covers by itself.

    Differs from the released code in the order (there the reverse of the selection), in special tokens, which count
    there, in the idf, which is off by default, and with fewer members than shots (there the search does not end).
    """

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


@component("retriever", "mdl")
@dataclass(frozen=True, kw_only=True)
class MDL(SubsetRetriever):
    """Among sets of near demonstrations, the one with the lowest entropy of the model's label (MDL).

    Minimum description length (Wu et al., ACL 2023): the set with the lowest entropy of the query's label.

        argmin over sets S of near demonstrations of   H(p(y | S, q))

    The k nearest members are always one of the sets. Probabilities are of whole options: the mean over their tokens.
    `local_entropy` is the opposite choice.

    Differs from the released code in the order within a set, which orderers decide, and in the names of its three
    sizes, which its configuration exchanges.
    """

    name: ClassVar[str] = "mdl"
    sign: ClassVar[int] = -1


@component("retriever", "local_entropy")
@dataclass(frozen=True, kw_only=True)
class LocalEntropy(SubsetRetriever):
    """Among sets of near demonstrations, the one with the highest entropy of the model's label.

    Highest entropy: the set with the highest entropy of the query's label.

        argmax over sets S of near demonstrations of   H(p(y | S, q))

    Sets and probabilities are the same as in `mdl` (Wu et al., ACL 2023; their code has both), so it is a control for
    `mdl`. The name follows LocalE (Lu et al., ACL 2022), which ranks orders by the mean entropy of predictions.

    Differs from the released code in the order within a set, which orderers decide (see `mdl`).
    """

    name: ClassVar[str] = "local_entropy"
    sign: ClassVar[int] = 1

"""BM25 over words (Robertson and Walker, SIGIR 1994), with the idf of Lucene, which is never negative.

    score(q, d) = sum over the query's words of  idf tf (k1 + 1) / (tf + k1 (1 - b + b |d| / mean |d|))
    idf = ln(1 + (N - df + .5) / (df + .5))

Words are lower-case word tokens. There are no stop words, and a word that occurs twice in the query counts twice.
Members without a word of the query have the score 0 and follow in the order of the pool.

No released code. Implementations of BM25 differ in the idf; this is the one of Lucene.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from icl import Fraction, NonNegative, Pool, Query, RetrievedExample, component
from retrievers import FittedRanking, Resources, TextField, demo_text, split_words

Posting = tuple[NDArray[np.int64], NDArray[np.float64]]


@component("retriever", "bm25")
@dataclass(frozen=True)
class BM25:
    """Demonstrations that share rare words with the query. It needs no encoder."""

    needs: ClassVar[frozenset[str]] = frozenset()
    nested: ClassVar[bool] = True

    text: TextField = "question"  # which text of a demonstration is searched, with the question of the query
    k1: NonNegative = 1.2  # how slowly the effect of a repeated word saturates
    b: Fraction = 0.75  # how much the length of a text lowers its score

    def fit(self, pool: Pool, resources: Resources) -> "FittedBM25":
        counts = [Counter(split_words(demo_text(example, self.text))) for example in pool.examples]
        lengths = np.array([sum(count.values()) for count in counts], dtype=np.float64)
        norm = self.k1 * (1 - self.b + self.b * lengths / max(lengths.mean(), 1e-12)) if len(pool) else lengths
        rows: dict[str, list[tuple[int, int]]] = {}
        for row, count in enumerate(counts):
            for word, times in count.items():
                rows.setdefault(word, []).append((row, times))
        return FittedBM25(pool, {word: self._posting(entries, norm) for word, entries in rows.items()})

    def _posting(self, entries: list[tuple[int, int]], norm: NDArray[np.float64]) -> Posting:
        rows, times = np.array(entries, dtype=np.int64).T
        idf = np.log(1 + (len(norm) - len(rows) + 0.5) / (len(rows) + 0.5))
        return rows, idf * times * (self.k1 + 1) / (times + norm[rows])


@dataclass(frozen=True)
class FittedBM25(FittedRanking):
    """The postings of one pool: the members that have a word, and what the word adds to their scores."""

    postings: Mapping[str, Posting]

    def scores(self, text: str) -> NDArray[np.float64]:
        """The score of every member for a text, [N]."""
        scores = np.zeros(len(self.pool))
        for word in split_words(text):
            if word in self.postings:
                rows, adds = self.postings[word]
                scores[rows] += adds
        return scores

    def rank(self, query: Query) -> Iterator[RetrievedExample]:
        scores = self.scores(query.question)
        for row in np.argsort(-scores, kind="stable").tolist():
            yield RetrievedExample(self.pool.examples[row].id, round(float(scores[row]), 6))

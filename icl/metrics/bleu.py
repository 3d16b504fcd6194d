"""BLEU (Papineni et al., ACL 2002) of a whole cell, as in the COCO caption evaluation.

    p_k  = matched k-grams / k-grams of the captions     matches are clipped to the largest count in one reference
    BLEU = (p_1 ... p_n)^(1/n) x min(1, exp(1 - r / c))  c: words of the captions, r: words of the closest references

All counts are sums over the cell, so BLEU is no mean of scores of captions. Papers print BLEU-1 to BLEU-4. The score of
one sample is BLEU of that caption. It is close to 0 if the caption matches no n-gram of the longest order.

Differs from the released code in nothing known: words, smoothing (1e-15 matches, 1e-9 n-grams) and, among references
that are equally close, the shorter one are the same.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from icl import Better, Example, Generation, RunStatistic, ScoredSample, component, on_scored_samples
from icl.metrics.machinery.penn_tokenizer import CACHE_ENTRIES, words

MATCHED, POSSIBLE = 1e-15, 1e-9  # what the released code adds to both counts
Floats = NDArray[np.float64]


def bleu(sums: Floats) -> Floats:
    """BLEU of summed counts.

    Args:
        sums: [..., 2 n + 2], matched n-grams of orders 1 to n, all n-grams of these orders, words of the captions and
            of the closest references.

    Returns:
        [...], in [0, 1].
    """
    n = sums.shape[-1] // 2 - 1
    precisions = (sums[..., :n] + MATCHED) / (sums[..., n : 2 * n] + POSSIBLE)
    ratio = (sums[..., -2] + MATCHED) / (sums[..., -1] + POSSIBLE)
    brevity = np.exp(np.minimum(0.0, 1 - 1 / ratio))
    return np.asarray(np.exp(np.log(precisions).mean(axis=-1)) * brevity, dtype=np.float64)


@lru_cache(CACHE_ENTRIES)
def bleu_counts(caption: str, references: tuple[str, ...], n: int) -> tuple[int, ...]:
    """What a caption adds to the sums of `bleu`."""
    mine = words(caption)
    theirs = [words(reference) for reference in references]
    matched = []
    for size in range(1, n + 1):
        largest = Counter[tuple[str, ...]]()
        for reference in theirs:
            largest |= _grams(reference, size)
        matched.append((_grams(mine, size) & largest).total())
    possible = [max(0, len(mine) - size + 1) for size in range(1, n + 1)]
    closest = min((abs(len(reference) - len(mine)), len(reference)) for reference in theirs)[1]
    return (*matched, *possible, len(mine), closest)


class BLEU:
    """BLEU of captions over a whole cell. The references are the accepted answers."""

    better: ClassVar[Better] = "higher"
    n: ClassVar[int]
    """The length of the longest n-grams."""

    def score(self, generation: Generation, example: Example) -> float | None:
        if not example.answers:
            return None
        return float(bleu(np.array(bleu_counts(generation.text, example.answers, self.n), dtype=np.float64)))

    def run_level(self, samples: Sequence[ScoredSample]) -> RunStatistic:
        with_text = [sample if sample.output is not None else replace(sample, score=None) for sample in samples]
        return on_scored_samples(with_text, self._values)

    def _values(self, samples: Sequence[ScoredSample]) -> RunStatistic:
        counts = [bleu_counts(sample.output or "", sample.gold, self.n) for sample in samples]
        rows = np.array(counts, dtype=np.float64).reshape(len(samples), 2 * self.n + 2)
        usual = rows.mean(axis=0) if len(rows) else np.ones(2 * self.n + 2)
        worst, best = usual.copy(), usual.copy()
        worst[: self.n], best[: self.n] = 0, usual[self.n : 2 * self.n]
        return RunStatistic(rows, bleu, np.ones(len(rows), dtype=bool), rows[:, -1] > 0, worst, best)


@component("metric", "bleu_1")
@dataclass(frozen=True)
class BLEU1(BLEU):
    """BLEU-1 of captions over a whole cell: words only. The references are the accepted answers."""

    n: ClassVar[int] = 1


@component("metric", "bleu_2")
@dataclass(frozen=True)
class BLEU2(BLEU):
    """BLEU-2 of captions over a whole cell: words and pairs of words."""

    n: ClassVar[int] = 2


@component("metric", "bleu_3")
@dataclass(frozen=True)
class BLEU3(BLEU):
    """BLEU-3 of captions over a whole cell: up to three words in a row."""

    n: ClassVar[int] = 3


@component("metric", "bleu_4")
@dataclass(frozen=True)
class BLEU4(BLEU):
    """BLEU-4 of captions over a whole cell: up to four words in a row."""

    n: ClassVar[int] = 4


def _grams(tokens: Sequence[str], size: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[i : i + size]) for i in range(len(tokens) - size + 1))

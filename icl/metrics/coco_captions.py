"""Scores of captions as in the COCO caption evaluation: BLEU, ROUGE-L and CIDEr-D. (METEOR is in `meteor`.)"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from icl import Better, Example, Generation, RunStatistic, ScoredSample, component, mean, on_scored_samples
from icl.metrics.machinery.penn_tokenizer import CACHE_ENTRIES, tokenize, words

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
    """BLEU of captions over a whole cell. The references are the accepted answers.

    BLEU (Papineni et al., ACL 2002) of a whole cell, as in the COCO caption evaluation.

        p_k  = matched k-grams / k-grams of the captions
        BLEU = (p_1 ... p_n)^(1/n) x min(1, exp(1 - r / c))

    Matches are clipped to the largest count in one reference. c are the words of the captions, r those of the closest
    references.

    All counts are sums over the cell, so BLEU is no mean of scores of captions. Papers print BLEU-1 to BLEU-4. The
    score of one sample is BLEU of that caption. It is close to 0 if the caption matches no n-gram of the longest
    order.

    Differs from the released code in nothing known: words, smoothing (1e-15 matches, 1e-9 n-grams) and, among
    references that are equally close, the shorter one are the same.
    """

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


BETA = 1.2  # weight of the recall


def rouge_l(caption: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """ROUGE-L of a caption's tokens against its references, in [0, 1]."""
    lengths = [common_subsequence(caption, reference) for reference in references]
    precision = max(lengths) / max(1, len(caption))
    recall = max(length / max(1, len(reference)) for length, reference in zip(lengths, references, strict=True))
    if not precision or not recall:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """The length of the longest common subsequence."""
    row = [0] * (len(second) + 1)
    for token in first:
        diagonal = 0
        for i, other in enumerate(second, 1):
            diagonal, row[i] = row[i], diagonal + 1 if token == other else max(row[i], row[i - 1])
    return row[-1]


@component("metric", "rouge_l")
@dataclass(frozen=True)
class RougeL:
    """ROUGE-L of captions, by their longest common subsequence with a reference.

    It is that of Lin (2004) in the form of the COCO caption evaluation.

        P = longest common subsequence / words of the caption        R = the same / words of the reference
        F = (1 + b^2) P R / (R + b^2 P),  b = 1.2, with the largest P and the largest R of all references

    The score of a cell is the mean over captions. Unlike the ROUGE of summarization (`rouge-score`), words are those of
    `icl.metrics.machinery.penn_tokenizer` and are not stemmed, and P and R may come from two references.

    Differs from the released code in nothing known.
    """

    better: ClassVar[Better] = "higher"

    def score(self, generation: Generation, example: Example) -> float | None:
        if not example.answers:
            return None
        return rouge_l(tokenize(generation.text), [tokenize(answer) for answer in example.answers])


N, SIGMA = 4, 6.0
Gram = tuple[str, ...]
Weigh = Callable[[Gram], float]


def cider_scores(captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """CIDEr-D of each caption against its references, in [0, 10]. The corpus consists of all references."""
    document_counts = Counter(gram for each in references for gram in set().union(*map(_all_grams, each)))
    log_size = math.log(len(references)) if references else 0.0

    def weigh(gram: Gram) -> float:
        return log_size - math.log(max(1, document_counts[gram]))

    return [_one(caption, each, weigh) for caption, each in zip(captions, references, strict=True)]


@component("metric", "cider")
@dataclass(frozen=True)
class CIDEr:
    """CIDEr-D of captions over a whole cell, in [0, 10]. The references are the accepted answers.

    CIDEr-D (Vedantam et al., CVPR 2015), as released with the COCO caption evaluation.

    For n = 1..4, a caption c and each of its references s have tf-idf vectors over n-grams, g(w) = tf(w) (log N - log
    max(1, df(w))). N is the number of queries, and df(w) the number of queries with w in a reference. Then

        CIDEr-D(c) = 10 x mean over n and s of  exp(-(l(c) - l(s))^2 / 2 sigma^2)  min(g_c, g_s) . g_s / (|g_c| |g_s|)

    with sigma 6. As in the released code, the lengths l are numbers of bigrams. The idf depends on the corpus, so the
    score belongs to a whole cell with its queries' references. Published is the mean over captions (1.2 is printed as
    120). The score of a single sample treats all n-grams as equally rare, and is divided by 10.

    Words are split as the released code splits them (`icl.metrics.machinery.penn_tokenizer`).

    Differs from the released code in the score of a single sample (see above). The score of a cell is the same.
    """

    better: ClassVar[Better] = "higher"

    def score(self, generation: Generation, example: Example) -> float | None:
        return _one(generation.text, example.answers, lambda gram: 1.0) / 10

    def run_level(self, samples: Sequence[ScoredSample]) -> RunStatistic:
        captions = [sample.output or "" for sample in samples]
        all_scores = cider_scores(captions, [sample.gold for sample in samples])
        scores = [
            None if sample.score is None or sample.output is None else value
            for sample, value in zip(samples, all_scores, strict=True)
        ]
        return mean(scores, high=10)


def _one(caption: str, references: Sequence[str], weigh: Weigh) -> float:
    mine = _vectors(caption, weigh)
    total = 0.0
    for reference in references:
        theirs = _vectors(reference, weigh)
        gap = math.exp(-((_bigrams(caption) - _bigrams(reference)) ** 2) / (2 * SIGMA**2))
        total += sum(gap * _likeness(mine[n], theirs[n]) for n in range(N)) / N
    return 10 * total / max(1, len(references))


def _likeness(mine: Mapping[Gram, float], theirs: Mapping[Gram, float]) -> float:
    sizes = math.hypot(*mine.values()) * math.hypot(*theirs.values())
    return sum(min(value, theirs[gram]) * theirs[gram] for gram, value in mine.items() if gram in theirs) / (sizes or 1)


def _vectors(caption: str, weigh: Weigh) -> list[dict[Gram, float]]:
    vectors: list[dict[Gram, float]] = [{} for _ in range(N)]
    for gram, count in _all_grams(caption).items():
        vectors[len(gram) - 1][gram] = count * weigh(gram)
    return vectors


def _bigrams(caption: str) -> int:
    return max(0, len(words(caption)) - 1)


@lru_cache(maxsize=100_000)
def _all_grams(caption: str) -> Counter[Gram]:
    tokens = words(caption)
    return Counter(tuple(tokens[i : i + n]) for n in range(1, N + 1) for i in range(len(tokens) - n + 1))

"""CIDEr-D (Vedantam et al., CVPR 2015), as released with the COCO caption evaluation.

For n = 1..4, a caption c and each of its references s have tf-idf vectors over n-grams, g(w) = tf(w) (log N - log
max(1, df(w))). N is the number of queries, and df(w) the number of queries with w in a reference. Then

    CIDEr-D(c) = 10 x mean over n and s of  exp(-(l(c) - l(s))^2 / 2 sigma^2)  min(g_c, g_s) . g_s / (|g_c| |g_s|)

with sigma 6. As in the released code, the lengths l are numbers of bigrams. The idf depends on the corpus, so the score
belongs to a whole cell with its queries' references. Published is the mean over captions (1.2 is printed as 120). The
score of a single sample treats all n-grams as equally rare, and is divided by 10.

Words are split as the released code splits them (`icl.metrics.machinery.penn_tokenizer`).

Differs from the released code in the score of a single sample (see above). The score of a cell is the same.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

from icl import Better, Example, Generation, RunStatistic, ScoredSample, component, mean
from icl.metrics.machinery.penn_tokenizer import words

N, SIGMA = 4, 6.0
Gram = tuple[str, ...]
Weigh = Callable[[Gram], float]


def cider_scores(captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """CIDEr-D of each caption against its references, in [0, 10]. The corpus consists of all references."""
    document_counts = Counter(gram for each in references for gram in set().union(*map(_grams, each)))
    log_size = math.log(len(references)) if references else 0.0

    def weigh(gram: Gram) -> float:
        return log_size - math.log(max(1, document_counts[gram]))

    return [_one(caption, each, weigh) for caption, each in zip(captions, references, strict=True)]


@component("metric", "cider")
@dataclass(frozen=True)
class CIDEr:
    """CIDEr-D of captions over a whole cell, in [0, 10]. The references are the accepted answers."""

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
    for gram, count in _grams(caption).items():
        vectors[len(gram) - 1][gram] = count * weigh(gram)
    return vectors


def _bigrams(caption: str) -> int:
    return max(0, len(words(caption)) - 1)


@lru_cache(maxsize=100_000)
def _grams(caption: str) -> Counter[Gram]:
    tokens = words(caption)
    return Counter(tuple(tokens[i : i + n]) for n in range(1, N + 1) for i in range(len(tokens) - n + 1))

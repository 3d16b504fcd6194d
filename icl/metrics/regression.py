"""Numbers as answers: the error of the number that an output states.

    mae         mean of |output - gold|
    rmse        square root of the mean of (output - gold)^2
    spearman    rank correlation of outputs and gold answers, ties with their mean rank

The number is the one that an output states, as `lenient` reads it (`icl.metrics.machinery.quantities`). An output
without a number has no score: tables count it as missing. Numbers are in the units of the data.

A sample's own score is |error| / (1 + |error|), in which the error can be read back.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from icl import Better, Example, Generation, RunStatistic, ScoredSample, component, mean, on_scored_samples, scipy
from icl.metrics import Floats, gold_number, read_number


@dataclass(frozen=True)
class NumberMetric:
    """Base class of the three: the score of a sample."""

    reads_numbers: ClassVar[bool] = True

    def score(self, generation: Generation, example: Example) -> float | None:
        output, gold = read_number(generation.text), gold_number(example.answers)
        return None if output is None or gold is None else abs(output - gold) / (1 + abs(output - gold))


@component("metric", "mae")
@dataclass(frozen=True)
class MeanAbsoluteError(NumberMetric):
    """Mean absolute error of the numbers that outputs state, in the units of the answers."""

    better: ClassVar[Better] = "lower"

    def run_level(self, samples: Sequence[ScoredSample]) -> RunStatistic:
        errors = _absolute_errors(samples)
        return mean(errors, high=max((error for error in errors if error is not None), default=1.0))


@component("metric", "rmse")
@dataclass(frozen=True)
class RootMeanSquareError(NumberMetric):
    """Root mean square error of the numbers that outputs state, in the units of the answers."""

    better: ClassVar[Better] = "lower"

    def run_level(self, samples: Sequence[ScoredSample]) -> RunStatistic:
        errors = [None if error is None else error**2 for error in _absolute_errors(samples)]
        squares = mean(errors, high=max((error for error in errors if error is not None), default=1.0))
        return replace(squares, value=lambda sums: np.sqrt(squares.value(sums)), scores=None)


@component("metric", "spearman")
@dataclass(frozen=True)
class Spearman(NumberMetric):
    """Spearman's rank correlation of the numbers that outputs state with the gold answers."""

    better: ClassVar[Better] = "higher"

    def run_level(self, samples: Sequence[ScoredSample]) -> RunStatistic:
        return on_scored_samples(samples, self._parts)

    def _parts(self, samples: Sequence[ScoredSample]) -> RunStatistic:
        outputs = [read_number(sample.output or "") for sample in samples]
        golds = [gold_number(sample.gold) for sample in samples]
        nan = float("nan")
        return rank_correlation([nan if x is None else x for x in outputs], [nan if y is None else y for y in golds])


def rank_correlation(one: Sequence[float] | Floats, other: Sequence[float] | Floats) -> RunStatistic:
    """Spearman's correlation, exact for any choice of samples; undefined if all values of a side are equal.

    The sums are the weights of the samples, and ranks are computed from them. Two more places stand for a sample with
    the lowest and the highest values.

    Args:
        one: [n].
        other: [n].
    """
    size = len(one)
    sides = [
        _Ranks(np.append(np.asarray(values, dtype=np.float64), ends))
        for values, ends in ((one, (-np.inf, np.inf)), (other, (np.inf, np.inf)))
    ]
    worst, best = np.eye(size + 2)[-2:]

    def correlation(sums: Floats) -> Floats:
        total = sums.sum(axis=-1, keepdims=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            x, y = (ranks - (sums * ranks).sum(axis=-1, keepdims=True) / total for ranks in (s.of(sums) for s in sides))
            spread = np.sqrt((sums * x**2).sum(axis=-1) * (sums * y**2).sum(axis=-1))
            return np.asarray((sums * x * y).sum(axis=-1) / np.where(spread > 0, spread, np.nan), dtype=np.float64)

    return RunStatistic(
        rows=scipy.sparse.csr_matrix((np.ones(size), (np.arange(size), np.arange(size))), shape=(size, size + 2)),
        value=correlation,
        counted=np.ones(size, dtype=bool),
        informative=np.ones(size, dtype=bool),
        worst=worst,
        best=best,
    )


class _Ranks:
    """The ranks of values for any weights of them."""

    def __init__(self, values: Floats) -> None:
        different, self.place = np.unique(values, return_inverse=True)
        one = np.ones(len(values))
        self.groups = scipy.sparse.csr_matrix(
            (one, (np.arange(len(values)), self.place)), shape=(len(values), len(different))
        )

    def of(self, weights: Floats) -> Floats:
        """[..., n]: half of the weight of equal values and the weight of all smaller ones."""
        of_values = np.asarray(weights @ self.groups)
        return np.asarray((np.cumsum(of_values, axis=-1) - of_values / 2)[..., self.place], dtype=np.float64)


def _absolute_errors(samples: Sequence[ScoredSample]) -> list[float | None]:
    """The errors, of outputs and gold answers: scores are rounded, and that of a very large error is 1."""
    pairs = [(read_number(sample.output or ""), gold_number(sample.gold)) for sample in samples]
    return [
        None if sample.score is None or number is None or gold is None else abs(number - gold)
        for sample, (number, gold) in zip(samples, pairs, strict=True)
    ]

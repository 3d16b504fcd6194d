"""When do two answers differ? Distance, noise and exact tests.

distance    log-probabilities: root mean square of their differences over the tokens of both lists. A token that one
            list lacks counts max(0, lp - last of that list), a lower bound: ties at the end of a list are no change.
            Texts: the share of the questions with different answers.
noise       median over three requests of the largest distance of their repeats, sent alone. One answer with a wrong
            image does not raise a median; a fault under load does not reach requests that are sent alone.
changed     distance > tolerance = max(3 noise, .002)
signal      median distance of two images under the same text
expects     a change of this size would be seen for certain: it is > 20 tolerances. "No change" is a fault only there.
            With a factor of 3, noise of .1 gave four false alarms on a correct server.
"""

import itertools
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

NOISE_FACTOR = 3
FLOOR = 2e-3
CLEAR = 20
ROUNDS = 999
"""Permutations of the energy test."""
T = TypeVar("T")


@dataclass(frozen=True)
class Answer:
    """What a server answered to a prompt.

    Attributes:
        top: Token -> log-probability of the first generated token; empty without log-probabilities.
        texts: The text of each question.
        tokens: Number of tokens of the prompt, if the server says it.
        data: The response as it came.
    """

    top: Mapping[str, float] = field(default_factory=dict)
    texts: tuple[str, ...] = ()
    tokens: int | None = None
    data: Mapping[str, Any] = field(default_factory=dict, repr=False)


def distance(a: Answer, b: Answer) -> float:
    """Nats between two lists of log-probabilities, or the share of texts that differ."""
    if not (a.top and b.top):
        return sum(x != y for x, y in zip(a.texts, b.texts, strict=True)) / max(1, len(a.texts))
    last_a, last_b = min(a.top.values()), min(b.top.values())

    def difference(token: str) -> float:
        if token in a.top and token in b.top:
            return a.top[token] - b.top[token]
        return max(0.0, a.top[token] - last_b if token in a.top else b.top[token] - last_a)

    tokens = a.top.keys() | b.top.keys()
    return math.sqrt(sum(difference(token) ** 2 for token in tokens) / len(tokens))


def mean_answer(answers: Sequence[Answer]) -> Answer:
    """The mean log-probabilities of the tokens that all answers list."""
    common = set(answers[0].top).intersection(*(answer.top for answer in answers))
    top = {token: sum(answer.top[token] for answer in answers) / len(answers) for token in common}
    return Answer(top, answers[0].texts, answers[0].tokens, answers[0].data)


@dataclass(frozen=True)
class Scale:
    """Noise and signal of one server, in nats (or shares of texts, if `of_texts`)."""

    noise: float
    signal: float
    of_texts: bool

    @property
    def tolerance(self) -> float:
        return max(NOISE_FACTOR * self.noise, 0.0 if self.of_texts else FLOOR)

    def changed(self, a: Answer, b: Answer) -> bool:
        return distance(a, b) > self.tolerance

    def expects(self, size: float) -> bool:
        """Whether a change of this size would be seen for certain. Never of texts, which may stay equal by chance."""
        return not self.of_texts and size > CLEAR * self.tolerance

    @property
    def sees(self) -> bool:
        """Whether another image changes an answer so much that its absence would be seen."""
        return self.expects(self.signal)


def binomial_tail(k: int, n: int) -> float:
    """P(X >= k) of a fair coin in n throws."""
    return float(sum(math.comb(n, i) for i in range(k, n + 1)) / 2**n)


def fisher_fewer(a: int, n: int, b: int, m: int) -> float:
    """Fisher's exact p value that a of n is fewer than b of m."""
    total = a + b
    ways = sum(math.comb(n, i) * math.comb(m, total - i) for i in range(max(0, total - m), a + 1))
    return ways / math.comb(n + m, total)


def energy_test(one: Sequence[T], two: Sequence[T], of: Callable[[T, T], float], rng: random.Random) -> float:
    """Permutation p value that two groups have one distribution, by mean distance across minus mean distance within."""
    items = [*one, *two]
    matrix = [[of(a, b) for b in items] for a in items]

    def statistic(order: Sequence[int]) -> float:
        first, second = order[: len(one)], order[len(one) :]
        across = sum(matrix[i][j] for i in first for j in second) / (len(first) * len(second))
        within = [matrix[i][j] for group in (first, second) for i, j in itertools.combinations(group, 2)]
        return across - sum(within) / len(within)

    indices = range(len(items))
    own = statistic(indices)
    larger = sum(statistic(rng.sample(indices, len(items))) >= own - 1e-12 for _ in range(ROUNDS))
    return (1 + larger) / (1 + ROUNDS)

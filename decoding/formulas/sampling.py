"""How a token is drawn from combined scores: the best one, or a random one from the query's own stream.

A draw reads one uniform number a row and step, from `(seed, query id, "sampling", step)`, and inverts the cumulative
distribution in vocabulary order. So a draw depends on the scores and on the query, never on the batch around it, and
arms of one query share their random numbers, which makes their comparison a paired one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from icl.constraints import BeamCount, Count, Fraction, LengthPenalty, Temperature
from icl.registry import component
from icl.streams import StreamKey

if TYPE_CHECKING:
    from torch import Tensor

COLDEST = 1e-6
"""A temperature below is the best token: scores that are divided by it leave float32."""
NUCLEUS_GUESSES = (1024, 16_384)
"""A nucleus is looked for among so many best tokens first; only a larger one has the whole vocabulary sorted."""


@runtime_checkable
class Sampler(Protocol):
    """A frozen dataclass; `scores` are combined and masked, [B, V] float32 with -inf where a token is ruled out."""

    @property
    def deterministic(self) -> bool:
        """Whether equal scores always give equal tokens."""
        ...

    def choose(self, scores: "Tensor", keys: Sequence[StreamKey], step: int) -> "Tensor":
        """[B] long: one token a row. keys: whose stream each row draws from."""
        ...


@component("sampler", "greedy")
@dataclass(frozen=True)
class Greedy:
    """The best token."""

    deterministic = True

    def choose(self, scores: "Tensor", keys: Sequence[StreamKey], step: int) -> "Tensor":
        return scores.argmax(-1)


@component("sampler", "beam")
@dataclass(frozen=True)
class Beam:
    """The best of several hypotheses that run side by side (`decoding.engine.beam_search`).

    A single step takes the best token.
    """

    beams: BeamCount = 4  # hypotheses; 1 is greedy
    length_penalty: LengthPenalty = 1.0  # power of the length that a sum of log-probabilities is divided by

    deterministic = True

    def choose(self, scores: "Tensor", keys: Sequence[StreamKey], step: int) -> "Tensor":
        return scores.argmax(-1)


@component("sampler", "sampling")
@dataclass(frozen=True)
class Sampling:
    """A random token of softmax(scores / temperature), cut to the best (top-k, then top-p, then min-p)."""

    temperature: Temperature = 1.0  # 0 is the best token
    top_k: Count = 0  # the k best tokens; 0: all
    top_p: Fraction = 1.0  # the fewest best tokens that hold this probability together; 1: all
    min_p: Fraction = 0.0  # at least this share of the best token's probability; 0: all

    @property
    def deterministic(self) -> bool:
        return self.temperature < COLDEST

    def choose(self, scores: "Tensor", keys: Sequence[StreamKey], step: int) -> "Tensor":
        import torch

        if self.deterministic:
            return scores.argmax(-1)
        chances = self.distribution(scores).double()
        numbers = [key.number(f"sampling/{step}", 53) / 2**53 for key in keys]
        uniform = torch.tensor(numbers, dtype=torch.float64, device=scores.device)[:, None]
        heaped = chances.cumsum(-1)
        total = heaped[:, -1:]
        below = torch.nextafter(total, torch.zeros_like(total))  # a product rounded up to the total finds no token
        return torch.searchsorted(heaped, torch.minimum(uniform * total, below), right=True)[:, 0]

    def distribution(self, scores: "Tensor") -> "Tensor":
        """[B, V] float32 probabilities that `choose` draws from. Tokens tied with the last one kept are kept."""
        scores = scores.float() / self.temperature
        if 0 < self.top_k < scores.shape[-1]:
            scores = _from(scores, scores.topk(self.top_k).values[:, -1:])
        if self.top_p < 1:
            scores = _from(scores, nucleus_threshold(scores, self.top_p))
        if self.min_p > 0:
            chances = scores.softmax(-1)
            scores = scores.masked_fill(chances < self.min_p * chances.amax(-1, keepdim=True), -float("inf"))
        return scores.softmax(-1)


def _from(scores: "Tensor", least: "Tensor") -> "Tensor":
    return scores.masked_fill(scores < least, -float("inf"))


def nucleus_threshold(scores: "Tensor", share: float) -> "Tensor":
    """[B, 1]: the score of the last token of the smallest set of best tokens with at least this probability."""
    whole = scores.logsumexp(-1, keepdim=True)
    for size in sorted({min(guess, scores.shape[-1]) for guess in (*NUCLEUS_GUESSES, scores.shape[-1])}):
        best = scores.topk(size).values
        before = (best - whole).exp().cumsum(-1)
        if size == scores.shape[-1] or bool((before[:, -1] >= share).all()):
            break
    place = (before < share).sum(-1, keepdim=True).clamp(max=size - 1)
    return best.gather(-1, place)

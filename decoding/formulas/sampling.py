"""Samplers: they choose a token from combined scores, the best one or a random one.

A random choice uses one uniform number per row and step, from the stream `(seed, query id, "sampling", step)`. It
inverts the cumulative distribution in vocabulary order. The choice therefore depends on the scores and the query, not
on the batch. All arms of a query use the same random numbers, which makes their comparison a paired one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from decoding.formulas.distributions import steps_per_row
from icl import Count, Fraction, StreamKey, Tensor, component, copied_to_device, torch, wide_dtype, widened
from icl.registry import BeamCount, LengthPenalty, Temperature

COLDEST = 1e-6
"""Below this temperature the best token is chosen, because divided scores would overflow float32."""
NUCLEUS_GUESSES = (1024, 16_384)
"""Numbers of best tokens among which a nucleus is searched before the whole vocabulary is sorted."""


@runtime_checkable
class Sampler(Protocol):
    """Rule that chooses the next token from combined scores. A frozen dataclass."""

    @property
    def deterministic(self) -> bool:
        """Whether equal scores always give equal tokens."""

    def choose(self, scores: Tensor, keys: Sequence[StreamKey], step: int) -> Tensor:
        """One token per row.

        Args:
            scores: Combined and masked scores, [B, V] float32, -inf for tokens that are ruled out.
            keys: Random stream of each row.
            step: Number of the token, from 0.

        Returns:
            [B] int64.
        """


@component("sampler", "greedy")
@dataclass(frozen=True)
class Greedy:
    """Greedy sampler, which chooses the best token."""

    deterministic = True

    def choose(self, scores: Tensor, keys: Sequence[StreamKey], step: int) -> Tensor:
        return scores.argmax(-1)


@component("sampler", "beam")
@dataclass(frozen=True)
class Beam:
    """Beam search over several hypotheses (`decoding.engine.token_choice`).

    On its own, one step chooses the best token.
    """

    beams: BeamCount = 4  # number of hypotheses; 1 is greedy
    length_penalty: LengthPenalty = 1.0  # exponent of the length that divides a sum of log-probabilities

    deterministic = True

    def choose(self, scores: Tensor, keys: Sequence[StreamKey], step: int) -> Tensor:
        return scores.argmax(-1)


@component("sampler", "sampling")
@dataclass(frozen=True)
class Sampling:
    """Random sampler from softmax(scores / temperature), cut by top-k, then top-p, then min-p."""

    temperature: Temperature = 1.0  # divides the scores; 0 chooses the best token
    top_k: Count = 0  # number of best tokens that are kept; 0 keeps all
    top_p: Fraction = 1.0  # cumulative probability of the best tokens that are kept; 1 keeps all
    min_p: Fraction = 0.0  # minimal probability relative to the best token; 0 keeps all

    @property
    def deterministic(self) -> bool:
        return self.temperature < COLDEST

    def choose(self, scores: Tensor, keys: Sequence[StreamKey], step: int) -> Tensor:
        if self.deterministic:
            return scores.argmax(-1)
        uniform = copied_to_device(uniform_numbers(keys, step), wide_dtype(scores.device), scores.device)[:, None]
        return self.invert(scores, uniform)

    def invert(self, scores: Tensor, uniform: Tensor) -> Tensor:
        """The tokens at these places of the cumulative distribution: [B, V] and [B, 1] in [0, 1) -> [B].

        The distribution is summed in the widest type of the device.
        """
        probabilities = widened(self.distribution(scores))
        cumulative = probabilities.cumsum(-1)
        total = cumulative[:, -1:]
        below = torch.nextafter(total, torch.zeros_like(total))  # the total itself would match no token
        return torch.searchsorted(cumulative, torch.minimum(uniform * total, below), right=True)[:, 0]

    def distribution(self, scores: Tensor) -> Tensor:
        """Probabilities that `choose` draws from, [B, V] float32. Ties with the last kept token are kept."""
        scores = scores.float() / self.temperature
        if 0 < self.top_k < scores.shape[-1]:
            scores = _cut_below(scores, scores.topk(self.top_k).values[:, -1:])
        if self.top_p < 1:
            scores = _cut_below(scores, nucleus_threshold(scores, self.top_p))
        if self.min_p > 0:
            probabilities = scores.softmax(-1)
            scores = scores.masked_fill(
                probabilities < self.min_p * probabilities.amax(-1, keepdim=True), -float("inf")
            )
        return scores.softmax(-1)


def uniform_numbers(keys: Sequence[StreamKey], step: int) -> list[float]:
    """The uniform number in [0, 1) of each row at a step, or at the step of each row (`RowSteps`)."""
    steps = steps_per_row(step, len(keys))
    return [key.number(f"sampling/{one}", 53) / 2**53 for key, one in zip(keys, steps, strict=True)]


def _cut_below(scores: Tensor, threshold: Tensor) -> Tensor:
    return scores.masked_fill(scores < threshold, -float("inf"))


def nucleus_threshold(scores: Tensor, top_p: float) -> Tensor:
    """Lowest score in the nucleus, the smallest set of best tokens with this probability: [B, V] -> [B, 1]."""
    total = scores.logsumexp(-1, keepdim=True)
    guesses = NUCLEUS_GUESSES if scores.device.type == "cpu" else ()  # to test a guess waits for the device
    for size in sorted({min(guess, scores.shape[-1]) for guess in (*guesses, scores.shape[-1])}):
        best = scores.topk(size).values
        cumulative = (best - total).exp().cumsum(-1)
        if size == scores.shape[-1] or bool((cumulative[:, -1] >= top_p).all()):
            break
    last = (cumulative < top_p).sum(-1, keepdim=True).clamp(max=size - 1)
    return best.gather(-1, last)

import math
from functools import partial
from typing import Any

import pytest
import torch

from decoding.formulas.distributions import (
    bounded_divergence,
    entropy,
    jensen_shannon,
    kl_divergence,
    reversed_jensen_shannon,
)

P = torch.tensor([[0.9, 0.05, 0.05]]).log()
Q = torch.tensor([[0.8, 0.1, 0.1]]).log()


def test_kl_by_hand() -> None:
    """.9 ln(.9/.8) + .1 ln(.05/.1) = .10600 - .06931 = .03669."""
    assert float(kl_divergence(P, Q)) == pytest.approx(0.9 * math.log(0.9 / 0.8) + 0.1 * math.log(0.5), abs=1e-6)
    assert float(kl_divergence(P, Q)) == pytest.approx(0.03669, abs=1e-5)


def test_jensen_shannon_by_hand() -> None:
    """m = (.85, .075, .075): .5 [.9 ln(.9/.85) + .1 ln(.05/.075)] + .5 [.8 ln(.8/.85) + .2 ln(.1/.075)] = .00997."""
    by_hand = 0.5 * (0.9 * math.log(0.9 / 0.85) + 0.1 * math.log(0.05 / 0.075)) + 0.5 * (
        0.8 * math.log(0.8 / 0.85) + 0.2 * math.log(0.1 / 0.075)
    )
    assert float(jensen_shannon(P, Q)) == pytest.approx(by_hand, abs=1e-6)


def test_jensen_shannon_of_disjoint_distributions_is_log_2() -> None:
    disjoint = torch.tensor([[0.0, -200.0]]), torch.tensor([[-200.0, 0.0]])
    assert float(jensen_shannon(*disjoint)) == pytest.approx(math.log(2))


@pytest.mark.parametrize(("kappa", "expected"), [(0.2, 0.69), (0.7, 0.25), (1.0, 0.13), (0.0, 1.0)])
def test_bounded_divergence_by_hand(kappa: float, expected: float) -> None:
    """|p - q| = (.1, .05, .05), p + q = (1.7, .15, .15); kappa = 1: .85 log2(1.1) + .15 log2(1.05) = .1274."""
    by_hand = 0.85 * math.log2(0.1**kappa + 1) + 0.15 * math.log2(0.05**kappa + 1)
    assert float(bounded_divergence(P, Q, kappa)) == pytest.approx(by_hand, abs=1e-5)
    assert float(bounded_divergence(P, Q, kappa)) == pytest.approx(expected, abs=5e-3)


def test_divergences_of_nearly_equal_distributions_are_not_negative() -> None:
    p, noise = torch.randn(2, 400, 50, generator=torch.Generator().manual_seed(0))
    for divergence in (kl_divergence, jensen_shannon):
        assert float(divergence(p, p + 1e-4 * noise).min()) >= 0


def test_bounded_divergence_stays_in_its_bounds() -> None:
    generator = torch.Generator().manual_seed(0)
    for scale in (0.0, 1.0, 80.0):
        p, q = scale * torch.randn(2, 6, 50, generator=generator)
        divergence = bounded_divergence(p, q, 0.7)
        assert float(divergence.min()) >= 0
        assert float(divergence.max()) <= 1


def test_entropy_of_even_odds() -> None:
    assert float(entropy(torch.tensor([[1.0, 1.0, -math.inf]]))) == pytest.approx(math.log(2))


def test_tokens_without_probability_add_nothing() -> None:
    wider = [torch.cat([side, torch.tensor([[-math.inf]])], 1) for side in (P, Q)]
    for one in (kl_divergence, jensen_shannon, reversed_jensen_shannon, lambda p, q: bounded_divergence(p, q, 0.7)):
        torch.testing.assert_close(one(*wider), one(P, Q))


@pytest.mark.parametrize(
    "divergence",
    [kl_divergence, jensen_shannon, reversed_jensen_shannon, partial(bounded_divergence, kappa=0.7)],
)
def test_a_divergence_of_many_rows_is_a_column_of_the_divergences_of_each(divergence: Any) -> None:
    p, q = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(0))  # as many rows as tokens
    rows = torch.cat([divergence(p[i : i + 1], q[i : i + 1]) for i in range(3)])
    assert divergence(p, q).shape == (3, 1)
    torch.testing.assert_close(divergence(p, q), rows)

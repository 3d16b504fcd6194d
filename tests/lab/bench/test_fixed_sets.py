"""The measurement of the winner's curse, on matrices whose curse is known."""

import numpy as np
import pytest

from lab.bench.fixed_sets import compare_race, measure


def test_residuals_alone_are_the_curse() -> None:
    rng = np.random.default_rng(0)
    sets, queries = rng.normal(0, 0.1, (20, 1)), rng.normal(0, 0.3, (1, 90))
    dev, test = sets + queries[:, :40], sets + queries[:, 40:]
    assert measure(dev, test, 20, 30, 20) == pytest.approx((0, 0), abs=1e-12)
    assert compare_race(dev, test, 32, 5) == pytest.approx((1, 320 / 640))
    noise = rng.normal(0, 0.4, (20, 400))
    curse, forecast = measure(noise[:, :200], noise[:, 200:], 20, 32, 400)
    assert curse == pytest.approx(1.867 * 0.4 / 32**0.5, rel=0.15)
    assert forecast == pytest.approx(curse, rel=0.15)

"""The winner's curse: its forecast is what simulated searches show."""

import math

import numpy as np
import pytest

from experiments.running.optimize import expected_maximum, forecast_selection, variance_components
from experiments.stats import Floats


def test_the_mean_maximum_has_its_known_values() -> None:
    assert expected_maximum(1) == pytest.approx(0, abs=1e-9)
    assert expected_maximum(2) == pytest.approx(1 / math.sqrt(math.pi), abs=1e-6)
    assert expected_maximum(3) == pytest.approx(1.5 / math.sqrt(math.pi), abs=1e-6)
    assert expected_maximum(1000) == pytest.approx(3.2414, abs=1e-3)


def test_queries_of_different_difficulty_are_no_noise() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(0, 1, (5, 1)) + rng.normal(0, 9, (1, 7))
    residual, between = variance_components(scores)
    assert residual == pytest.approx(0, abs=1e-12)
    assert between == pytest.approx(scores.mean(axis=1).var(ddof=1))


def simulate(sets: int, queries: int, true_sd: float, sds: Floats) -> Floats:
    """Mean dev gain and curse of the best set; forecast noise, dev gain and curse. sds: of the errors of each set."""
    rng, searches = np.random.default_rng(sets), []
    for _ in range(400):
        true = rng.normal(0, true_sd, sets)
        scores = true[:, None] + rng.normal(0, 0.3, queries) + rng.normal(0, 1, (sets, queries)) * sds[:, None]
        best = scores.mean(axis=1).argmax()
        gain = float(scores[best].mean() - scores.mean())
        forecast = forecast_selection(scores, scores[best], sets)
        searches.append([gain, gain - true[best] + true.mean(), forecast.noise, forecast.dev_gain, forecast.curse])
    return np.array(searches).mean(axis=0)


@pytest.mark.parametrize(("sets", "queries", "true_sd"), [(8, 64, 0.085), (80, 16, 0.085), (40, 32, 0.0)])
def test_the_forecast_is_the_mean_of_simulated_searches(sets: int, queries: int, true_sd: float) -> None:
    gain, curse, noise, dev_gain, forecast = simulate(sets, queries, true_sd, np.full(sets, 0.4))
    assert dev_gain == pytest.approx(gain, abs=0.01)
    assert forecast == pytest.approx(curse, abs=0.015)
    assert (noise == pytest.approx(curse, abs=0.01)) == (true_sd == 0)


def test_the_forecast_of_a_set_with_larger_errors_is_larger() -> None:
    sds = np.where(np.arange(40) < 20, 0.1, 0.6)
    _, curse, noise, dev_gain, forecast = simulate(40, 32, 0.1, sds)
    forecast_of_equal_errors = noise**2 / dev_gain
    assert forecast == pytest.approx(curse, rel=0.1)
    assert forecast_of_equal_errors < 0.85 * curse


def test_the_components_of_simulated_scores_are_unbiased() -> None:
    rng = np.random.default_rng(1)
    pairs = [
        variance_components(rng.normal(0, 0.2, (30, 1)) + rng.normal(0, 1, (1, 20)) + rng.normal(0, 0.4, (30, 20)))
        for _ in range(200)
    ]
    assert np.mean(pairs, axis=0) == pytest.approx([0.16, 0.04], rel=0.06)

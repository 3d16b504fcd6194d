import numpy as np
import pytest

from lab.bench.recovery import DESIGNS, draw_scores, measure


def test_the_interval_of_a_recovery_covers_it_and_noise_has_none() -> None:
    strong, weak, noise = (measure(DESIGNS[name], 40, 120) for name in ("strong", "weak", "noise"))
    for coverage, _, without in (strong, weak):
        assert coverage >= 0.95 - 2.5 * np.sqrt(0.05 * 0.95 / 120)
        assert without <= 0.05
    assert weak[1] > strong[1] > 0.1
    assert noise[2] >= 0.9


def test_a_design_has_its_accuracies() -> None:
    arms = draw_scores(np.random.default_rng(0), DESIGNS["weak"], 20_000)
    assert [one.mean() for one in arms] == pytest.approx([0.7, 1.0, 0.9], abs=0.012)

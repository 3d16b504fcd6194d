import math

import pytest

from experiments.stats.answer_forms import measure_agreement
from experiments.stats.intervals import wilson

PAIRS = [(True, True)] * 20 + [(True, False)] * 5 + [(False, True)] * 10 + [(False, False)] * 15


def test_kappa_and_its_interval_are_the_agreement_beyond_chance() -> None:
    """Agreement .7 where .5 is expected by chance: kappa .4."""
    agreement = measure_agreement(PAIRS)
    assert agreement.share == (0.7, *wilson(35, 50))
    assert agreement.kappa is not None
    assert agreement.kappa == pytest.approx([(value - 0.5) / 0.5 for value in agreement.share])
    assert agreement.kappa[0] == pytest.approx(0.4)


def test_full_agreement_has_an_interval_and_a_constant_metric_has_no_kappa_above_0() -> None:
    kappa = measure_agreement([(True, True)] * 5 + [(False, False)] * 5).kappa
    assert kappa is not None
    assert kappa[0] == 1
    assert kappa[1] < 0.9
    constant = measure_agreement([(True, True)] * 5 + [(False, True)] * 5).kappa
    assert constant is not None
    assert constant[0] == 0
    assert measure_agreement([(True, True)] * 5).kappa is None
    assert "undefined" in measure_agreement([(True, True)] * 5).describe()


def test_a_missing_verdict_is_a_disagreement() -> None:
    agreement = measure_agreement([(True, True), (False, False), (True, None)])
    assert math.isclose(agreement.share[0], 2 / 3)
    with pytest.raises(ValueError, match="at least one"):
        measure_agreement([])

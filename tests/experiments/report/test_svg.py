from xml.etree import ElementTree

import pytest

from experiments.report.svg import LinearScale, element, escape_text, padded_range, tick_step, ticks


def test_text_and_attributes_are_escaped():
    made = element("text", escape_text("<b>&\x00\x1b"), x=1.5, class_="tick", aria_label='"<x>"')
    parsed = ElementTree.fromstring(made)
    assert parsed.text == "<b>&"
    assert parsed.attrib == {"x": "1.5", "class": "tick", "aria-label": '"<x>"'}


def test_a_scale_maps_ends_and_middle():
    scale = LinearScale(0.5, 1.0, 200, 0)
    assert (scale(0.5), scale(0.75), scale(1.0)) == (200, 100, 0)
    assert LinearScale(1, 1, 7, 9)(1) == 7


@pytest.mark.parametrize(("width", "step"), [(1, 0.2), (0.5, 0.1), (0.2, 0.05), (0.24, 0.05), (3, 0.5)])
def test_ticks_are_round(width, step):
    assert tick_step(width) == pytest.approx(step)


def test_ticks_stay_inside():
    assert ticks(0.62, 1.0) == [0.7, 0.8, 0.9, 1.0]


@pytest.mark.parametrize("values", [[0.9], [0.01, 0.02], [0.3, 0.95], [0, 1]])
def test_a_range_holds_its_values_within_the_bounds(values):
    low, high = padded_range(values, 0.2)
    assert 0 <= low <= min(values)
    assert max(values) <= high <= 1
    assert high - low >= 0.2 - 1e-9


@pytest.mark.parametrize("values", [[120.0, 150.0], [0.9, 1.4], [-3.0, 0.5]])
def test_values_outside_a_share_have_a_range_of_their_own(values):
    low, high = padded_range(values, 0.2)
    assert low <= min(values) < max(values) <= high
    assert high - low <= 2 * (max(values) - min(values))

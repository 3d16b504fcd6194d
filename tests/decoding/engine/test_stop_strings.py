"""Texts cut at stop strings."""

import pytest

from decoding.engine.stop_strings import cut_at_stop_string, cut_generation
from icl.types import Generation


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("red. blue", (".",), "red"),
        ("red. blue; green", (";", "."), "red"),
        (". red", (".",), ""),
        ("red", (".",), "red"),
        ("red.", (), "red."),
    ],
)
def test_a_text_ends_before_the_first_stop_string(text: str, stops: tuple[str, ...], expected: str) -> None:
    assert cut_at_stop_string(text, stops) == expected
    generation = cut_generation(Generation(text, (1, 2)), stops)
    assert (generation.text, generation.tokens) == (expected, (1, 2))

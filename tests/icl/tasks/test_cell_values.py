"""Lists that a cell has as text."""

import pytest

from icl.tasks.cell_values import parse_list


def test_a_list_as_text_has_its_items() -> None:
    assert parse_list("['open', 'a, b', 3]") == ["open", "a, b", 3]


@pytest.mark.parametrize(
    "text", ["open", "[sic] open", "[1], [2]", "[", "[" + "-" * 5000 + "1]", "[" * 500 + "]" * 500]
)
def test_any_other_text_is_no_list(text: str) -> None:
    assert parse_list(text) is None

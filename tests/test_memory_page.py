"""The page of what fits on a GPU says what the formulas give."""

from tests.memory_page import PAGE, page


def test_the_page_is_that_of_the_code() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `python tests/memory_page.py`"

"""The gold of a query, for oracles."""

import pytest

from icl.errors import PlanError
from icl.streams import StreamKey
from icl.types import Context, Example
from prompts.gold import gold_of

EXAMPLE = Example("q", (), "which?", ("red",))


def test_the_gold_is_the_example_in_the_place_of_the_query() -> None:
    assert gold_of(Context(EXAMPLE, (), StreamKey(0, "q")), "orderer 'x'") is EXAMPLE  # type: ignore[arg-type]  # oracles


def test_a_context_without_gold_is_an_error_that_names_the_component() -> None:
    with pytest.raises(PlanError, match=r"^orderer 'x' is an oracle: it needs the gold of query 'q'\."):
        gold_of(Context(EXAMPLE.query, (), StreamKey(0, "q")), "orderer 'x'")

import pytest

from experiments.record import baselines
from icl.metrics.lenient import Lenient
from icl.metrics.option import Option
from icl.metrics.strict import Strict
from icl.metrics.yes_no import Unparsed
from icl.types import Demo, Example


def shown(*answers: str) -> list[Demo]:
    return [Demo(Example(f"d{i}", (), "?", (answer,)), 0.0, i) for i, answer in enumerate(answers)]


ASKED = Example("q", (), "?", ("red",), options=("red", "Blue"))


def test_every_metric_judges_what_the_demonstrations_say() -> None:
    told = baselines({"lenient": Lenient(), "strict": Strict()}, shown("it is red", "it is red", "blue"), ASKED)
    assert told["vote"] == {"lenient": 1.0, "strict": 0.0}
    assert told["last_copy"] == {"lenient": 0.0, "strict": 0.0}


@pytest.mark.parametrize(("voted", "right"), [("red", 1.0), ("Red", 1.0), ("blue", 0.0), ("green", 0.0)])
def test_where_options_are_scored_the_vote_is_the_chosen_one(voted: str, right: float) -> None:
    told = baselines({"option": Option(), "lenient": Lenient()}, shown(voted, voted, "red"), ASKED)
    assert told["vote"] == {"option": right, "lenient": right}


def test_a_metric_that_does_not_apply_judges_nothing() -> None:
    free = Example("q", (), "?", ("red",))
    assert baselines({"unparsed": Unparsed(), "option": Option()}, shown("red"), free) == {}
    assert baselines({"strict": Strict()}, (), free) == {}

from dataclasses import dataclass
from typing import Any

import pytest

from experiments.running.recorder import baselines, scores
from icl.errors import DataError
from icl.metrics.lenient import Lenient
from icl.metrics.machinery.yes_no import UnparsedRate
from icl.metrics.option import OptionAccuracy
from icl.metrics.strict import Strict
from icl.types import Demo, Example, Generation


def demonstrations(*answers: str) -> list[Demo]:
    return [Demo(Example(f"d{i}", (), "?", (answer,)), 0.0, i) for i, answer in enumerate(answers)]


EXAMPLE = Example("q", (), "?", ("red",), options=("red", "Blue"))


def test_every_metric_scores_the_baselines() -> None:
    values = baselines(
        {"lenient": Lenient(), "strict": Strict()}, demonstrations("it is red", "it is red", "blue"), EXAMPLE
    )
    assert values["vote"] == {"lenient": 1.0, "strict": 0.0}
    assert values["last_copy"] == {"lenient": 0.0, "strict": 0.0}


@pytest.mark.parametrize(("voted", "right"), [("red", 1.0), ("Red", 1.0), ("blue", 0.0), ("green", 0.0)])
def test_if_options_are_scored_the_vote_is_the_chosen_option(voted: str, right: float) -> None:
    values = baselines({"option": OptionAccuracy(), "lenient": Lenient()}, demonstrations(voted, voted, "red"), EXAMPLE)
    assert values["vote"] == {"option": right, "lenient": right}


def test_a_metric_that_does_not_apply_has_no_score() -> None:
    free = Example("q", (), "?", ("red",))
    assert baselines({"unparsed_rate": UnparsedRate(), "option": OptionAccuracy()}, demonstrations("red"), free) == {}
    assert baselines({"strict": Strict()}, (), free) == {}


@dataclass(frozen=True)
class Constant:
    """A user's metric."""

    value: Any
    better = "higher"

    def score(self, generation: Generation, example: Example) -> Any:
        return self.value


@pytest.mark.parametrize("value", [2.0, -0.5, float("nan"), float("inf"), "yes", [1.0]])
def test_an_invalid_score_is_an_error(value: Any) -> None:
    with pytest.raises(DataError, match=r"mine: the score of 'red' for 'q' is .*, not a number in \[0, 1\] or None"):
        scores({"mine": Constant(value)}, Generation("red"), EXAMPLE)


@pytest.mark.parametrize("value", [0, 1, True, 0.5, 1 + 1e-12])
def test_a_number_from_0_to_1_is_a_score(value: float) -> None:
    assert scores({"mine": Constant(value), "none": Constant(None)}, Generation("red"), EXAMPLE) == {"mine": value}

"""Claims and published numbers that a grid cannot answer are named before anything runs."""

from typing import Any

import pytest

from experiments.config.config import load_config
from experiments.grid.grid import expand
from experiments.grid.grid_warnings import grid_warnings
from experiments.planning.plan import make_plan
from experiments.planning.plan_text import format_plan

CLAIM: dict[str, Any] = {"claim": "x", "arm": {"retriever": "knn"}, "against": {"retriever": "random"}}
NUMBER: dict[str, Any] = {"at": {"shots": 2, "retriever": "knn", "category": "adversarial"}, "value": 0.8}


@pytest.fixture
def keys(mapping: Any) -> Any:
    retrievers = [{"name": "knn", "embedder": "pixels"}, "random"]
    return lambda **more: mapping(grid={"retriever": retrievers}, metrics=["lenient", "yes_ratio"], **more)


def warnings_of(config: Any) -> list[str]:
    return list(grid_warnings(expand(load_config(config))))


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        ({"against": {"retriever": "rand"}}, "against.retriever: no arm has retriever 'rand'. Did you mean 'random'?"),
        ({"arm": {"shots": 7}}, "arm.shots: no arm has shots '7'. Values: 2."),
        ({"metric": "lenien"}, "metric: no metric 'lenien' in metrics. Did you mean 'lenient'? There are lenient"),
        ({"tasks_with": "yes_rate"}, "tasks_with: no metric 'yes_rate' in metrics. Did you mean 'yes_ratio'?"),
    ],
)
def test_a_claim_about_what_the_grid_lacks_is_named(keys: Any, part: dict[str, Any], sentence: str) -> None:
    (warning,) = warnings_of(keys(claims=[{**CLAIM, **part}]))
    assert warning.startswith(f"config: claims[0].{sentence}")


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        ({"at": {"shot": 2}}, "at.shot: no axis 'shot', so it is read as a column of the data. Did you mean 'shots'?"),
        ({"at": {"shots": 7}}, "at.shots: no arm has shots '7'. Values: 2."),
        ({"minus": {"retriever": "rand"}}, "minus.retriever: no arm has retriever 'rand'. Did you mean 'random'?"),
        ({"metric": "lenien"}, "metric: no metric 'lenien' in metrics. Did you mean 'lenient'?"),
        ({"value": 83.3}, "value: 'lenient' is a share from 0 to 1, and 83.3 is none. Write a percentage as 0.833."),
    ],
)
def test_a_number_of_what_the_grid_lacks_is_named(keys: Any, part: dict[str, Any], sentence: str) -> None:
    (warning,) = warnings_of(keys(published=[{**NUMBER, **part}]))
    assert warning.startswith(f"config: published[0].{sentence}")


def test_statements_on_the_grid_are_silent_and_the_plan_prints_the_others(keys: Any) -> None:
    baseline = {**CLAIM, "against": {"baseline": "vote"}, "metric": "yes_ratio"}
    numbers = [NUMBER, {**NUMBER, "value": 83.3, "metric": "yes_ratio"}]  # no share of right answers
    assert warnings_of(keys(claims=[CLAIM, baseline], published=numbers)) == []
    plan = make_plan(expand(load_config(keys(claims=[{**CLAIM, "metric": "lenien"}]))))
    assert any("claims[0].metric: no metric 'lenien'" in line for line in format_plan(plan))

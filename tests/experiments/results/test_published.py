"""Published numbers beside those of runs whose scores are known."""

from typing import Any

import pytest
from published_numbers import compare_published

from experiments.analyses.published import analyze
from experiments.api import run
from experiments.config.config import load_config
from experiments.report.page import write_report
from experiments.results.run_view import RunView
from experiments.results.view_run import view_run
from icl.errors import ConfigError

RIGHT, WRONG = "fake-gold(accuracy=1)", "fake-gold(accuracy=0)"
HOSTILE = "<script>alert(1)</script>"
NUMBERS: list[dict[str, Any]] = [
    {"at": {"shots": 0}, "value": 0.75, "model": "Fake-Gold (accuracy=1)", "source": HOSTILE},
    {"at": {"shots": 0}, "value": 0.75, "model": "GPT-4V"},
    {"at": {"shots": 2, "model": RIGHT}, "minus": {"model": WRONG}, "value": 0.4},
    {"at": {"model": RIGHT}, "best_of": "shots", "value": 0.9},
    {"at": {"model": RIGHT}, "value": 0.9},
    {"at": {"model": RIGHT, "shots": 0, "city": "Rome"}, "value": 0.9},
    {"at": {"model": RIGHT, "shots": 4}, "value": 0.9},
    {"at": {"model": RIGHT, "shots": 0}, "metric": "cider", "value": 0.9},
]


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> RunView:
    models = [{"name": "fake-gold", "accuracy": accuracy} for accuracy in (1.0, 0.0)]
    config = {"name": "t", "task": {"name": "binding", "ways": 2, "queries": 20}, "published": NUMBERS}
    config |= {"grid": {"model": models, "shots": [0, 2]}}
    return view_run(run(config, runs=tmp_path_factory.mktemp("published"), quiet=True))


def test_a_number_stands_beside_that_of_its_arm_and_model(view: RunView) -> None:
    numbers = [one for one in compare_published(view) if one.here is not None]
    rows = [(one.model, one.is_same_model, one.here and one.here.mean, one.difference[0]) for one in numbers]
    assert rows == [
        (RIGHT, True, 1, 0.25),  # the model that was measured
        (RIGHT, False, 1, 0.25),  # GPT-4V was not run: each model of the run
        (WRONG, False, 0, -0.75),
        (RIGHT, False, 1, 0.6),  # the difference of two arms
        (RIGHT, False, 1, pytest.approx(0.1)),  # the best number of shots
    ]
    assert numbers[0].difference[1:] == (pytest.approx(numbers[0].here.low - 0.75), pytest.approx(0.25))


def test_a_number_without_an_arm_says_why(view: RunView) -> None:
    several, column, shots, metric = [one.refused for one in compare_published(view) if one.here is None]
    assert several == "`at` names several arms: add shots"
    assert column.startswith("the data of the run has no column 'city'")
    assert shots.startswith("published: at: no arm has shots '4'.")
    assert metric == "the run has no score 'cider'"


def test_a_number_of_a_part_of_the_data_is_that_of_its_queries(mapping: Any, tmp_path: Any) -> None:
    number = {"at": {"answer": "red"}, "value": 0.5}
    view = view_run(run(mapping(model={"name": "fake-gold"}, published=[number]), runs=tmp_path, quiet=True))
    (one,) = compare_published(view)
    scores = view.frame[[gold[0] == "red" for gold in view.frame["gold"]]]["lenient"]
    assert one.here is not None
    assert (one.here.samples, one.here.mean) == (len(scores), scores.mean())
    assert 0 < len(scores) < len(view.frame)


def test_report_and_analysis_have_the_numbers_and_escape_them(view: RunView, written: Any) -> None:
    page = write_report(view).report.read_text(encoding="utf-8")
    assert '<section id="published"' in page
    assert HOSTILE not in page
    table = analyze(view)
    assert table["published"].tolist() == [0.75, 0.75, 0.75, 0.4, 0.9, 0.9, 0.9, 0.9, 0.9]
    plain = view_run(written(queries=4))
    assert '<section id="published"' not in write_report(plain).report.read_text(encoding="utf-8")
    with pytest.raises(ConfigError, match="has no key `published`"):
        analyze(plain)


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"value": "abc"}, "published[0].value: value must be a number, not 'abc'."),
        ({"metric": ""}, "published[0].metric: metric must be a string or null that is not empty, not ''."),
        ({"value": float("nan")}, "published[0].value: value must be a finite number, not nan."),
        ({"value": float("-inf")}, "published[0].value: value must be a finite number, not -inf."),
        ({"best_of": "shot"}, "published[0].best_of: no axis 'shot'. Did you mean 'shots'?"),
        ({"best_of": "shots"}, "published[0]: at sets shots, so there is no best value of it."),
        (
            {"at": {"decoding": "vcd"}, "best_of": "shots", "minus": {"shots": 0}},
            "published[0]: minus sets shots, so there is no best value of it.",
        ),
        ({"source": []}, "published[0].source: source must be a string, not []."),
    ],
)
def test_a_mistake_in_a_number_is_named(mapping: Any, keys: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_config(mapping(published=[{"at": {"shots": 2}, "value": 0.5, **keys}]))
    assert sentence in str(raised.value)

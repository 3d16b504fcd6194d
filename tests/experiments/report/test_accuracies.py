"""Which scores are called accuracies: those whose metric says so, anyone's own too."""

from dataclasses import dataclass
from typing import ClassVar

import pytest

from experiments.api import run
from experiments.report.page import find_section
from experiments.results.view_run import view_run
from icl.registry import entries, resolve
from icl.testing.conformance import check_metric

OWN = """
from dataclasses import dataclass
from typing import ClassVar

@dataclass(frozen=True)
class First:
    better: ClassVar[str] = "higher"
    accuracy: ClassVar[bool] = True

    def score(self, generation, example):
        return float(generation.text[:1] == example.answers[0][:1])

@dataclass(frozen=True)
class Length:
    better: ClassVar[str] = "higher"

    def score(self, generation, example):
        return len(generation.text) / 1000
"""


def test_a_metric_of_ones_own_is_an_accuracy_where_it_says_so(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    own = [f"{tmp_path}/own.py:Length", f"{tmp_path}/own.py:First"]
    study = {"name": "own", "task": {"name": "binding", "queries": 3}, "model": "fake-vote", "shots": 2}
    made = run({**study, "metrics": [*own, "strict", "lenient"]}, runs=tmp_path / "runs")
    view = view_run(made, "First")
    assert view.accuracies == ("lenient", "strict", "First")
    assert (view.measure, view_run(made, "Length").measure) == ("First accuracy", "Length")
    assert "First accuracy" in find_section(view, "scores").notes[0]
    assert "Length" in find_section(view_run(made, "Length"), "scores").notes[0]


def test_ours_are_those_of_right_and_wrong():
    accuracies = {name for name in entries("metric") if getattr(resolve("metric", name), "accuracy", False)}
    assert accuracies >= {"lenient", "strict", "option", "pope"}
    assert not accuracies & {"yes", "vqa", "f1", "cider"}


@dataclass(frozen=True)
class Half:
    better: ClassVar[str] = "higher"
    accuracy: ClassVar[bool] = True

    def score(self, generation, example):
        return 0.5


def test_an_accuracy_that_gives_halves_is_an_error():
    with pytest.raises(AssertionError, match=r"Half says that it is an accuracy, and the score of .* is 0\.5"):
        check_metric(Half())

"""Every metric passes the public check, and the check detects one that violates it."""

from dataclasses import dataclass

import pytest

from icl.errors import ConfigError
from icl.parameter_docs import parameter_docs
from icl.registry import build, entries, resolve
from icl.testing.conformance import check_metric


def needs_parameters(name):
    """Whether a config must set something: a task, a judge. Such metrics have checks of their own."""
    return any(one.required for one in parameter_docs(resolve("metric", name)))


@pytest.mark.parametrize("name", [name for name in entries("metric") if not needs_parameters(name)])
def test_it_keeps_the_promises_of_a_metric(name):
    metric = build("metric", name)
    try:
        getattr(metric, "preflight", lambda: None)()
    except ConfigError as error:
        pytest.skip(str(error))
    check_metric(metric)


def test_a_metric_that_leaves_the_unit_interval_is_caught():
    @dataclass(frozen=True)
    class Length:
        better = "higher"

        def score(self, generation, example):
            return len(generation.text)

    with pytest.raises(AssertionError, match=r"Length: the score of .* not a number in \[0, 1\]"):
        check_metric(Length())


def test_a_metric_that_prefers_silence_is_caught():
    @dataclass(frozen=True)
    class Silence:
        better = "higher"

        def score(self, generation, example):
            return float(generation.text == "")

    with pytest.raises(AssertionError, match="worse than an empty output"):
        check_metric(Silence())

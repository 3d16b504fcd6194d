"""The keys of an experiment file that say what others claim and publish: `claims` and `published`.

They change no sample and no digest. The report sets them beside the numbers of the run.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import MinLen

Text = Annotated[str, MinLen(1)]
Expectation = Literal["better", "worse", "higher", "lower"]
BASELINE_KEY = "baseline"
"""In place of axes, `against: {baseline: vote}` compares an arm with the vote of its demonstrations."""


@dataclass(frozen=True, kw_only=True)
class ClaimSpec:
    """A claim about two arms of the run, which the report tests."""

    claim: Text  # the claim in words
    arm: Mapping[str, Any]  # the arm that it is about: axes and values, such as {decoding: vcd}
    against: Mapping[str, Any]  # the axes in which the other arm differs, and its values; or {baseline: vote}
    expect: Expectation = "better"  # what the claim says of the arm: better, worse, higher or lower than the other one
    metric: Text | None = None  # the metric of the claim; by default that of compare
    tasks_with: Text | None = None  # a metric: the claim is about tasks with scores of it, as yes/no tasks of yes_ratio
    source: str = ""  # who claims it: a paper, with the place


@dataclass(frozen=True, kw_only=True)
class PublishedSpec:
    """A published number of one arm, which the report sets beside that of the run."""

    at: Mapping[str, Any]  # the arm that it belongs to: axes and values, such as {decoding: vcd, shots: 0}
    value: float  # the number, in the unit of the metric: an accuracy of 83.3 % is 0.833
    minus: Mapping[str, Any] | None = None  # for a difference: the axes in which the subtracted arm differs
    best_of: Text | None = None  # an axis of which the number is the best value, such as shots
    metric: Text | None = None  # the metric of the number; by default that of compare
    model: str = ""  # the model that was measured
    source: str = ""  # where it is published, and what differs from this file

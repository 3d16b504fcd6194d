"""Runs whose arms are equal: reports, tests and looks find a difference no more often than their level says.

`ICL_NULL=1000` simulates 1,000 runs of each design. The default is a few.
"""

import os

import pytest

from experiments.config.keys import StopSpec
from lab.simulation.designs import DESIGNS, PAGE_DESIGNS
from lab.simulation.measures import LEVEL, comparison_rows, family_rows, page_rows
from lab.simulation.wording import wording_rows

RUNS = int(os.environ.get("ICL_NULL", "10"))
LARGEST = LEVEL + 4 * (LEVEL * (1 - LEVEL) / RUNS) ** 0.5
"""Four standard errors above the level: sixteen designs exceed it in fewer than one of 1,000 nights."""


@pytest.mark.parametrize("clusters", [12, 200])
@pytest.mark.parametrize("design", DESIGNS)
def test_a_paired_test_of_equal_arms_keeps_its_level(design: str, clusters: int) -> None:
    (row,) = comparison_rows([design], [clusters], 0.0, runs=RUNS, seed=1)
    assert row["false positives"] <= LARGEST


@pytest.mark.parametrize("design", PAGE_DESIGNS)
def test_a_page_of_equal_arms_has_no_false_sentence(design: str) -> None:
    (row,) = page_rows([design], [12], max(2, RUNS // 5), seed=1)
    assert row["pages with a false sentence"] <= LEVEL + 4 * (LEVEL * (1 - LEVEL) / max(2, RUNS // 5)) ** 0.5


@pytest.mark.parametrize("design", [name for name in DESIGNS if name != "f1"])
def test_looks_at_equal_arms_keep_their_level(design: str) -> None:
    (row,) = family_rows([design], [200], 0.1, comparisons=8, real=0, runs=RUNS, spec=StopSpec(), seed=1)
    assert row["any false verdict"] <= LARGEST


def test_wording_alone_makes_no_claim() -> None:
    rows = list(wording_rows([100], 0.1, 0.2, max(2, RUNS // 5), seed=1))
    assert rows[0]["prose"] == "0 / 0"
    limit = LEVEL + 4 * (LEVEL * (1 - LEVEL) / max(2, RUNS // 5)) ** 0.5
    assert all(row[f"false: {what}"] <= limit for row in rows for what in ("bounds", "labeled", "stop"))
    bare = rows[0]
    assert bare["undecided"] == 0
    assert bare["power at 10 points: bounds"] == bare["power: all labels"]
    assert bare["power: stop"] > 0
    assert bare["false: bounds"] == bare["false: rule alone"]

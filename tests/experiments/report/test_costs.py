"""What a run cost, in a reader's words."""

from types import SimpleNamespace
from typing import Any

import pytest

from experiments.report.section import Section
from experiments.report.sections.costs import cost_lines, costs_sections, sum_counters

COUNTERS = {
    "decoding_requests": 100, "requests_reused": 40, "branch_prompts": 50, "duplicates_merged": 0, "num_images": 30,
    "rows_without_sharing": 10, "rows": 5, "batches_halved": 1, "forwards": 7, "suffix_tokens": 0,
}  # fmt: skip


def costs_of(info: dict[str, Any]) -> Section:
    (costs,) = costs_sections(SimpleNamespace(info=info, probes=()))  # type: ignore[arg-type]  # it reads these alone
    return costs


def test_sessions_are_summed_and_what_was_spared_is_a_share() -> None:
    session = {"start": "2026-01-02T03:04:05", "end": "2026-01-02T04:04:15", "counters": COUNTERS}
    info = {"sessions": [session, session, {"counters": {"decoding_requests": 50}}]}
    costs = costs_of(info)
    assert costs.folded == "Wall time of all sessions: 2:00:20"
    lines = cost_lines(sum_counters(info))
    assert [line[:3] for line in lines] == [
        ("answers", 250, 170),
        ("prompts, each branch counted", 100, 100),
        ("tokens of answers, each branch counted", 20, 10),
    ]  # of images it is not known how many were encoded
    assert [line[3] for line in lines] == pytest.approx([0.32, 0, 0.5])
    assert costs.notes[0] == "2 batches did not fit the memory and were split."
    assert "forwards 14" in costs.notes[-1]
    assert "suffix_tokens" not in costs.notes[-1]


def test_a_run_that_counted_nothing_has_no_costs() -> None:
    assert cost_lines(sum_counters({})) == []
    assert costs_of({"sessions": [{"counters": {"requests": 3}}]}).notes[0] == "3 requests were sent."

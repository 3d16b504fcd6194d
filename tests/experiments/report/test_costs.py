"""What a run cost, in a reader's words."""

from experiments.report.costs import summarize_costs

COUNTERS = {
    "decoding_requests": 100, "requests_reused": 40, "branch_prompts": 50, "duplicates_merged": 0, "num_images": 30,
    "rows_without_sharing": 10, "rows": 5, "batches_halved": 1, "forwards": 7, "suffix_tokens": 0,
}  # fmt: skip


def test_sessions_are_summed_and_what_was_spared_is_a_share() -> None:
    session = {"start": "2026-01-02T03:04:05", "end": "2026-01-02T04:04:15", "counters": COUNTERS}
    costs = summarize_costs({"sessions": [session, session, {"counters": {"decoding_requests": 50}}]})
    assert costs.time == "2:00:20"
    assert costs.lines == (
        ("answers", "250", "170", "32%"),
        ("prompts, each branch counted", "100", "100", "0%"),
        ("tokens of answers, each branch counted", "20", "10", "50%"),
    )  # of images it is not known how many were encoded
    assert costs.notes == ("2 batches did not fit the memory and were split",)
    assert ("forwards", "14") in costs.rest
    assert not any(name == "suffix_tokens" for name, _ in costs.rest)


def test_a_run_that_counted_nothing_has_no_costs() -> None:
    assert not summarize_costs({})
    assert summarize_costs({"sessions": [{"counters": {"requests": 3}}]}).notes == ("3 requests were sent",)

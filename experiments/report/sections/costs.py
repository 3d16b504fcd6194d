"""Costs: what the arms requested and what was computed, and what lazy branches saved (`branch_scheduling`)."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from experiments.report.section import Column, Section
from experiments.results.run_view import RunView
from experiments.stats import format_count
from icl import pd

LINES = (
    ("answers", "decoding_requests", "requests_reused", True),
    ("prompts, each branch counted", "branch_prompts", "duplicates_merged", True),
    ("images", "num_images", "images_encoded", False),
    ("tokens of prefilled prompts", "prompt_tokens", "prefill_tokens", False),
    ("tokens of answers, each branch counted", "rows_without_sharing", "rows", False),
)
"""(quantity, counter of requests, second counter, whether the second one counts what was saved or computed)."""

REMARKS = {
    "prompts_prepared": ("text was generated before the answers", "texts were generated before the answers"),
    "default_notes": (
        "request had a default, because the text before its answer names no choice",
        "requests had a default, because the texts before their answers name no choice",
    ),
    "shared_prefix_tokens": (
        "prompt token was reused from another prompt",
        "prompt tokens were reused from other prompts",
    ),
    "suffix_tokens": ("token was read to score options", "tokens were read to score options"),
    "batches_halved": ("batch did not fit the memory", "batches did not fit the memory and were split"),
    "cached_tokens": ("token was found in a prefix cache", "tokens were found in a prefix cache"),
    "requests": ("request was sent", "requests were sent"),
    "retries": ("request was sent again", "requests were sent again"),
}
SHARED = (
    "Equal prompts, images, and beginnings of prompts and answers are computed once for all arms. These are the costs "
    "of the grid, not of one method alone."
)
LAZY = (
    "All branches but the reference. lazy: contrast branches are prefilled at the first step that the reference does "
    "not decide alone. gated: later steps run them only if needed. Answers do not change; `lazy_branches: never` "
    "disables both. Each arm is counted as if it ran alone."
)


def costs_sections(view: RunView) -> Iterator[Section]:
    """The costs of the run, then of the branches of each arm."""
    total = sum_counters(view.info)
    seconds, lines = session_seconds(view.info), cost_lines(total)
    frame = pd.DataFrame(lines, columns=["quantity", "requested", "computed", "saved"])
    columns = [
        Column("quantity", " "),
        Column("requested", "requested by the arms", "count"),
        Column("computed", kind="count"),
        Column("saved", kind="share", says="1 - computed / requested"),
    ]
    every = ", ".join(f"{name} {_number(value)}" for name, value in total.items() if value)
    remarks = [f"{format_count(int(total[name]), *words)}." for name, words in REMARKS.items() if total.get(name)]
    notes = [*remarks, SHARED, f"Every counter: {every}." if every else "", *view.probes]
    time = f"Wall time of all sessions: {_clock(seconds)}" if seconds else "The run recorded no time."
    yield Section("costs", "Costs", frame=frame, columns=columns, notes=notes, folded=time)
    if branches := branch_costs(view.info):
        columns = [
            Column("decoding"),
            *(Column(name, name.replace("_", " "), "count") for name in branches[0] if name != "decoding"),
        ]
        frame = pd.DataFrame(branches)
        yield Section("branches", "Costs of branches", frame=frame, columns=columns, notes=[LAZY], folded="By arm")


def sum_counters(info: Mapping[str, Any]) -> dict[str, float]:
    """The counters of run.json, summed over sessions."""
    total: dict[str, float] = {}
    for session in info.get("sessions", []):
        for name, value in session.get("counters", {}).items():
            total[name] = total.get(name, 0) + value
    return total


def session_seconds(info: Mapping[str, Any]) -> float:
    """The seconds of all finished sessions of a run."""
    seconds = 0.0
    for session in info.get("sessions", []):
        if "start" in session and "end" in session:
            start, end = (datetime.fromisoformat(session[key]) for key in ("start", "end"))
            seconds += (end - start).total_seconds()
    return seconds


def cost_lines(total: Mapping[str, float]) -> list[tuple[str, float, float, float]]:
    """(quantity, requested, computed, share saved) of what was requested, if both counters are known."""
    lines = []
    for what, requested, other, is_saved in LINES:
        if (whole := total.get(requested, 0)) and other in total:
            computed = whole - total[other] if is_saved else total[other]
            lines.append((what, whole, computed, 1 - computed / whole if computed <= whole else float("nan")))
    return lines


def branch_costs(info: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The work of contrast branches of each arm, over all sessions. A forward is one row: one token of one branch."""
    total: dict[str, dict[str, int]] = {}
    for session in info.get("sessions", []):
        for label, work in session.get("arms", {}).items():
            own = total.setdefault(label, {})
            for name, value in work.items():
                own[name] = own.get(name, 0) + value
    return [
        {
            "decoding": label,
            **{f"{way}_answers": own[way] for way in ("eager", "lazy", "gated")},
            "contrasts": own["contrasts"],
            "prefilled": own["contrasts"] - own["prefills_saved"],
            **{name: own[name] for name in ("prompt_tokens_saved", "tokens", "tokens_saved", "forwards_saved")},
        }
        for label, own in sorted(total.items())
    ]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.2f}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"

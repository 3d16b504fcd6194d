"""The costs of a run: what the arms requested, what was computed, and the share that was saved.

Counters are summed over sessions. Other counters are listed by their own names.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from experiments.stats.formatting import format_count

LINES = (
    ("answers", "decoding_requests", "requests_reused", True),
    ("prompts, each branch counted", "branch_prompts", "duplicates_merged", True),
    ("images", "num_images", "images_encoded", False),
    ("tokens of prefilled prompts", "prompt_tokens", "prefill_tokens", False),
    ("tokens of answers, each branch counted", "rows_without_sharing", "rows", False),
)
"""(quantity, counter of requests, second counter, whether the second one counts what was saved or computed)."""


@dataclass(frozen=True)
class Costs:
    """The costs of a run as texts.

    Attributes:
        time: The time of all sessions.
        lines: (quantity, requested, computed, share saved).
        notes: Remarks.
        rest: (name, value) of every counter.
    """

    time: str
    lines: tuple[tuple[str, str, str, str], ...]
    notes: tuple[str, ...]
    rest: tuple[tuple[str, str], ...]

    def __bool__(self) -> bool:
        return bool(self.time or self.lines or self.rest)


def summarize_costs(info: Mapping[str, Any]) -> Costs:
    """The costs in run.json, or None if it has none."""
    total: dict[str, float] = {}
    for session in info.get("sessions", []):
        for name, value in session.get("counters", {}).items():
            total[name] = total.get(name, 0) + value
    seconds = session_seconds(info)
    lines = [_line(total, *line) for line in LINES]
    rest = [(name, _number(value)) for name, value in total.items() if value]
    return Costs(_clock(seconds) if seconds else "", tuple(filter(None, lines)), tuple(_notes(total)), tuple(rest))


def session_seconds(info: Mapping[str, Any]) -> float:
    """The seconds of all finished sessions of a run."""
    seconds = 0.0
    for session in info.get("sessions", []):
        if "start" in session and "end" in session:
            start, end = (datetime.fromisoformat(session[key]) for key in ("start", "end"))
            seconds += (end - start).total_seconds()
    return seconds


def _line(
    total: Mapping[str, float], what: str, requested: str, other: str, saved: bool
) -> tuple[str, str, str, str] | None:
    """A line, or nothing if one of the two counters is missing or nothing was requested."""
    whole = total.get(requested, 0)
    if not whole or other not in total:
        return None
    computed = whole - total[other] if saved else total[other]
    return what, _number(whole), _number(computed), f"{1 - computed / whole:.0%}" if computed <= whole else "–"


def _notes(total: Mapping[str, float]) -> list[str]:
    notes = {
        "prompts_prepared": ("text was generated before the answers", "texts were generated before the answers"),
        "default_notes": (
            "request had a default, because the text before its answer names no choice",
            "requests had a default, because the texts before their answers name no choice",
        ),
        "shared_prefix_tokens": (
            "prompt token was reused from another branch",
            "prompt tokens were reused from other branches",
        ),
        "suffix_tokens": ("token was read to score options", "tokens were read to score options"),
        "batches_halved": ("batch did not fit the memory", "batches did not fit the memory and were split"),
        "cached_tokens": ("token was found in a prefix cache", "tokens were found in a prefix cache"),
        "requests": ("request was sent", "requests were sent"),
        "retries": ("request was sent again", "requests were sent again"),
    }
    return [format_count(int(total[name]), *words) for name, words in notes.items() if total.get(name)]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.2f}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"

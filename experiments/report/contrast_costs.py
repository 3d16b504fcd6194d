"""The costs that lazy branches saved, by arm (`decoding.engine.batch`): a table of the report."""

from collections.abc import Mapping
from typing import Any

HEADINGS = (
    "answers: eager",
    "lazy",
    "gated",
    "contrasts prefilled, of requested",
    "prompt tokens saved",
    "answer tokens saved",
    "forwards saved",
)


def contrast_costs(info: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """(label, a cell per heading) of each arm, summed over sessions. A forward is one row: one token of one branch."""
    total: dict[str, dict[str, int]] = {}
    for session in info.get("sessions", []):
        for label, work in session.get("arms", {}).items():
            of = total.setdefault(label, {})
            for name, value in work.items():
                of[name] = of.get(name, 0) + value
    return [(label, _cells(of)) for label, of in sorted(total.items())]


def _cells(of: Mapping[str, int]) -> list[str]:
    def share(part: int, whole: int) -> str:
        return f"{part:,} ({part / whole:.0%})" if whole and part else f"{part:,}"

    opened = of["contrasts"] - of["prefills_saved"]
    return [
        *(f"{of[way]:,}" for way in ("eager", "lazy", "gated")),
        f"{opened:,} of {of['contrasts']:,}",
        f"{of['prompt_tokens_saved']:,}",
        share(of["tokens_saved"], of["tokens"]),
        share(of["forwards_saved"], of["tokens"]),
    ]

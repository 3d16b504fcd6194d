"""The comparison as a table and as JSON."""

from collections.abc import Iterator, Sequence
from typing import Any

from experiments.diff.comparison import Limits, PromptComparison, StageStatus
from experiments.diff.recording import Side
from experiments.diff.verdict import Parting, fact_differences
from icl import strip_control_characters
from icl.models.tracing import Stage


def stage_rows(a: Side, b: Side, rows: Sequence[PromptComparison]) -> Iterator[tuple[str, str, str, str]]:
    """Of each stage: name, whether it differs, the largest difference or why it is hidden, and the first prompt."""
    for stage in Stage:
        outcomes = [(row.name, row.outcomes[stage]) for row in rows]
        visible = [(name, one) for name, one in outcomes if one.status is not StageStatus.HIDDEN]
        differing = [(name, one) for name, one in visible if one.status is StageStatus.DIFFERS]
        reasons = [f"{label}: {side.hidden[stage]}" for label, side in (("A", a), ("B", b)) if stage in side.hidden]
        if not visible:
            yield stage, "hidden", "; ".join(reasons) or "neither side shows it", ""
            continue
        _, largest = max(differing or visible, key=lambda item: (item[1].size, item[1].text))
        if differing:
            more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
            yield stage, "differs", largest.text, f"{differing[0][0]}{more}"
        else:
            yield stage, "equal", largest.text, f"{len(visible)} prompts"


def print_table(a: Side, b: Side, rows: Sequence[PromptComparison], limits: Limits, result: Parting) -> None:
    """Prints sides, stages, settings that differ, and the verdict."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    def plain(text: str) -> Text:
        return Text(strip_control_characters(text))

    console = Console(highlight=False)
    for label, side in (("A", a), ("B", b)):
        arithmetic = side.facts.get("arithmetic", {}).get("dtype")
        console.print(plain(f"{label}  {side.name}{f'   {arithmetic}' if arithmetic else ''}"))
    table = Table(box=None, pad_edge=False)
    for name in ("stage", "", "largest difference", "prompts"):
        table.add_column(name, overflow="fold")
    for cells in stage_rows(a, b, rows):
        table.add_row(*map(plain, cells), style="bold" if cells[1] == "differs" else None)
    console.print(table)
    for _, text in fact_differences(a, b):
        console.print(plain(f"setting  {text}"))
    if missing := abs(len(a.entries) - len(rows)) + abs(len(b.entries) - len(rows)):
        console.print(plain(f"note     {missing} prompts are on one side only: the studies differ"))
    for row in rows:
        if (first := row.outcomes[Stage.FIRST]).status is StageStatus.HIDDEN and first.text:
            console.print(plain(f"note     {row.name}: {first.text}"))
    console.print(plain(f"{result.sentence} (log-probabilities: equal up to {limits.tolerance:.2g} nats)"))


def to_json(a: Side, b: Side, rows: Sequence[PromptComparison], limits: Limits, result: Parting) -> dict[str, Any]:
    """The comparison as JSON values."""
    return {
        "sides": [{"name": s.name, "facts": s.facts, "hidden": s.hidden, "noise": s.noise} for s in (a, b)],
        "tolerance": limits.tolerance,
        "verdict": {**vars(result), "differs": result.stage is not None, "sentence": result.sentence},
        "stages": [
            dict(zip(("stage", "status", "text", "prompts"), row, strict=True)) for row in stage_rows(a, b, rows)
        ],
        "prompts": [
            {"name": row.name, "first": row.first, "stages": {s: vars(one) for s, one in row.outcomes.items()}}
            for row in rows
        ],
    }

"""Notes on interventions that act in one part of a reasoning output, where outputs have no reasoning."""

from typing import TYPE_CHECKING

from experiments.store.store import Store

if TYPE_CHECKING:
    from pandas import DataFrame

MEANING = {
    "think": "so it edits nothing there",
    "answer": "so it cannot change their first token",
}
"""What `acts_in` does in an output without a reasoning block."""


def part_notes(frame: "DataFrame", store: Store) -> list[str]:
    """A sentence for each intervention that acts in one part of outputs, if some of its outputs have no reasoning.

    Args:
        frame: Samples with the columns `cell` and `intervene`.
        store: The store of the run, whose cells say in which part an intervention acts.
    """
    if "intervene" not in frame or "cell" not in frame:
        return []
    notes = []
    for label, rows in frame[frame["failed"].isna()].groupby("intervene", sort=False):
        node = (store.read_cell(str(rows["cell"].iloc[0])) or {}).get("intervene") or {}
        part = str(node.get("acts_in", "both"))
        count = int((rows["thinking"].fillna("") == "").sum()) if "thinking" in rows else len(rows)
        if part in MEANING and count:
            notes.append(f"{count:,} of {len(rows):,} outputs under {label} have no reasoning block, {MEANING[part]}")
    return notes

"""Notes on interventions and strategies that act in one part of a reasoning output, where outputs have no reasoning."""

from typing import TYPE_CHECKING

from experiments.store.store import Store

if TYPE_CHECKING:
    from pandas import DataFrame

MEANING = {
    "think": "so it changes nothing there",
    "answer": "so it cannot change their first token",
}
"""What `acts_in` does in an output without a reasoning block."""


def part_notes(frame: "DataFrame", store: Store) -> list[str]:
    """A sentence for each intervention and arm that acts in one part of outputs, if some of them have no reasoning.

    Args:
        frame: Samples with the columns `cell`, `intervene` and `decoding`.
        store: The store of the run, whose cells say in which part they act.
    """
    notes = []
    for axis in ("intervene", "decoding"):
        if axis not in frame or "cell" not in frame:
            continue
        for label, rows in frame[frame["failed"].isna()].groupby(axis, sort=False):
            node = (store.read_cell(str(rows["cell"].iloc[0])) or {}).get(axis) or {}
            part = str(node.get("acts_in", "both"))
            num = int((rows["thinking"].fillna("") == "").sum()) if "thinking" in rows else len(rows)
            if part in MEANING and num:
                notes.append(f"{num:,} of {len(rows):,} outputs under {label} have no reasoning block, {MEANING[part]}")
    return notes

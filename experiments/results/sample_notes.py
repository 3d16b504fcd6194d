"""Notes on samples that read unlike others: acting in one part of an output without reasoning, and other labels.

Arms are not comparable with others if their demonstrations have other labels than the task. Under `flip_labels` and
`unlearn` the gold answer stays, so a model that follows its demonstrations scores lower. Under `symbols` the right
answers are other words than at 0 shots. Under `noisy_labels` some demonstrations are wrong on purpose. Such a transform
names the analysis that measures its effect (`analysis`). Gains over 0 shots and comparisons of retrievers exclude these
arms.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from experiments.stats.formatting import join_words
from experiments.store.store import Store
from icl.registry import entries, resolve

if TYPE_CHECKING:
    from pandas import DataFrame, Series

    from experiments.store.store import Store

MEANING = {
    "think": "so it changes nothing there",
    "answer": "so it cannot change their first token",
}
"""What `acts_in` does in an output without a reasoning block."""


def part_notes(frame: "DataFrame", store: Store) -> list[str]:
    """A sentence for each intervention and arm that acts in one part of outputs, if some of them have no reasoning.

    Args:
        frame: Samples with the columns `cell`, `intervene` and `decoding`.
        store: The store of the run; its cells say in which part they act.
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


def label_transform_names(frame: "DataFrame", store: "Store") -> "Series[Any]":
    """For each sample, the transforms of its cell that change labels, or ''. The frame has the column `cell`."""
    import pandas as pd

    if "cell" not in frame:
        return pd.Series("", index=frame.index)
    named = {digest: ", ".join(_names(store.read_cell(str(digest)) or {})) for digest in frame["cell"].unique()}
    return frame["cell"].map(named)


def label_transform_note(names: "Series[Any]") -> str:
    """A sentence on the arms that are excluded, or '' if there are none. names: of `label_transform_names`."""
    transforms = list(dict.fromkeys(name for joined in names.unique() for name in joined.split(", ") if name))
    if not transforms:
        return ""
    analyses = join_words([f"`icl analyze RUN {one}`" for one in dict.fromkeys(map(_analysis_of, transforms))])
    return (
        f"with {join_words(transforms)} a lower score may mean that demonstrations are followed. Sentences on gains "
        f"and retrieval exclude these arms; see {analyses}."
    )


def _names(cell: Mapping[str, Any]) -> Iterator[str]:
    for node in cell.get("transforms") or ():
        name = str(node.get("name") if isinstance(node, Mapping) else node)
        share = node.get("share") if isinstance(node, Mapping) else None
        if _analysis_of(name) and share != 0:
            yield name


def _analysis_of(name: str) -> str:
    """The analysis that a transform names; '' if it does not change labels or is not a built-in one."""
    return str(getattr(resolve("transform", name), "analysis", "")) if name in entries("transform") else ""

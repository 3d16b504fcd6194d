"""Arms whose demonstrations have other labels than the task. Their scores are not comparable with those of other arms.

Under `flip_labels` and `unlearn` the gold answer stays, so a model that follows its demonstrations scores lower. Under
`symbols` the right answers are other words than at 0 shots. Under `noisy_labels` some demonstrations are wrong on
purpose. Such a transform names the analysis that measures its effect (`analysis`). Gains over 0 shots and comparisons
of retrievers exclude these arms.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from experiments.stats.formatting import join_words
from icl.registry import entries, resolve

if TYPE_CHECKING:
    from pandas import DataFrame, Series

    from experiments.store.store import Store


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

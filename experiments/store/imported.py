"""The marks of a run whose samples come from logs of another harness, or from other runs (`experiments.imports`)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from icl import StoreError

IMPORTED = "imported"
"""The key of run.json (the harnesses) and of cell.json (`from`, `version`, `model_args` and `date` of the log)."""


MERGED = "merged"
"""The key of run.json with the runs that were merged: `run` (a relative path) and `bytes` (of the files of samples)."""


def files_size(folder: Path) -> int:
    """The size of the samples of a run directory in bytes. It grows with each sample."""
    return sum(path.stat().st_size for path in folder.glob("cells/*/*.jsonl"))


def changed_since_merge(folder: Path, info: Mapping[str, Any]) -> str:
    """A sentence if a run has changed since it was merged into the folder, else ''. A run that is gone has not."""
    changed = [
        str(path.resolve())
        for merged in info.get(MERGED, ())
        if (path := folder / merged["run"]).is_dir() and files_size(path) != merged["bytes"]
    ]
    if not changed:
        return ""
    return f"{', '.join(changed)} changed since the merge. Run `icl import` again to read the new samples."


def refuse_imported(folder: Path, info: Mapping[str, Any]) -> None:
    """Raises StoreError if the content of run.json says that the run was imported or merged.

    Args:
        folder: The run directory.
        info: The content of its run.json.
    """
    if IMPORTED in info:
        raise StoreError(
            f"{folder} was imported from logs of another harness (`icl import`): no config computes its samples. "
            "To run an experiment, use another name."
        )
    if MERGED in info:
        raise StoreError(
            f"{folder} was merged from other runs (`icl import`): no config computes its samples. Run one of those, or "
            "use another name."
        )

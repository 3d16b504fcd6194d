"""The mark of a run whose samples come from the logs of another harness (`experiments.imports`)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from icl.errors import StoreError

IMPORTED = "imported"
"""The key of run.json (the harnesses) and of cell.json (`from`, `version`, `model_args` and `date` of the log)."""


def refuse_imported(folder: Path, info: Mapping[str, Any]) -> None:
    """Raises StoreError if the content of run.json says that the run was imported.

    Args:
        folder: The run directory.
        info: The content of its run.json.
    """
    if IMPORTED in info:
        raise StoreError(
            f"{folder} was imported from logs of another harness (`icl import`): no config computes its samples. "
            "To run an experiment, use another name."
        )

"""Paths in the keys of tasks. They are relative to the experiment file, else to the working directory."""

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from icl.loading import SEARCH_FOLDERS, search_candidates
from icl.tasks.source import BUILDERS


class RelativePaths:
    """Base class of tasks that read files by paths relative to the experiment file."""

    def __post_init__(self) -> None:
        _ = self._folders

    @classmethod
    def adapted_preset(cls, values: Mapping[str, Any], own: Mapping[str, Any]) -> Mapping[str, Any]:
        """The keys of a preset beside keys of the config. Splits on the hub do not apply to a file."""
        is_file = Path(str(own.get("path", ""))).suffix.lower() in BUILDERS
        return {key: values[key] for key in values if not (is_file and key in ("config", "split", "pool_split"))}

    @cached_property
    def _folders(self) -> tuple[Path, ...]:
        """The folders to which paths are relative: that of the experiment file, when the task is made."""
        return SEARCH_FOLDERS.get()

    def _place(self, path: str) -> Path:
        """The first place of a path that exists, else the first of all, for the error of the reader."""
        places = search_candidates(path, self._folders)
        return next((place for place in places if os.path.exists(place)), places[0])

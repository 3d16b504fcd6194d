"""Where the toolkit keeps what it has computed: one folder, which anybody may delete."""

import os
import sys
from pathlib import Path


def cache_folder(path: str | None = None) -> Path:
    """The folder given, else ICL_CACHE, else the platform's own folder for caches."""
    if folder := path or os.environ.get("ICL_CACHE"):
        return Path(folder).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "mm-icl"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "mm-icl"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mm-icl"

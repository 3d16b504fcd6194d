"""The folder of the toolkit's caches. It is safe to delete."""

import os
import sys
from pathlib import Path

from icl.parameter_files import expand_user


def cache_folder(path: str | None = None) -> Path:
    """`path`, or the environment variable ICL_CACHE, or the platform's cache folder."""
    if folder := path or os.environ.get("ICL_CACHE"):
        return expand_user(folder)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "mm-icl"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "mm-icl"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mm-icl"

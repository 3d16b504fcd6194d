"""The environment of a run: versions of packages, commit and machine. No package is imported to ask its version."""

import os
import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Any

PACKAGES = ("mm-icl", "torch", "transformers", "datasets", "faiss-cpu", "numpy", "pillow")


def now() -> str:
    """Local time with its offset, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def collect_environment() -> dict[str, Any]:
    """Versions of packages, the commit of the working directory, and the machine."""
    return {"versions": _versions(), "git": _commit(), "machine": _machine()}


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def _commit() -> dict[str, Any] | None:
    """The commit of the working directory, and whether tracked files differ from it."""
    try:
        head = _git("rev-parse", "HEAD")
        return {"commit": head, "changed": bool(_git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()


def _machine() -> dict[str, Any]:
    return {"name": platform.node(), "system": platform.platform(), "cpus": os.cpu_count()}

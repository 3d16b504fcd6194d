"""The environment of a process: versions, devices, driver, commit and machine.

No package is imported to ask its version.
"""

import hashlib
import os
import platform
import re
import shutil
import subprocess
import time
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

TIMEOUT = 10.0
"""Seconds that git or the driver may take."""


def now() -> str:
    """Local time with its offset, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def collect_environment() -> dict[str, Any]:
    """The environment as JSON.

    Returns:
        `versions` of Python and of every installed package, `devices` with `driver`, `git` of the working directory
        and of the toolkit if it is a checkout, and `machine`.
    """
    toolkit = Path(__file__).parents[2]
    tracked = _output("git", "-C", str(toolkit), "ls-files", "--", "icl/__init__.py")
    return {
        "versions": {"python": platform.python_version(), **_packages()},
        **_devices(),
        "git": {"working_directory": _commit(Path.cwd()), "toolkit": _commit(toolkit) if tracked else None},
        "machine": {"name": platform.node(), "system": platform.platform(), "cpus": os.cpu_count()},
    }


def _packages() -> dict[str, str]:
    """Name -> version. Only the first lines of a package's metadata are read: it may contain a whole README."""
    packages: list[tuple[str, str]] = []
    for package in distributions():
        text = package.read_text("METADATA") or package.read_text("PKG-INFO") or ""
        fields = {name: _field(name, text) for name in ("Name", "Version")}
        if fields["Name"]:
            packages.append((fields["Name"].lower(), fields["Version"]))
    return dict(sorted(packages))


def _field(name: str, metadata: str) -> str:
    """The value of a field in the headers of a package's metadata; '' without it."""
    match = re.search(rf"^{name}:[ \t]*(.*)$", metadata.partition("\n\n")[0], re.MULTILINE)
    return match[1].strip() if match else ""


def _devices() -> dict[str, Any]:
    """The GPUs that the driver lists, the driver's version, and the GPUs that the process may use."""
    query = ("--query-gpu=name,driver_version", "--format=csv,noheader")
    rows = [row.split(", ") for row in (_output("nvidia-smi", *query) or "").splitlines()]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return {
        "devices": [name for name, *_ in rows],
        "driver": next((driver[0] for _, *driver in rows if driver), None),
        **({"visible_devices": visible} if visible is not None else {}),
    }


def _commit(folder: Path) -> dict[str, str] | None:
    """The commit of a folder, and a digest of what tracked files have changed since; '' if nothing."""
    git = ("git", "-C", str(folder))
    commit, changes = _output(*git, "rev-parse", "HEAD"), _output(*git, "diff", "HEAD", "--no-ext-diff", "--binary")
    if commit is None or changes is None:
        return None
    return {"commit": commit, "dirty": hashlib.sha256(changes.encode()).hexdigest()[:12] if changes else ""}


def _output(*command: str) -> str | None:
    """The output of a command, or None if there is no such program or it fails."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, timeout=TIMEOUT, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace").strip()

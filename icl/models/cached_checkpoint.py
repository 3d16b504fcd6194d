"""Checkpoints that the toolkit writes to its cache, once for all processes.

Of several processes one writes and the others wait. A folder is complete or missing: files of a process that was killed
are removed by the next. Each start compares the checksum of every file; a damaged folder is written again, with a
warning. Nothing deletes other folders.
"""

import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from icl import ICLWarning, ModelError, filelock

MANIFEST = "files.json"
"""File with the names and checksums of all other files of the folder."""


def cached_checkpoint(folder: Path, name: str, write: Callable[[Path], None]) -> Path:
    """The folder, which is written if it is missing or damaged.

    Args:
        folder: Its name in the cache says what determines its content.
        name: What it is, for the warning.
        write: Writes the files to an empty folder.

    Raises:
        OSError: The cache cannot be written to.
    """
    if _is_complete(folder):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{folder}.lock"):
        if not _is_complete(folder):
            if folder.exists():
                _warn(folder, name)
            _build(folder, write)
    return folder


def _build(folder: Path, write: Callable[[Path], None]) -> None:
    """Writes the folder. The caller holds the lock, so no other process writes the incomplete folders that exist."""
    for incomplete in folder.parent.glob(f"{folder.name}-*"):
        shutil.rmtree(incomplete, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=folder.parent))
    try:
        write(work)
        (work / MANIFEST).write_text(json.dumps(_checksums(work)), encoding="utf-8")
        for file in work.iterdir():  # users may share a cache, but mkdtemp and safetensors let only one read
            shutil.copymode(work / MANIFEST, file)
        work.chmod(folder.parent.stat().st_mode & 0o777)
        shutil.rmtree(folder, ignore_errors=True)  # a damaged one stays until it can be replaced
        work.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _is_complete(folder: Path) -> bool:
    """Whether the folder has all its files, unchanged. Programs that clear a cache may delete single files."""
    try:
        return folder.exists() and _checksums(folder) == _manifest(folder)
    except FileNotFoundError:  # another process, which has the lock, replaces a damaged folder
        return False


def _manifest(folder: Path) -> dict[str, str]:
    try:
        checksums = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return checksums if isinstance(checksums, dict) else {}


def _warn(folder: Path, name: str) -> None:
    checksums, expected = _checksums(folder), _manifest(folder)
    damaged = sorted(file for file in {*checksums, *expected} if checksums.get(file) != expected.get(file))
    warnings.warn(
        f"the {name} {folder} is damaged ({', '.join(damaged[:3])}{' …' if damaged[3:] else ''}). It is written again.",
        ICLWarning,
        stacklevel=2,
    )


def _checksums(folder: Path) -> dict[str, str]:
    """The sha256 of each file, computed in threads: about a second for every two gigabytes and core."""
    files = sorted(path for path in folder.iterdir() if path.name != MANIFEST)
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return dict(zip([file.name for file in files], threads.map(checksum, files), strict=True))


def checksum(path: Path) -> str:
    """The sha256 of a file. '' for anything else, which nothing here writes."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# Optional packages of models and embedders, which the toolkit does not install.


def import_optional(module: str, user: str, install: str) -> Any:
    """Import a module.

    Args:
        module: Its name.
        user: What needs it, such as "embedder 'minilm'".
        install: The arguments of `pip install` that install it.

    Raises:
        ModelError: It is absent; with the command that installs it.
    """
    if find_spec(module) is None:
        raise _absent(module, user, install)
    return import_module(module)


def package_folder(module: str, user: str, install: str) -> Path:
    """The folder of a package with data, which is not imported. Arguments and errors as of `import_optional`."""
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise _absent(module, user, install)
    return Path(spec.origin).parent


def _absent(module: str, user: str, install: str) -> ModelError:
    return ModelError(f"{user} needs the package {module}, which is absent. Run: pip install {install}")

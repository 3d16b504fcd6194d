"""A lock with which only one process at a time writes a run. A second process gets an error that names the first.

It is a lock of the operating system, so a killed process releases it.
"""

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from icl.errors import StoreError


@contextmanager
def write_lock(folder: Path) -> Iterator[None]:
    """Locks the run directory.

    Raises:
        StoreError: Another process has the lock, or the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{folder} cannot be made: {error.strerror or error}.") from error
    holder = folder / ".holder.json"
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise StoreError(f"{folder} is being run by {_holder(holder)}. Wait for it, or use another name.") from error
    except OSError as error:
        raise StoreError(f"{folder} cannot be written: {error.strerror or error}.") from error
    try:
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        with suppress(OSError):  # a finished run on a full disk is still displayed
            holder.write_text(json.dumps({"process": os.getpid(), "machine": platform.node(), "since": since}))
        yield
    finally:
        with suppress(OSError):
            holder.unlink()
        lock.release()


def _holder(holder: Path) -> str:
    try:
        content = json.loads(holder.read_text())
        return f"process {content['process']} on {content['machine']} since {content['since']}"
    except (OSError, ValueError, KeyError):
        return "another process"

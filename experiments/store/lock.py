"""A lock with which only one process at a time writes a run. A second process gets an error that names the first.

It is a lock of the operating system, so a killed process releases it.
"""

import errno
import json
import os
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from icl import StoreError, filelock

HOLDER = ".holder.json"
"""The file with the process, the machine and the time of the last lock."""

PROBE_SECONDS = 0.2
"""Seconds to wait for the lock, because `is_locked` has it for a moment."""

NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)
"""Errors of a file system without locks."""

READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
"""Errors of a folder that this user may only read."""


@contextmanager
def write_lock(folder: Path, timeout: float | None = None) -> Iterator[None]:
    """Locks the run directory.

    Args:
        folder: The run directory, which is made if it does not exist.
        timeout: Seconds to wait while another process has the lock; by default a moment.

    Raises:
        StoreError: Another process has the lock, or the folder cannot be written or has no locks.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{folder} cannot be made: {error.strerror or error}.") from error
    holder = folder / HOLDER
    lock = filelock.FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=PROBE_SECONDS if timeout is None else timeout, poll_interval=PROBE_SECONDS / 10)
    except filelock.Timeout as error:
        raise StoreError(f"{folder} is being run by {_holder(holder)}. Wait for it, or use another name.") from error
    except OSError as error:
        raise StoreError(_describe_error(folder, error)) from error
    try:
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        with suppress(OSError):  # a finished run on a full disk is still displayed
            content = {"process": os.getpid(), "machine": platform.node(), "since": since}
            holder.write_text(json.dumps(content), encoding="utf-8")
        yield
    finally:
        with suppress(OSError):
            holder.unlink()
        lock.release()


def _describe_error(folder: Path, error: OSError) -> str:
    reason = error.strerror or str(error)
    if error.errno not in NO_LOCKS:
        return f"{folder} cannot be written: {reason}."
    return (
        f"the file system of {folder} has no locks ({reason}), so two processes could write one run. Mount it with "
        "locks (NFS: without nolock, or version 4), or use --runs with a folder elsewhere."
    )


def is_locked(folder: Path) -> bool:
    """Whether a process has the lock of the run directory. True if that cannot be seen.

    A user who may only read the folder cannot try the lock. The file that names its holder then decides.
    """
    try:
        with filelock.FileLock(folder / ".lock").acquire(timeout=0):
            return False
    except filelock.Timeout:
        return True
    except OSError as error:
        return error.errno not in READ_ONLY or (folder / HOLDER).exists()


def last_state(folder: Path, info: Mapping[str, Any]) -> str:
    """The state of the last session: 'finished', 'running', or how it ended.

    'killed' if its process wrote no end: it ran on this machine, and its lock is free. A launch has other processes,
    which may live on.

    Args:
        folder: The run directory.
        info: The content of run.json.
    """
    last = (info.get("sessions") or [{}])[-1]
    state = str(last.get("state", "finished"))
    if state == "running" and "launch" not in last:
        machine = (read_json(folder / HOLDER) or {}).get("machine")
        return "killed" if machine == platform.node() and not is_locked(folder) else state
    return state


def _holder(holder: Path) -> str:
    content = read_json(holder) or {}
    if not {"process", "machine", "since"} <= content.keys():
        return "another process"
    return f"process {content['process']} on {content['machine']} since {content['since']}"


def read_json(path: Path) -> dict[str, Any] | None:
    """The mapping in a file; None if it is incomplete, for example on a slow network disk."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None

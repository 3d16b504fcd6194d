"""Whether locks on a file system hold between machines, from its mount options.

Locks are those of `flock(2)`. NFS (from version 4, or with its lock service), GPFS, and Lustre mounted with `flock`
share them among machines. Some mount options keep them on one machine: nothing fails, and nothing is protected.
"""

import re
from pathlib import Path

MOUNTS = Path("/proc/self/mounts")

LOCAL_LOCKS = {
    "nfs": ("nolock", "local_lock=flock", "local_lock=all"),
    "nfs4": ("nolock", "local_lock=flock", "local_lock=all"),
    "lustre": ("localflock",),
}
"""Type of a file system -> mount options that keep its locks on one machine."""


def local_locks(folder: Path) -> str:
    """'nfs mounted with nolock' if the locks in a folder do not hold between machines; '' if they do, or off Linux."""
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    path, best = folder.absolute().resolve(), ("", "", "")
    for line in lines:
        _, place, kind, options, *_ = [*line.split(), "", "", "", ""]
        place = re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), place)
        if place and path.is_relative_to(place) and len(place) >= len(best[0]):
            best = place, kind, options
    _, kind, options = best
    named = [option for option in options.split(",") if option in LOCAL_LOCKS.get(kind, ())]
    return f"{kind} mounted with {named[0]}" if named else ""

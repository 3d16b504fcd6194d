"""Free main memory for this process: on the machine, or in the control group of a container or Slurm job."""

from collections.abc import Iterator
from pathlib import Path

MIN_UNLIMITED = 2**60
"""Version 1 of control groups writes "no limit" as a number near 2^63."""


def host_memory(root: Path = Path("/")) -> tuple[float, float] | None:
    """(free bytes, total bytes) of the smallest limit. None where the system does not say, as outside Linux.

    Args:
        root: Folder of `proc` and `sys`.
    """
    try:
        rows = dict(line.split(":", 1) for line in (root / "proc/meminfo").read_text().splitlines() if ":" in line)
        sizes = [1024.0 * int(rows[name].split()[0]) for name in ("MemAvailable", "MemTotal")]
    except (OSError, KeyError, ValueError):
        return None
    limits = [(sizes[0], sizes[1]), *_group_limits(root)]
    return min(limits, key=lambda limit: limit[0])


def _group_limits(root: Path) -> Iterator[tuple[float, float]]:
    """(free bytes, limit) of the control group of this process and of each group around it."""
    for folder, limit_file, used_file in _group_folders(root):
        try:
            limit = float((folder / limit_file).read_text())
            used = float((folder / used_file).read_text())
            rows = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            reclaimable = float(rows.get("total_inactive_file", rows.get("inactive_file", 0)))
        except (OSError, ValueError):  # no such limit here, or "max"
            continue
        if limit < MIN_UNLIMITED:
            yield max(0.0, limit - used + reclaimable), limit


def _group_folders(root: Path) -> Iterator[tuple[Path, str, str]]:
    """(folder, file of its limit, file of its use), innermost first. Version 2, then version 1."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        files = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        inner = top / path.lstrip("/")
        for folder in (inner, *inner.parents):
            if not folder.is_relative_to(top):
                break
            yield folder, *files

"""The lines of a cell that were added since they were last read, while other processes write and merge its files."""

import errno
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from experiments.store.store import parse_line
from icl import StoreError


class LineTail:
    """A reader of the new lines of one cell.

    Args:
        digest: The cell. Lines of other cells are left out.
    """

    def __init__(self, digest: str) -> None:
        self.digest = digest
        self.offsets: dict[Path, int] = {}
        """File -> bytes that were read. They end with a whole line."""

    def read(self, paths: Iterable[Path]) -> tuple[list[dict[str, Any]], bool]:
        """The valid new lines of these files, and whether they replace all earlier ones.

        They do if a file is smaller than before: it was rewritten, or merged with others. A missing file has no lines.

        Raises:
            StoreError: A file cannot be read.
        """
        sizes = {path: size for path in paths if (size := _size(path)) is not None}
        replaced = any(sizes.get(path, 0) < offset for path, offset in self.offsets.items())
        if replaced:
            self.offsets.clear()
        lines = []
        for path, size in sizes.items():
            start = self.offsets.get(path, 0)
            data = _read(path, start) if size > start else b""
            whole = data[: data.rfind(b"\n") + 1]
            self.offsets[path] = start + len(whole)
            parsed = map(parse_line, whole.splitlines())
            lines += [line for line in parsed if line is not None and line["cell"] == self.digest]
        return lines, replaced


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError as error:
        _raise_unless_merged(path, error)
        return None


def _read(path: Path, start: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(start)
            return file.read()
    except OSError as error:
        _raise_unless_merged(path, error)
        return b""


def _raise_unless_merged(path: Path, error: OSError) -> None:
    """Another process may have merged the file a moment ago. NFS then reports a stale file handle."""
    if error.errno not in (errno.ENOENT, errno.ESTALE):
        raise StoreError(f"{path} cannot be read: {error.strerror or error}.") from error

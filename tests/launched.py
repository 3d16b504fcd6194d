"""What tests of launchers look at: the samples of a run as they are written, and whether something has come about."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def files(folder: Path) -> dict[str, bytes]:
    """cell/file -> bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in (folder / "cells").glob("*/*.jsonl")}


def lines(folder: Path) -> int:
    """Samples that are written, by whomever."""
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("cells/*/*.jsonl"))


def until(there: Callable[[], Any], seconds: float = 60) -> None:
    """Waits; fails where it does not come to that."""
    deadline = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)

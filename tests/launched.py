"""Helpers of launcher tests: the stored samples of a run, and waiting for a condition."""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

INVOCATION = re.compile(rb', "invocation": \d+')
"""The part of a sample's line that says which process computed it."""


def files(folder: Path) -> dict[str, bytes]:
    """The bytes of each cell file."""
    return {
        str(path.relative_to(folder)): INVOCATION.sub(b"", path.read_bytes())
        for path in (folder / "cells").glob("*/*.jsonl")
    }


def lines(folder: Path) -> int:
    """The number of stored samples."""
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("cells/*/*.jsonl"))


def until(there: Callable[[], Any], seconds: float = 60) -> None:
    """Waits for a condition; fails after the time limit."""
    deadline = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)

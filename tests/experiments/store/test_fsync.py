"""What is on the disk when a call returns. Other tests run without fsync (tests/conftest.py)."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.store.labels import LABELS, Label, append_labels
from experiments.store.store import SampleWriter, Store, write_text
from icl.types import Sample


@pytest.fixture
def synced(files_without_fsync: Callable[[int], None], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The size of each file at its fsync."""
    sizes: list[int] = []

    def fsync(file: int) -> None:
        files_without_fsync(file)
        sizes.append(os.fstat(file).st_size)

    monkeypatch.setattr(os, "fsync", fsync)
    return sizes


def test_labels_of_one_call_are_synced_once_and_whole(synced: list[int], tmp_path: Path) -> None:
    append_labels(tmp_path, [Label("a", True, "ana"), Label("b", None, "ana")])
    first = (tmp_path / LABELS).stat().st_size
    append_labels(tmp_path, [Label("c", False, "ana")])
    assert synced == [first, (tmp_path / LABELS).stat().st_size]


def test_a_file_that_is_replaced_is_synced_whole_and_samples_are_left_to_the_system(
    synced: list[int], tmp_path: Path
) -> None:
    store = Store(tmp_path / "run")
    store.write_run({"name": "run"})
    write_text(tmp_path / "report.html", "a report")
    assert synced == [store.folder.joinpath("run.json").stat().st_size, len("a report")]
    with SampleWriter(store) as writer:
        writer.append("c", [Sample("c", "q", 0, output="a")])
    assert len(synced) == 2

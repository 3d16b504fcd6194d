"""A disk without room: what stood there stays, what can be shown is shown, and what could not be written is said."""

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from experiments.api import run
from experiments.cli.main import main


@contextmanager
def room(size: int) -> Iterator[None]:
    """No file may grow beyond so many bytes: the system's own limit, which a write meets as it meets a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def folder(tmp_path: Path, mapping: Callable[..., dict[str, Any]]) -> Path:
    run(mapping(name="x", grid={"shots": [0, 2]}), runs=tmp_path, quiet=True)
    return tmp_path / "x"


def test_a_report_that_finds_no_room_leaves_the_earlier_one(folder: Path, capsys: Any) -> None:
    assert main(["report", str(folder)]) == 0
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with room(20_000):
        assert main(["report", str(folder)]) == 2
    assert f"{folder}/report.html cannot be written: File too large." in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_table_that_finds_no_room_leaves_the_earlier_file(folder: Path, capsys: Any) -> None:
    csv = folder / "mine.csv"
    csv.write_text("earlier")
    with room(10):
        assert main(["compare", str(folder), "--to", "shots=0", "--as", "csv", "--out", str(csv)]) == 2
    err = capsys.readouterr().err
    assert err.strip() == f"{csv} cannot be written: File too large."
    assert csv.read_text() == "earlier"


def test_a_finished_run_is_shown_where_its_report_finds_no_room(
    folder: Path, yaml_file: Callable[..., Path], capsys: Any
) -> None:
    file = yaml_file("name: x\ntask: {name: SHAPES}\nmodel: fake-copy\ngrid: {shots: [0, 2]}\n")
    with room(20_000):
        assert main(["run", str(file), "--runs", str(folder.parent)]) == 0
    out, err = capsys.readouterr()
    assert "nothing to do (12 samples present)" in out
    assert "Lenient accuracy: mean [95 % interval]" in out
    assert f"no report: {folder}/report.html cannot be written: File too large." in err

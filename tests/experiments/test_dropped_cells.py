"""A changed grid under the same name drops cells from the tables: the terminal says how many, and how to see them."""

from pathlib import Path

import pytest

from experiments.cli.main import main
from experiments.store.run_state import dropped_cells_note
from experiments.store.store import Store

CONFIG = """
name: s
task: {name: existence, queries: 4, pool_size: 6}
model: fake-vote
seeds: [0]
grid: {shots: SHOTS}
"""


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    """`ran("[0, 2]")`: what `icl run` of this grid writes to stderr."""
    monkeypatch.chdir(tmp_path)

    def run(shots: str, *overrides: str) -> str:
        Path("s.yaml").write_text(CONFIG.replace("SHOTS", shots))
        assert main(["run", "s.yaml", "--quiet", *overrides]) == 0
        return capsys.readouterr().err

    return run


def test_cells_that_a_grid_no_longer_has_are_reported_with_their_values(ran) -> None:  # type: ignore[no-untyped-def]
    assert "not in this grid" not in ran("[0, 1, 2]")
    message = ran("[0]")
    assert (
        "2 cells of runs/s with samples are not in this grid any more (shots 1, 2): stored, but in no table." in message
    )
    assert "Put their values back into the grid to see them; nothing is computed again." in message
    assert "1 cell of runs/s with samples is not in this grid any more (shots 2)" in ran("[0, 1]")
    assert "not in this grid" not in ran("[0, 1, 2, 3]")


def test_nothing_is_computed_again_when_they_come_back(ran, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    ran("[0, 2]")
    ran("[0]")
    files = sorted((tmp_path / "runs" / "s").glob("cells/*/*.jsonl"))
    before = [(path, path.stat().st_size) for path in files]
    ran("[0, 2]")
    assert [(path, path.stat().st_size) for path in files] == before
    assert dropped_cells_note(Store(tmp_path / "runs" / "s")) == ""


def test_cells_without_samples_are_none(ran, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    ran("[0, 2]")
    ran("[0]")
    store = Store(tmp_path / "runs" / "s")
    gone = {path.parent.name for path in store.folder.glob("cells/*/cell.json")} - set(
        (store.read_run() or {})["cells"]
    )
    for digest in gone:
        for path in store.cell_folder(digest).glob("*.jsonl"):
            path.write_text("")
    assert dropped_cells_note(store) == ""


def test_a_dropped_combination_of_values_that_all_exist_is_reported_without_values(ran, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    ran("[0, 2]", "seeds=[0, 1]")
    message = ran("[0, 2]", "seeds=[0, 1]", "exclude=[{shots: 2, seed: 1}]")
    assert "1 cell of runs/s with samples is not in this grid any more: stored" in message

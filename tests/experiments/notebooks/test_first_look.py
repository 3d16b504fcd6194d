"""The notebook runs from top to bottom on a run that the environment names."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from experiments.api import run

NOTEBOOK = Path(__file__).parents[3] / "experiments" / "notebooks" / "first_look.ipynb"


@pytest.fixture
def executed(tmp_path, mapping, toy, monkeypatch):
    keys = {k: v for k, v in mapping(seeds=[0, 1]).items() if k not in ("shots", "model")}
    grid = {"shots": [0, 2, 4], "retriever": ["random", "balanced"], "decoding": ["greedy", "sampling"]}
    made = run({**keys, "model": {"name": toy}, "grid": grid}, runs=tmp_path / "runs", quiet=True)
    monkeypatch.setenv("ICL_RUN", str(made.path))
    monkeypatch.delenv("MPLBACKEND", raising=False)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    return notebook


def test_every_cell_runs_and_shows_what_it_says(executed):
    code = [cell for cell in executed.cells if cell.cell_type == "code"]
    assert all(cell.outputs for cell in code)
    outputs = [str(cell.outputs) for cell in code]
    assert f"{6 * 2 * 2 * (1 + 2 * 2)} samples; scores: " in outputs[0]
    assert "balanced" in outputs[1]
    assert "image/png" in outputs[2]
    assert "p_corrected" in outputs[3]
    assert "ICL gain" in outputs[4]
    assert "not distinguishable" in outputs[4]
    assert "q-000" in outputs[5]
    assert all(len(cell.outputs) == 1 for cell in code[-2:])  # the HTML alone, no text beside it
    assert "IProgress" not in "".join(outputs)
    assert "data:image/png;base64" in outputs[6]
    assert "data:image/png;base64" in outputs[7]
    assert "4 shots" in outputs[7]

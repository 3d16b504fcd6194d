"""The notebooks that make their own run execute from top to bottom, and all notebooks are stored without outputs."""

import os
import sys
from pathlib import Path

import nbformat
import pytest
from forked import call_forked

ROOT = Path(__file__).parents[3]
NOTEBOOKS = sorted((ROOT / "experiments" / "notebooks").glob("*.ipynb"))
OWN_RUN = [path for path in NOTEBOOKS if path.stem != "first_look"]  # tested with a kernel in test_first_look.py
EXECUTE = """
import os, sys
import nbformat
from IPython.core.interactiveshell import InteractiveShell
sys.path.insert(0, "")
for path in sys.argv[1:]:
    print("notebook", path)
    shell = InteractiveShell.instance()
    shell.reset()
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            shell.run_cell(cell.source).raise_error()
            assert shell.user_ns.get("_exit_code", 0) == 0, cell.source
"""


def test_they_run_from_top_to_bottom(tmp_path: Path) -> None:
    """In one process without kernels, which load PyTorch once for all."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "MPLBACKEND": "Agg",
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    (tmp_path / "execute.py").write_text(EXECUTE)
    done = call_forked(["python", "execute.py", *map(str, OWN_RUN)], tmp_path, environment)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert [line.split()[-1] for line in done.stdout.splitlines() if line.startswith("notebook ")] == [
        *map(str, OWN_RUN)
    ]
    assert "\\toprule" in done.stdout
    assert "identical branches decode as the reference" in done.stdout


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_they_are_stored_without_outputs(path: Path) -> None:
    stored = nbformat.read(path, as_version=4)
    nbformat.validate(stored)
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in stored.cells)
    assert path.stat().st_size < 10_000

"""The experiments of papers on twins of the models that they name, with made-up data of the same columns."""

from pathlib import Path

import pytest
from paper_data import ROWS, twin_config, write_stand_ins

from experiments.api import run
from experiments.config.config import load_config
from experiments.config.shipped import shipped_configs
from experiments.grid.feasibility import check_requirements
from experiments.grid.grid import expand
from experiments.planning.plan import make_plan
from experiments.results.view_run import view_run

PAPERS = [name for name in shipped_configs() if name.startswith("papers/")]
WHOLE_DATA = ("papers/code", "papers/dcd", "papers/resdec", "papers/self_aug", "papers/vcd")
"""The experiments that ask every row of their data."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("twins")


@pytest.mark.parametrize("name", PAPERS)
def test_a_paper_runs_on_twins_of_its_models(
    name: str, folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    keys = twin_config(name, folders)
    write_stand_ins(tmp_path, keys, 2 if name in WHOLE_DATA else ROWS)
    grid = expand(load_config(keys))
    check_requirements(grid)
    plan = make_plan(grid)
    view = view_run(run(keys, runs=tmp_path, quiet=True))
    assert (len(view.scores), view.failed) == (plan.samples, 0)

"""The experiments of papers on stand-ins of their data: each is planned, and one runs with its published numbers."""

import re
from pathlib import Path
from typing import Any

import pytest
from paper_data import ROWS, TINY, stand_in_config, write_stand_ins
from published_numbers import compare_published

from experiments.api import run
from experiments.cli.main import main
from experiments.config.config import load_config
from experiments.config.shipped import shipped_configs
from experiments.grid.feasibility import check_data, check_requirements
from experiments.grid.grid import expand
from experiments.grid.grid_warnings import statement_warnings
from experiments.planning.plan import make_plan
from experiments.results.claims import judge_claims
from experiments.results.view_run import view_run

EVERY_ROW = ("papers/code", "papers/dcd", "papers/resdec", "papers/self_aug", "papers/vcd")
"""The experiments that use all rows of their data."""
PAPERS = [name for name in shipped_configs() if name.startswith("papers/")]


def test_there_is_an_experiment_for_each_paper_of_the_page() -> None:
    names = re.findall(
        r"(?m)^\| `(papers/\w+)` \|", (Path(__file__).parents[2] / "docs/papers.md").read_text(encoding="utf-8")
    )
    assert sorted(names) == PAPERS
    assert main(["ls", "configs"]) == 0


@pytest.mark.parametrize("name", PAPERS)
def test_a_paper_is_planned_on_data_of_the_same_columns(
    name: str, toy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    keys = stand_in_config(name, TINY if name == "papers/mvcd" else toy, seeds=[0])  # DoLa needs layers
    write_stand_ins(tmp_path, keys, 12 if name in EVERY_ROW else ROWS)
    grid = expand(load_config(keys))
    check_requirements(grid)
    check_data(grid)
    assert grid.warnings == ()
    assert list(statement_warnings(grid)) == []
    assert make_plan(grid).samples > 0


def test_published_numbers_stand_beside_those_of_the_run(
    toy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    keys: Any = stand_in_config("papers/vcd", toy, seeds=[0], controls="none")
    write_stand_ins(tmp_path, keys, 12)
    view = view_run(run(keys, runs=tmp_path, quiet=True))
    assert not view.failed
    numbers = compare_published(view)
    assert len(numbers) == len(keys["published"])
    assert [one.refused for one in numbers if one.here is None] == []
    assert [one.verdict for one in judge_claims(view) if one.verdict == "not run"] == []

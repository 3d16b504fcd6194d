"""A study of each published benchmark plans on rows with its columns: data, options, demonstrations and metrics."""

from pathlib import Path
from typing import Any

import pytest
from documented_rows import ROWS, write_documented_rows

from experiments.config.config import load_config
from experiments.grid.feasibility import check_data, check_requirements
from experiments.grid.grid import expand
from icl.tasks.presets import PRESETS


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize("preset", PRESETS)
def test_a_study_of_a_preset_plans(preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    task: dict[str, Any] = {"name": "hub", "preset": preset}
    path = write_documented_rows(preset, tmp_path)
    if "path" not in PRESETS[preset]:
        task["path"] = str(path)
    mode = "options" if preset in ("mmmu", "mmbench", "scienceqa", "seed_bench", "a_okvqa") else "generate"
    keys = {"name": "p", "task": task, "model": "fake-copy", "grid": {"shots": [0, 2]}, "answer_mode": mode}
    grid = expand(load_config(keys))
    check_requirements(grid)
    check_data(grid)
    (own,) = grid.tasks
    assert len(own.queries) >= 4
    assert all(query.images for query in own.queries)
    assert own.pool_size >= 2
    if "pool_split" in PRESETS[preset]:
        assert own.pool_size == len(own.queries) == ROWS, "demonstrations come from the benchmark's own split"

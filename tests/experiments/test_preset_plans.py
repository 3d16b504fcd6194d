"""A study of each published benchmark plans on rows with its columns: data, options, demonstrations and metrics."""

from pathlib import Path
from typing import Any

import pytest

from experiments.config.config import load_config
from experiments.grid.feasibility import check_data, check_requirements
from experiments.grid.grid import expand
from icl.tasks.presets import PRESETS
from tests.paper_data import write_stand_ins

OWN_ROWS = {
    *("amber", "hallusion_bench", "hateful_memes", "mme", "sugarcrepe", "aro", "mathvista"),
    *("koniq10k", "kadid10k", "scut_fbp5500"),
}
"""Presets whose tests write the rows themselves: their answers or files have a form of their own."""


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize("preset", [name for name in PRESETS if name not in OWN_ROWS])
def test_a_study_of_a_preset_plans(preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    task: dict[str, Any] = {"name": "hub", "preset": preset}
    if "path" not in PRESETS[preset]:
        task["path"] = "rows.json"
    write_stand_ins(tmp_path, {"task": task}, rows=8)
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
        assert own.pool_size == len(own.queries) == 8, "demonstrations come from the benchmark's own split"

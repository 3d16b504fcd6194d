"""The shipped studies of drawings, on drawings that are made here and without their model."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage

from experiments.api import run
from experiments.cli.main import main
from experiments.config.config import load_config
from experiments.config.shipped import FOLDER
from experiments.grid.feasibility import check_data, check_requirements
from experiments.grid.grid import expand
from experiments.results.view_run import view_run
from icl.tasks.drawings.table import IMAGES, TABLE, is_held_out

NAMES = ["drawings-quickstart", *sorted(f"drawings/{path.stem}" for path in (FOLDER / "drawings").glob("*.yaml"))]
FITTED = {"drawings/vectors"}
"""Studies that need a file of `icl fit`."""
STYLES = ("openclipart", "noto", "twemoji", "fluent", "tuxpaint")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder with 24 held-out nouns and 36 others, seven drawings each, by six authors or styles."""
    cache = tmp_path_factory.mktemp("cache")
    (cache / "drawings" / IMAGES).mkdir(parents=True)
    nouns = [f"noun{i}" for i in range(2000)]
    chosen = [one for one in nouns if is_held_out(one)][:24] + [one for one in nouns if not is_held_out(one)][:36]
    rng, rows = np.random.default_rng(0), []
    for noun in chosen:
        for i, style in enumerate((*STYLES, "openclipart", "tuxpaint")):
            file = f"{noun}-{i}.png"
            pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            PILImage.fromarray(pixels).save(cache / "drawings" / IMAGES / file)
            author = f"author{rng.integers(6)}" if style == "openclipart" else ""
            category = "animal" if len(noun) % 2 else "food"
            rows.append({"id": file[:-4], "file": file, "style": style, "title": noun, "keywords": [], "author": author,
                         "folder": "", "noun": noun, "category": category})  # fmt: skip
    (cache / "drawings" / TABLE).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return cache


@pytest.mark.parametrize("name", [name for name in NAMES if name not in FITTED])
def test_the_plan_of_each_study_accepts_its_cells_and_data(
    name: str, cache: Path, toy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ICL_CACHE", str(cache))
    model = [] if name.endswith("_baselines") else [f"model={toy}"]
    grid = expand(load_config(name, [*model, "intervene=none"]))
    check_requirements(grid)
    check_data(grid)
    assert grid.config.name == name.replace("/", "-")
    assert len({cell.digest for cell in grid.cells}) == len(grid.cells)


def test_the_names_of_studies_of_drawings_are_not_those_of_others() -> None:
    assert not {path.stem for path in FOLDER.glob("*.yaml")} & {load_config(name).name for name in NAMES[1:]}


def test_the_quickstart_runs_and_pairs_each_method_with_greedy(
    cache: Path, toy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ICL_CACHE", str(cache))
    less: dict[str, Any] = {"model": toy, "grid.task.queries": [2], "grid.retriever": ["random", _by_color()]}
    view = view_run(run("drawings-quickstart", less, tmp_path, quiet=True))
    assert not view.failed
    assert view.frame["task"].nunique() == 2
    assert set(view.frame["decoding"]) == {"greedy", "vcd", "mask_only(vcd)", "temperature_matched(vcd)"}


def test_rules_without_a_model_read_the_same_queries_as_the_study_of_binding(
    cache: Path, toy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ICL_CACHE", str(cache))
    study = expand(load_config("drawings/binding", [f"model={toy}"]))
    rules = expand(load_config("drawings/binding_baselines"))
    assert _settings(rules.cells) <= _settings(study.cells)


def _settings(cells: Sequence[Any]) -> set[tuple[Any, int]]:
    return {(cell.task, cell.shots) for cell in cells}


def _by_color() -> dict[str, str]:
    return {"name": "knn", "by": "image", "embedder": "histogram"}


@pytest.mark.parametrize("command", ["plan", "run"])
def test_absent_drawings_are_a_sentence_with_the_command_before_a_run_begins(
    command: str, toy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ICL_CACHE", str(tmp_path / "empty"))
    assert main([command, "drawings-quickstart", f"model={toy}", "--runs", str(tmp_path / "runs")]) == 2
    assert "the drawings are not installed" in (message := capsys.readouterr().err)
    assert "icl data drawings" in message
    assert not (tmp_path / "runs").exists()

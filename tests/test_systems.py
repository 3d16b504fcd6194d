"""Every published system of docs/systems.yaml runs on one query of the shipped model, and the page is up to date."""

import json
import shlex
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PILImage

import icl
from experiments.analyses.catalog import find_analysis
from experiments.cli.main import main
from experiments.config.yaml_document import to_flow_yaml
from experiments.results.view_run import view_run
from icl.registry import build
from tests.systems import PAGE, page, table

CONTENT = table()
RUNNING = [row for row in CONTENT["rows"] if "missing" not in row]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that rows name."""
    path = tmp_path_factory.mktemp("systems")
    for i in range(5):
        PILImage.new("RGB", (64, 64), (50 * i, 90, 200 - 40 * i)).save(path / f"{i}.png")
    line = {"image_name": "0.png", "label_name": "dax", "positive_list": ["1.png", "2.png"], "positive_promt": "dax",
            "negative_list": ["3.png", "4.png"], "negative_promt": "wug"}  # fmt: skip
    (path / "isekai.jsonl").write_text(json.dumps(line))
    (path / "captions.txt").write_text("a red star\na blue circle\ntwo green arches\n")
    questions = [{"id": f"q{i}", "type": "multiple-response", "question_info": "which?", "options": ["red", "blue"],
                  "answer": "AB", "images": [f"{i}.png"]} for i in range(5)]  # fmt: skip
    (path / "cmmu.jsonl").write_text("\n".join(map(json.dumps, questions)))
    task = build("task", {"name": "counting", "queries": 1, "pool_size": 12})
    examples = [*task.queries, *task.pool("").examples]
    answers = sorted({e.class_name for e in examples})
    shares = {e.id: {name: 0.6 if name == answers[0] else 0.1 for name in answers} for e in examples}
    (path / "predictions.json").write_text(json.dumps(shares))
    return path


def config_of(row: Any, folder: Path) -> Path:
    """The experiment file of a row."""
    keys = {**CONTENT["base"], **row.get("keys", {})}
    keys = {key: value for key, value in keys.items() if key not in keys.get("grid", {})}
    path = folder / "x.yaml"
    path.write_text("\n".join(f"{key}: {to_flow_yaml(value)}" for key, value in keys.items()))
    return path


@pytest.mark.parametrize("row", RUNNING, ids=lambda row: row["system"])
def test_a_system_runs_on_one_query(
    row: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if "tune" in row["keys"]:
        pytest.importorskip("peft", reason="the extra adapters is not installed")
    config = config_of(row, folder)
    if row["keys"]:
        run = icl.run(config, runs=tmp_path, quiet=True)
        samples = run.samples()
        assert len(samples) > 0
        assert samples["failed"].isna().all()
    if "analyze" in row:
        assert len(find_analysis(row["analyze"])(view_run(run))) > 0
    monkeypatch.chdir(tmp_path)
    for command in row.get("commands", ()):
        program, *words = shlex.split(command.replace("x.yaml", str(config)))
        if program == "python":
            import_module(words[1]).main([*words[2:], "--steps", "2"])
            assert len(capsys.readouterr().out.splitlines()) > 1
        else:
            assert main(words) == 0, capsys.readouterr().err


def test_the_page_is_made_from_the_table() -> None:
    assert len(CONTENT["rows"]) == 44
    assert PAGE.read_text(encoding="utf-8") == page(), "run `python tests/systems.py`"

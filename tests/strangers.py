"""A stranger's file of code, and a run directory that names it."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import icl
from experiments.cli.main import main

EVIL = "evil+1.py:Evil"
"""A component whose module writes a file when it is imported. The name has a character that few file names have."""
CODE = """
from pathlib import Path

Path("ran").touch()


class Evil:
    pass
"""
TASK_CODE = """
def question(doc):
    return "stolen"
"""
TASK = """
task: stolen
dataset_path: json
dataset_kwargs: {data_files: {test: rows.jsonl}}
test_split: test
output_type: generate_until
doc_to_visual: !function utils.question
doc_to_text: !function utils.question
doc_to_target: answer
metric_list:
- metric: f1
  aggregation: !function utils.question
  higher_is_better: true
"""


class Marker:
    """What the stranger's code leaves behind in the working directory."""

    count = 0  # of modules at the last call

    def ran(self) -> bool:
        """Whether the code ran since the last call. Its module is forgotten, so that it can run again."""
        names = list(sys.modules) if len(sys.modules) != self.count else []
        modules = [name for name in names if name.startswith("icl_user_") and name.endswith("evil+1")]
        for name in modules:
            del sys.modules[name]
        self.count = len(sys.modules)
        has_run = bool(modules) or Path("ran").exists()
        Path("ran").unlink(missing_ok=True)
        return has_run


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Marker]:
    """The working directory has the stranger's code, and a task of lmms-eval whose questions it gives."""
    monkeypatch.chdir(tmp_path)
    Path("utils.py").write_text(CODE + TASK_CODE)
    Path("task.yaml").write_text(TASK)
    Path("evil+1.py").write_text(CODE)
    yield (made := Marker())
    made.ran()


@pytest.fixture(scope="session")
def honest_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with a card, of components of the registry."""
    folder = tmp_path_factory.mktemp("honest")
    study = {
        "name": "honest",
        "task": {"name": "existence", "queries": 6, "pool_size": 6},
        "model": "fake-vote",
        "metrics": ["lenient"],
        "grid": {"shots": [0, 2], "retriever": ["random", "balanced"]},
    }
    icl.run(study, runs=folder, quiet=True)
    assert main(["report", str(folder / "honest"), "--as", "card"]) == 0
    return folder / "honest"


@pytest.fixture
def received(honest_run: Path, tmp_path: Path) -> Callable[..., Path]:
    """`received(metrics=[...])`: the run of somebody who has set these keys of its config."""
    import shutil

    def receive(**keys: Any) -> Path:
        folder = tmp_path / "received"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(honest_run, folder)
        content = json.loads((folder / "run.json").read_text())
        content["config"] |= keys
        content["folder"] = ".."
        (folder / "run.json").write_text(json.dumps(content))
        return folder

    return receive


def edit_json(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes a JSON file in place."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
